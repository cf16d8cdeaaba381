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
from backends.timing import helpers
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


def nothing(_lines: Any) -> None:
    pass


def arguments(*shapes: tuple[int, ...]) -> list[Any]:
    return [tvm.runtime.tensor(np.zeros(shape, np.float32)) for shape in shapes]


def test_weights_are_read_from_everywhere_in_turns() -> None:
    reader = Reader()
    assert lost_s(reader, arguments((1,), (64, 100), (7,), (1,)), POOL, nothing) >= 0
    firsts = {place[0] for place in reader.places}
    assert len(firsts) > 20
    assert max(firsts) - min(firsts) > POOL // 2


def test_weights_larger_than_those_of_the_network_are_read_too() -> None:
    shape = (2 * POOL,)
    seen = []
    lost_s(lambda *a: seen.append(a[1].shape), arguments((1,), shape, (1,)), POOL, nothing)
    assert {tuple(s) for s in seen} == {shape}


def test_everything_is_aligned() -> None:
    places = []

    def call(*operands: Any) -> None:
        places.extend(np.from_dlpack(operand).ctypes.data for operand in operands[:-1])

    lost_s(call, arguments((1,), (64, 100), (7,), (1,)), POOL, nothing)
    # The first call has the operands that TVM has allocated.
    assert all(place % ALIGNMENT == 0 for place in places[3:])


def test_the_input_is_written_before_calls_with_other_weights() -> None:
    filled: list[np.ndarray] = []
    calls: list[tuple[int, int]] = []

    def fill(lines: Any) -> None:
        filled.append(np.from_dlpack(lines))
        filled[-1][...] = len(filled)

    def call(x: Any, weight: Any, _y: Any) -> None:
        array = np.from_dlpack(x)
        assert array.shape == (3, 7)
        if len(calls) > 0:  # the first call has the arguments that were given
            assert (array == len(filled)).all()
        calls.append((np.from_dlpack(weight).ctypes.data, len(filled)))

    assert lost_s(call, arguments((3, 7), (5,), (1,)), POOL, fill) >= 0
    assert filled[0].shape == (2, LINE)
    pairs = list(itertools.pairwise(calls[1:]))
    moved = [now[1] - before[1] for before, now in pairs if now[0] != before[0]]
    stayed = [now[1] - before[1] for before, now in pairs if now[0] == before[0]]
    assert min(moved) >= 1
    assert min(stayed) == 0


def test_a_kernel_that_is_too_slow_loses_nothing() -> None:
    calls = []

    def call(*_: Any) -> None:
        calls.append(None)
        time.sleep(0.01)

    assert lost_s(call, arguments((1,), (5,), (1,)), POOL, nothing, most_s=0.1) == 0.0
    assert len(calls) == 1


def test_the_helper_writes_every_line() -> None:
    lines = tvm.runtime.tensor(np.zeros((1000, LINE), np.float32))
    helpers(TARGET).fill(lines)
    assert (lines.numpy() == 1).all()


def test_what_a_kernel_loses_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_job, "lost_s", lambda *_: 1.0)
    nest = default_schedule(LoopNest.fresh(ConvShape(1, 16, 16, (4, 4), (3, 3))), AVX512)
    options = MeasureOptions(repeats=2, min_repeat_ms=1)

    def times_s(weight_bytes: int, hopeless_s: float | None = None) -> tuple[float, ...]:
        asked = replace(options, weight_bytes=weight_bytes)
        outcome = run(KernelJob(nest, TARGET, asked, hopeless_s), lambda _stage: None)
        assert isinstance(outcome, Measured)
        return outcome.times_s

    assert max(times_s(0)) < 1.0
    assert min(times_s(POOL)) > 1.0
    assert max(times_s(POOL, hopeless_s=1e-9)) < 1.0


@pytest.mark.parametrize(("slow", "kept"), [([1.0], 3.0), ([1.3, 1.0], 5.0), ([1.3, 1.3], 3.0)])
def test_what_is_lost_on_a_disturbed_machine_is_measured_again(monkeypatch, slow, kept) -> None:
    lost, slowdowns = iter([3.0, 5.0]), iter(slow)
    monkeypatch.setattr(kernel_job, "lost_s", lambda *_: next(lost))
    beside = SimpleNamespace(fill=None, probe=SimpleNamespace(slowdown=lambda: next(slowdowns)))
    kernel = SimpleNamespace(module={"main": None})
    assert kernel_job._lost_s(kernel, [], POOL, beside, 1.0) == kept
    assert next(slowdowns, None) is None


def test_devices_with_other_weights_are_not_the_same() -> None:
    with CpuBackend(CpuOptions()) as hot, CpuBackend(CpuOptions(weights_mb=8)) as cold:
        assert hot.measure_options.weight_bytes == 0
        assert cold.measure_options.weight_bytes == 8 << 20
        assert hot.describe().fingerprint != cold.describe().fingerprint
