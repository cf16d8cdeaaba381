from __future__ import annotations

import math
import random

import pytest

from backends.gpus import gpu_features
from backends.lowering.geometry import statement_forms
from backends.lowering.gpu import cuda_source, schedule_space
from backends.lowering.gpu.plans import ranked_plans
from backends.tuning.gpu_features import gpu_schedule_features, plan_of
from backends.tuning.mutations import neighbour
from tests.backends.lowering.gpu.test_defaults import LAYERS
from tests.backends.lowering.kernels import after, conv, gene

GPU = gpu_features("sm_90")
SMALL = conv(16, 16, 8)


@pytest.mark.parametrize("name", LAYERS)
def test_the_outline_of_a_schedule_is_the_plan_it_was_written_from(name):
    nest = LAYERS[name]
    plans = ranked_plans(statement_forms(nest, padded_as_read=True)[0], GPU)
    for scheduled, plan in zip(schedule_space(nest, GPU), plans, strict=False):
        assert plan_of(statement_forms(scheduled, padded_as_read=True)[0]) == plan


@pytest.mark.parametrize("name", LAYERS)
def test_the_space_is_ordered_by_the_estimate(name):
    features = [gpu_schedule_features(nest, GPU) for nest in schedule_space(LAYERS[name], GPU)]
    assert None not in features
    assert len({len(f) for f in features}) == 1
    assert all(math.isfinite(number) for f in features for number in f)
    estimates = [f[0] for f in features]
    assert estimates == sorted(estimates)


def test_statements_add_up():
    halves = after(SMALL, gene("split_domain", loop="co", parts=2))
    one = gpu_schedule_features(schedule_space(halves, GPU)[0], GPU)
    (first,) = schedule_space(conv(16, 8, 8), GPU)[:1]
    assert one[0] == pytest.approx(1 + gpu_schedule_features(first, GPU)[0])


@pytest.mark.parametrize(
    "genes",
    [
        [],
        [gene("parallel", loop="n")],
        [gene("bind", loop="co", axis="vthread.x")],
        [gene("bind", loop="co", axis="blockIdx.x")],
    ],
    ids=["nothing bound", "a gene for a CPU", "16 virtual threads", "no accumulator"],
)
def test_what_is_not_worth_measuring_has_none(genes):
    assert gpu_schedule_features(after(SMALL, *genes), GPU) is None


def test_neighbours_with_features_keep_the_limits():
    rng, kept = random.Random(0), 0
    space = schedule_space(SMALL, GPU)
    for _ in range(40):
        near = neighbour(rng.choice(space), rng)
        if near is not None and gpu_schedule_features(near, GPU) is not None:
            kept += 1
            assert "__global__" in cuda_source(near, GPU)
    assert kept >= 10
