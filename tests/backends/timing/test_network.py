"""Kernels that find their operands as in a network: new each time, and never misaligned."""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tvm

from backends import kernel_job
from backends.base import Losses, Measured, MeasureOptions
from backends.cpu import CpuBackend, CpuOptions
from backends.devices import host
from backends.kernel_job import KernelJob, run
from backends.lowering import default_schedule
from backends.timing import Look, helpers
from backends.timing.network import ALIGNMENT, LINE, losing, losing_takes_s
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


def lost_s(call: Any, given: list[Any], fill: Any = nothing, once_s: float = 1e-5) -> float:
    """The middle of five measurements."""
    measured = losing(call, given, POOL, fill, once_s)
    return statistics.median(measured() for _ in range(5))


def test_weights_are_read_from_everywhere_in_turns() -> None:
    reader = Reader()
    lost_s(reader, arguments((1,), (64, 100), (7,), (1,)))
    firsts = {place[0] for place in reader.places}
    assert len(firsts) > 20
    assert max(firsts) - min(firsts) > POOL // 2


def test_weights_larger_than_those_of_the_network_are_read_too() -> None:
    shape = (2 * POOL,)
    seen = []
    lost_s(lambda *a: seen.append(a[1].shape), arguments((1,), shape, (1,)), once_s=1e-4)
    assert {tuple(s) for s in seen} == {shape}


@pytest.mark.parametrize(("share", "parts"), [(0.3, 3), (0.38, 3), (0.45, 2), (0.6, 2), (0.7, 1)])
def test_as_many_large_tensors_are_read_in_turns_as_make_the_network(share, parts) -> None:
    places = set()

    def call(_x: Any, weight: Any, _y: Any) -> None:
        places.add(np.from_dlpack(weight).ctypes.data)

    lost_s(call, arguments((1,), (int(share * POOL / 4),), (1,)))
    assert len(places) == parts


@pytest.mark.parametrize(
    ("mb", "shape"), [(1, (185, 9)), (4, (2049, 1)), (1, (169, 25)), (2, (1835, 3))]
)
def test_tensors_of_any_size_fit_in_turns(mb, shape) -> None:
    """Of odd sizes, half of one beyond the pool is a little more."""
    seen = set()

    def call(_x: Any, weight: Any, bias: Any, _y: Any) -> None:
        seen.add((tuple(weight.shape), tuple(bias.shape)))

    given = arguments((1,), shape, shape[:1], (1,))
    measured = losing(call, given, mb << 20, nothing, 1e-5)
    for _ in range(20):
        measured()
    assert seen == {(shape, shape[:1])}


def test_everything_is_aligned() -> None:
    places = []

    def call(*operands: Any) -> None:
        places.extend(np.from_dlpack(operand).ctypes.data for operand in operands[:-1])

    lost_s(call, arguments((1,), (64, 100), (7,), (1,)))
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

    lost_s(call, arguments((3, 7), (5,), (1,)), fill)
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
    lost = lost_s(call, arguments((3, 7), (64,), (1,)), fill)
    assert lost == pytest.approx(new_weight_s + new_input_s, rel=1e-3, abs=1e-9)


def test_a_kernel_that_is_too_slow_loses_nothing() -> None:
    calls: list[None] = []
    kernel: Any = SimpleNamespace(module={"main": lambda *_: calls.append(None)})
    options = MeasureOptions(run_timeout_s=8 * losing_takes_s(0.01), weight_bytes=POOL)
    assert kernel_job._losses(kernel, [], options, calm_helpers(), 0.02) == (Losses(), True)
    assert not calls


def test_the_helper_writes_every_line() -> None:
    lines = tvm.runtime.tensor(np.zeros((1000, LINE), np.float32))
    helpers(TARGET).fill(lines)
    assert (lines.numpy() == 1).all()


def test_what_a_kernel_loses_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_job, "losing", lambda *_: lambda: 1.0)
    monkeypatch.setattr(kernel_job, "helpers", lambda _target: calm_helpers())
    nest = default_schedule(LoopNest.fresh(ConvShape(1, 16, 16, (4, 4), (3, 3))), AVX512)
    options = MeasureOptions(repeats=2, min_repeat_ms=1)

    def measured(weight_bytes: int, hopeless_s: float | None = None) -> Measured:
        asked = replace(options, weight_bytes=weight_bytes)
        job = KernelJob(nest, TARGET, asked, hopeless_s, lost=Losses(2.0, 2.0))
        outcome = run(job, lambda _stage: None)
        assert isinstance(outcome, Measured)
        assert 0 < min(outcome.times_s) - outcome.lost.far_s < 1.0
        return outcome

    assert measured(0).lost == Losses()
    assert measured(POOL).lost == pytest.approx(Losses(1.0, 1.0))
    assert measured(0).weight_bytes == 0
    assert measured(POOL).weight_bytes == 4 * (16 * 16 * 9 + 16)
    # One that is given up is taken to lose what others of its workload do.
    assert measured(POOL, hopeless_s=1e-9).lost == Losses(2.0, 2.0)
    assert measured(POOL, hopeless_s=1.0).lost == pytest.approx(Losses(1.0, 1.0))


def test_losses_are_measured_near_and_far(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def losing_more(_call: Any, _arguments: Any, weight_bytes: int, *_: Any) -> Any:
        asked.append(weight_bytes)
        return lambda: weight_bytes / POOL

    monkeypatch.setattr(kernel_job, "losing", losing_more)
    kernel: Any = SimpleNamespace(module={"main": None})

    def losses(weights: int, cached: int) -> tuple[Losses, bool]:
        options = MeasureOptions(weight_bytes=weights * POOL, cached_bytes=cached * POOL)
        return kernel_job._losses(kernel, [], options, calm_helpers(), 1e-5)

    assert losses(44, 16) == (pytest.approx(Losses(far_s=44.0, near_s=16.0)), True)
    assert losses(8, 16) == (pytest.approx(Losses(far_s=8.0, near_s=8.0)), True)
    assert asked == [44 * POOL, 16 * POOL, 8 * POOL]


def test_what_is_lost_by_chance_is_not_less_than_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_job, "losing", lambda *_: lambda: -1e-6)
    kernel: Any = SimpleNamespace(module={"main": None})
    options = MeasureOptions(weight_bytes=POOL)
    assert kernel_job._losses(kernel, [], options, calm_helpers(), 1e-5) == (Losses(), True)


@pytest.mark.parametrize(
    ("slow", "calm"),
    [([1.0], True), ([3.0, 1.0], True), ([1.0, 1.0, 3.0, 1.0], True), ([3.0], False)],
)
def test_what_is_lost_on_a_disturbed_machine_is_measured_again(monkeypatch, slow, calm) -> None:
    """One core for two, which all that is lost grows by, until the machine is calm again."""
    looks = itertools.chain(slow, itertools.repeat(slow[-1]))
    now = 1.0

    def look() -> Look:
        nonlocal now
        now = next(looks)
        return Look(now, now)

    monkeypatch.setattr(kernel_job, "losing", lambda *_: lambda: 5e-6 * now)
    beside: Any = SimpleNamespace(fill=None, probe=SimpleNamespace(look=look))
    kernel: Any = SimpleNamespace(module={"main": None})
    lost, undisturbed = kernel_job._losses(
        kernel, [], MeasureOptions(weight_bytes=POOL), beside, 1e-5
    )
    assert undisturbed == calm
    assert lost.far_s == pytest.approx(5e-6 if calm else 15e-6)


def test_devices_with_other_weights_are_not_the_same() -> None:
    with CpuBackend(CpuOptions()) as hot, CpuBackend(CpuOptions(weights_mb=8)) as cold:
        assert hot.measure_options.weight_bytes == 0
        assert cold.measure_options.weight_bytes == 8 << 20
        assert cold.measure_options.cached_bytes == max(host().caches.values(), default=0) // 2
        assert hot.describe().fingerprint != cold.describe().fingerprint
