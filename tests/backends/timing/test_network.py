"""Kernels that find their operands as in a network: new each time, and never misaligned."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tvm

from backends import kernel_job
from backends.base import Measured, MeasureOptions
from backends.cpu import CpuBackend, CpuOptions
from backends.kernel_job import KernelJob, run
from backends.lowering import default_schedule
from backends.timing import Look, helpers
from backends.timing.network import ALIGNMENT, LINE, lost_s
from genomes.nest import ConvShape, LoopNest
from tests.backends.lowering.kernels import AVX512, TARGET

POOL = 1 << 20


class Reader:
    """A kernel that notes where its weights are."""

    def __init__(self) -> None:
        self.places: list[tuple[int, ...]] = []

    def __call__(self, *arguments: Any) -> None:
        weights = [np.from_dlpack(a) for a in arguments[1:-1]]
        self.places.append(tuple(w.ctypes.data for w in weights))
        assert [w.shape for w in weights] == [(64, 100), (7,)]


def calm_helpers() -> Any:
    """Of a machine that nothing disturbs."""
    return SimpleNamespace(fill=nothing, probe=SimpleNamespace(look=lambda: Look(1.0, 1.0)))


def nothing(_lines: Any) -> None:
    pass


def arguments(*shapes: tuple[int, ...]) -> list[Any]:
    return [tvm.runtime.tensor(np.zeros(shape, np.float32)) for shape in shapes]


def test_weights_are_read_from_everywhere_in_turns() -> None:
    reader = Reader()
    lost_s(reader, arguments((1,), (64, 100), (7,), (1,)), POOL, nothing, 1e-5)
    firsts = {place[0] for place in reader.places}
    assert len(firsts) > 20
    assert max(firsts) - min(firsts) > POOL // 2


def test_weights_larger_than_those_of_the_network_are_read_too() -> None:
    shape = (2 * POOL,)
    seen = []
    lost_s(lambda *a: seen.append(a[1].shape), arguments((1,), shape, (1,)), POOL, nothing, 1e-4)
    assert {tuple(s) for s in seen} == {shape}


def test_everything_is_aligned() -> None:
    places = []

    def call(*operands: Any) -> None:
        places.extend(np.from_dlpack(operand).ctypes.data for operand in operands[:-1])

    lost_s(call, arguments((1,), (64, 100), (7,), (1,)), POOL, nothing, 1e-5)
    assert all(place % ALIGNMENT == 0 for place in places)


def test_the_input_is_written_before_calls_with_other_weights() -> None:
    filled: list[np.ndarray] = []
    calls: list[tuple[int, int]] = []

    def fill(lines: Any) -> None:
        filled.append(np.from_dlpack(lines))
        filled[-1][...] = len(filled)

    def call(x: Any, weight: Any, _y: Any) -> None:
        array = np.from_dlpack(x)
        assert array.shape == (3, 7)
        assert (array == len(filled)).all()
        calls.append((np.from_dlpack(weight).ctypes.data, len(filled)))

    lost_s(call, arguments((3, 7), (5,), (1,)), POOL, fill, 1e-5)
    assert filled[0].shape == (2, LINE)
    pairs = list(itertools.pairwise(calls))
    moved = [now[1] - before[1] for before, now in pairs if now[0] != before[0]]
    stayed = [now[1] - before[1] for before, now in pairs if now[0] == before[0]]
    assert min(moved) >= 1
    assert min(stayed) == 0


@pytest.mark.parametrize(("new_weight_s", "new_input_s"), [(3e-6, 4e-6), (0.0, 0.0), (5e-6, 0.0)])
def test_what_is_lost_is_what_new_operands_cost(monkeypatch, new_weight_s, new_input_s) -> None:
    now_s, before = 0.0, (0, 0)
    written = 0

    def fill(_lines: Any) -> None:
        nonlocal now_s, written
        now_s, written = now_s + 7e-6, written + 1

    def call(_x: Any, weight: Any, _y: Any) -> None:
        nonlocal now_s, before
        place = np.from_dlpack(weight).ctypes.data
        now_s += 1e-5 + (place != before[0]) * new_weight_s + (written != before[1]) * new_input_s
        before = (place, written)

    monkeypatch.setattr(time, "perf_counter", lambda: now_s)
    lost = lost_s(call, arguments((3, 7), (64,), (1,)), POOL, fill, 1e-5)
    assert lost == pytest.approx(new_weight_s + new_input_s, rel=1e-3, abs=1e-9)


def test_a_kernel_that_is_too_slow_loses_nothing() -> None:
    calls: list[None] = []

    def call(*_: Any) -> None:
        calls.append(None)

    assert lost_s(call, arguments((1,), (5,), (1,)), POOL, nothing, 0.01, most_s=0.1) == 0.0
    assert not calls


def test_the_helper_writes_every_line() -> None:
    lines = tvm.runtime.tensor(np.zeros((1000, LINE), np.float32))
    helpers(TARGET).fill(lines)
    assert (lines.numpy() == 1).all()


def test_what_a_kernel_loses_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_job, "lost_s", lambda *_: 1.0)
    monkeypatch.setattr(kernel_job, "helpers", lambda _target: calm_helpers())
    nest = default_schedule(LoopNest.fresh(ConvShape(1, 16, 16, (4, 4), (3, 3))), AVX512)
    options = MeasureOptions(repeats=2, min_repeat_ms=1)

    def measured(weight_bytes: int, hopeless_s: float | None = None) -> Measured:
        asked = replace(options, weight_bytes=weight_bytes)
        job = KernelJob(nest, TARGET, asked, hopeless_s, lost_s=2.0)
        outcome = run(job, lambda _stage: None)
        assert isinstance(outcome, Measured)
        assert 0 < min(outcome.times_s) - outcome.lost_s < 1.0
        return outcome

    assert measured(0).lost_s == 0.0
    assert measured(POOL).lost_s == 1.0
    # One that is given up is taken to lose what others of its workload do.
    assert measured(POOL, hopeless_s=1e-9).lost_s == 2.0
    assert measured(POOL, hopeless_s=1.0).lost_s == 1.0


@pytest.mark.parametrize(("slow", "kept"), [([1.0], 3.0), ([1.3, 1.0], 5.0), ([1.3, 1.3], 3.0)])
def test_what_is_lost_on_a_disturbed_machine_is_measured_again(monkeypatch, slow, kept) -> None:
    lost, looks = iter([3.0, 5.0]), iter([Look(now, 1.0) for now in slow])
    monkeypatch.setattr(kernel_job, "lost_s", lambda *_: next(lost))
    beside = SimpleNamespace(fill=None, probe=SimpleNamespace(look=lambda: next(looks)))
    kernel = SimpleNamespace(module={"main": None})
    assert kernel_job._lost_s(kernel, [], POOL, beside, 1e-5, 1.0) == kept
    assert next(looks, None) is None


def test_devices_with_other_weights_are_not_the_same() -> None:
    with CpuBackend(CpuOptions()) as hot, CpuBackend(CpuOptions(weights_mb=8)) as cold:
        assert hot.measure_options.weight_bytes == 0
        assert cold.measure_options.weight_bytes == 8 << 20
        assert hot.describe().fingerprint != cold.describe().fingerprint
