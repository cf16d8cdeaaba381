"""From kernels to whole networks: two measured networks tell how."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Failed, FailureKind
from engine.latency import SMALL, LatencyModel, measured_model
from engine.network import NetworkTimes
from engine.problem import open_problem
from genomes.genome import Genome
from tests.engine.toys import experiment


@given(st.floats(0.81, 1.49), st.floats(0.0, 1e-3), st.floats(1e-4, 1e-2), st.floats(0.05, 0.7))
def test_two_networks_tell_scale_and_rest(scale, rest_s, kernels_s, share) -> None:
    true = LatencyModel(scale, rest_s)
    small_s = share * kernels_s
    found = LatencyModel.through(
        (kernels_s, true.latency_s(kernels_s)), (small_s, true.latency_s(small_s))
    )
    # A rest of less than rounding errors may turn out as none.
    assert found.scale == pytest.approx(scale, rel=1e-6)
    assert found.rest_s == pytest.approx(rest_s, abs=1e-8)


@pytest.mark.parametrize(
    ("small", "expected"),
    [
        (None, LatencyModel(1.0, 0.2)),
        # Too near, a scale that cannot be, and a rest below zero.
        ((0.8, 1.0), LatencyModel(1.0, 0.2)),
        ((0.1, 1.1), LatencyModel(1.0, 0.2)),
        ((0.5, 0.55), LatencyModel(1.2, 0.0)),
    ],
)
def test_what_cannot_be_is_not_believed(small, expected) -> None:
    found = LatencyModel.through((1.0, 1.2), small)
    assert (found.scale, found.rest_s) == pytest.approx((expected.scale, expected.rest_s))


def test_a_whole_faster_than_its_kernels_has_no_rest() -> None:
    assert LatencyModel.through((1.0, 0.9), None) == LatencyModel(1.0, 0.0)


def test_plain_data_and_back() -> None:
    model = LatencyModel(1.1, 2e-5)
    assert LatencyModel.from_json(model.to_json()) == model


class Networks:
    """Whole networks as a device might measure them."""

    def __init__(self, problem, failing=()) -> None:
        self.problem = problem
        self.failing = failing
        self.asked = {}

    def __call__(self, variants):
        self.asked = dict(variants)
        return {name: self._answer(name, variant) for name, variant in variants.items()}

    def _answer(self, name, variant):
        if name in self.failing:
            return Failed(FailureKind.CRASHED, "SIGSEGV")
        kernels_s = sum(self.problem.site_latencies_s(variant.genome))
        return NetworkTimes((1.25 * kernels_s + 1e-3,), 0.0)


@pytest.mark.usefixtures("cheap_metric")
@pytest.mark.parametrize(
    ("failing", "check"),
    [
        ((), lambda m: m.scale == pytest.approx(1.25) and m.rest_s == pytest.approx(1e-3)),
        ((SMALL,), lambda m: m.scale == 1.0 and m.rest_s > 1e-3),
        (("original", SMALL), lambda m: m == LatencyModel()),
    ],
)
def test_the_original_and_a_small_network_are_measured(tmp_path, failing, check, caplog) -> None:
    with open_problem(experiment(tmp_path)) as problem:
        networks = problem.measure_end_to_end = Networks(problem, failing)
        assert check(measured_model(problem))
        assert networks.asked["original"].genome == Genome()
        assert len(networks.asked[SMALL].genome.sites) > 0
    assert ("could not be measured end to end (crashed: SIGSEGV)" in caplog.text) == (
        "original" in failing
    )


@pytest.mark.usefixtures("cheap_metric")
@pytest.mark.parametrize(("patience", "asked"), [(5, 3), (1, 2), (0, 1)])
def test_a_device_is_waited_for_while_there_is_time(tmp_path, patience, asked, caplog) -> None:
    with open_problem(experiment(tmp_path)) as problem:
        networks, calls, left = Networks(problem, ()), itertools.count(1), iter(range(patience))

        def measure(variants):
            if next(calls) < 3:
                return dict.fromkeys(variants, Failed(FailureKind.QUEUE_TIMEOUT, "none is free"))
            return networks(variants)

        problem.measure_end_to_end = measure
        model = measured_model(problem, lambda: next(left, None) is not None)
    assert (model == LatencyModel()) == (patience < 2)
    assert next(calls) == asked + 1
    assert caplog.text.count("the search waits for a device to run") == asked - 1


@pytest.mark.usefixtures("cheap_metric")
def test_without_whole_networks_kernels_are_added_up(tmp_path) -> None:
    with open_problem(experiment(tmp_path)) as problem:
        assert measured_model(problem) == LatencyModel()
