from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from backends.base import Failed, FailureKind, Losses, Measured, MeasureOptions, Outcome
from backends.store import MeasurementStore
from backends.stored import StoredBackend
from backends.timing.probe import IMPATIENT
from engine.kernels import TRIES, Kernels
from engine.stages import Stages
from genomes.nest import LoopNest
from tests.backends.samples import fresh, scheduled
from tests.backends.test_stored import CountingBackend

LOST = Failed(FailureKind.DEVICE_LOST, "gone")


def busy(seconds: float) -> Measured:
    return Measured((seconds,) * 3, disturbed=True)


def calm(seconds: float) -> Measured:
    return Measured((seconds,) * 3)


class Scripted(CountingBackend):
    """Gives the outcomes of each kernel in turn, the last one again and again."""

    def __init__(self, **outcomes: Sequence[Outcome]) -> None:
        super().__init__()
        self.nests = {name: scheduled(fresh(), n) for n, name in enumerate(outcomes, 1)}
        self._outcomes = {self.nests[name].key: list(given) for name, given in outcomes.items()}

    def measure_iter(self, nests: Sequence[LoopNest]) -> Iterator[Outcome]:
        for nest in nests:
            self.asked.append(nest)
            given = self._outcomes[nest.key]
            yield given.pop(0) if len(given) > 1 else given[0]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(IMPATIENT, raising=False)


def known(tmp_path, backend: Scripted) -> tuple[dict[str, Outcome], list[str]]:
    """The outcomes of all kernels, and what was asked for."""
    names = {nest.key: name for name, nest in backend.nests.items()}
    with MeasurementStore(tmp_path / "store.db") as store:
        kernels = Kernels(StoredBackend(backend, store), 2, Stages())
        kernels.measure(backend.nests.values(), lambda: None)
        found = {name: kernels.best(nest) for name, nest in backend.nests.items()}
    return found, [names[nest.key] for nest in backend.asked]


def test_what_was_disturbed_is_timed_again_at_the_end_of_the_batch(tmp_path) -> None:
    backend = Scripted(a=[busy(3.0), calm(2.0)], b=[calm(1.0)], c=[busy(1.0), calm(4.0)])
    found, asked = known(tmp_path, backend)
    assert {name: o.median_s for name, o in found.items()} == {"a": 2.0, "b": 1.0, "c": 4.0}
    assert asked == ["a", "b", "c", "a", "c"]


def test_kernels_are_charged_by_the_weights_of_their_network(tmp_path) -> None:
    backend = CountingBackend()
    backend.measure_options = MeasureOptions(weight_bytes=4000, cached_bytes=2000)

    def reading(weight_bytes: int) -> Measured:
        return Measured((5.0,), lost=Losses(far_s=3.0, near_s=1.0), weight_bytes=weight_bytes)

    with MeasurementStore(tmp_path / "store.db") as store:
        kernels = Kernels(StoredBackend(backend, store), 2, Stages())
        assert kernels.together([reading(500), reading(1500)]) == [3.0, 3.0]
        assert kernels.together([reading(3000)]) == [4.0]
        assert kernels.together([reading(1000)] * 4) == [5.0] * 4


def test_a_machine_that_stays_busy_is_not_asked_for_ever(tmp_path) -> None:
    backend = Scripted(a=[busy(3.0), busy(2.0), busy(4.0)], b=[calm(1.0)])
    found, asked = known(tmp_path, backend)
    assert found["a"] == busy(2.0)
    assert asked == ["a", "b", *["a"] * (TRIES - 1)]


def test_a_device_that_is_lost_meanwhile_costs_nothing_that_is_known(tmp_path) -> None:
    found, _ = known(tmp_path, Scripted(a=[busy(3.0), LOST, LOST], b=[LOST]))
    assert found == {"a": busy(3.0), "b": LOST}


def test_a_time_out_on_a_busy_machine_takes_no_time_away(tmp_path) -> None:
    slow, wrong = Failed(FailureKind.RUN_TIMEOUT, ""), Failed(FailureKind.WRONG_RESULT, "")
    found, _ = known(tmp_path, Scripted(a=[busy(3.0), slow], b=[busy(1.0), wrong]))
    assert found == {"a": busy(3.0), "b": wrong}


def test_who_does_not_wait_takes_disturbed_times(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(IMPATIENT, "1")
    found, asked = known(tmp_path, Scripted(a=[busy(3.0), calm(2.0)]))
    assert found["a"].median_s == 3.0
    assert asked == ["a"]
