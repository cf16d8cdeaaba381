from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from backends.base import Failed, FailureKind, Losses, Measured, MeasureOptions
from backends.store import MeasurementStore, StoreError
from backends.store_rows import Place
from backends.timing.probe import IMPATIENT
from genomes.nest import ConvShape
from tests.backends.samples import fresh, scheduled

HERE = Place("llvm", "device-a", "0.27")
THERE = Place("llvm", "device-b", "0.27")
OPTIONS = MeasureOptions()
TIMES = Measured((1e-3, 2e-3, 4e-3), {"build": 0.1}, Losses(2e-4, 1e-5), 4000)


@pytest.fixture
def store(tmp_path):
    with MeasurementStore(tmp_path / "folder" / "store.db") as store:
        yield store


def test_what_is_put_comes_back(store):
    nest = scheduled(fresh(), 2)
    assert store.get(nest, HERE, OPTIONS) is None
    store.put(nest, TIMES, HERE, OPTIONS, "run-1")
    assert store.get(nest, HERE, OPTIONS) == TIMES
    assert store.get(scheduled(fresh(), 4), HERE, OPTIONS) is None
    assert store.get(nest, THERE, OPTIONS) is None
    assert store.get(nest, replace(HERE, target="cuda"), OPTIONS) is None
    assert store.count() == 1


def test_a_new_outcome_replaces_the_old(store):
    nest = fresh()
    store.put(nest, Failed(FailureKind.RUN_TIMEOUT, "too slow"), HERE, OPTIONS)
    store.put(nest, TIMES, HERE, OPTIONS)
    assert store.get(nest, HERE, OPTIONS) == TIMES
    assert store.count() == 1


@pytest.mark.parametrize("kind", list(FailureKind))
def test_failures_are_remembered_when_the_candidate_is_to_blame(store, kind):
    failure = Failed(kind, "what happened", {"build": 1.0})
    store.put(fresh(), failure, HERE, OPTIONS)
    known = store.get(fresh(), HERE, OPTIONS)
    assert known == (failure if kind.charged_to_candidate else None)


@pytest.mark.parametrize(
    ("outcome", "asked", "stands"),
    [
        (TIMES, {"repeats": 3}, True),
        (TIMES, {"repeats": 50}, False),
        (TIMES, {"min_repeat_ms": 50.0}, False),
        (TIMES, {"rtol": 1e-6}, False),
        (TIMES, {"atol": 1e-9}, False),
        (TIMES, {"build_timeout_s": 99.0, "run_timeout_s": 1.0}, True),
        (FailureKind.BUILD_TIMEOUT, {"build_timeout_s": 99.0}, False),
        (FailureKind.BUILD_TIMEOUT, {"build_timeout_s": 9.0, "repeats": 50}, True),
        (FailureKind.RUN_TIMEOUT, {"run_timeout_s": 99.0}, False),
        (FailureKind.RUN_TIMEOUT, {"build_timeout_s": 99.0}, True),
        (FailureKind.WRONG_RESULT, {"rtol": 1e-2}, False),
        (FailureKind.WRONG_RESULT, {"rtol": 1e-6}, True),
        (FailureKind.BUILD_ERROR, {"build_timeout_s": 99.0, "rtol": 1.0}, True),
    ],
)
def test_a_row_answers_requests_that_are_no_more_demanding(store, outcome, asked, stands):
    if isinstance(outcome, FailureKind):
        outcome = Failed(outcome, "why")
    store.put(fresh(), outcome, HERE, OPTIONS)
    known = store.get(fresh(), HERE, replace(OPTIONS, **asked))
    assert known == (outcome if stands else None)


@pytest.mark.parametrize(
    "worse", [replace(TIMES, disturbed=True), Failed(FailureKind.RUN_TIMEOUT, "too slow")]
)
def test_what_a_busy_machine_says_replaces_no_times(store, worse, monkeypatch):
    monkeypatch.delenv(IMPATIENT, raising=False)
    store.put(fresh(), TIMES, HERE, OPTIONS)
    store.put(fresh(), worse, HERE, replace(OPTIONS, repeats=9))
    assert store.get(fresh(), HERE, OPTIONS) == TIMES
    store.put(fresh(), worse, THERE, OPTIONS)
    assert store.count() == 2


def test_times_of_a_busy_machine_answer_the_impatient_only(store, monkeypatch):
    monkeypatch.delenv(IMPATIENT, raising=False)
    store.put(fresh(), replace(TIMES, disturbed=True), HERE, OPTIONS)
    assert store.get(fresh(), HERE, OPTIONS) is None
    monkeypatch.setenv(IMPATIENT, "1")
    assert store.get(fresh(), HERE, OPTIONS) == TIMES
    assert store.get(fresh(), HERE, replace(OPTIONS, rtol=OPTIONS.rtol / 10)) is None
    monkeypatch.delenv(IMPATIENT)
    store.put(fresh(), TIMES, HERE, OPTIONS)
    assert store.get(fresh(), HERE, OPTIONS) == TIMES


def test_rows_hold_all_that_a_model_needs(store):
    nest = scheduled(fresh(bias=True, padding_mode="reflect"), 2, 4)
    store.put(nest, TIMES, HERE, OPTIONS, "run-7")
    (row,) = store.rows()
    assert ConvShape.from_json(row.shape) == nest.shape
    assert len(row.statements) == len(nest.statements)
    assert row.genes == tuple(s.schedule_genes for s in nest.statements)
    assert (row.structure_key, row.nest_key) == (nest.structure_key, nest.key)
    assert (row.place, row.outcome, row.run_id) == (HERE, TIMES, "run-7")
    assert abs(row.created - time.time()) < 60


def test_capacity_scores(store):
    assert store.get_capacity("a") is None
    store.put_capacity("a", 1.5, {"sites": [1, 2]})
    store.put_capacity("b", 2.5)
    store.put_capacity("a", 0.5, {"sites": []})
    assert store.get_capacity("a") == (0.5, {"sites": []})
    assert store.get_capacity("b") == (2.5, {})


def test_a_closed_store_opens_again(tmp_path):
    path = tmp_path / "store.db"
    with MeasurementStore(path) as store:
        store.put(fresh(), TIMES, HERE, OPTIONS)
    with MeasurementStore(path) as store:
        assert store.get(fresh(), HERE, OPTIONS) == TIMES


def test_bulk_gets_are_fast(store):
    nests = [scheduled(fresh(), number) for number in range(2000)]
    store.put_many([(nest, TIMES) for nest in nests], HERE, OPTIONS)
    began = time.perf_counter()
    known = store.get_many(nests, HERE, OPTIONS)
    each_s = (time.perf_counter() - began) / len(nests)
    assert set(known) == {nest.key for nest in nests}
    assert each_s < 0.2e-3


def fill_with_text(path):
    path.write_text("this is no database\n" * 100)


def make_foreign_database(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE runs (id)")
    connection.close()


def make_newer(path):
    MeasurementStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def make_format_1(path):
    MeasurementStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute("ALTER TABLE measurement DROP COLUMN network")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()


def test_a_store_of_format_1_is_read_and_goes_on(tmp_path):
    path = tmp_path / "store.db"
    with MeasurementStore(path) as store:
        store.put(fresh(), TIMES, HERE, OPTIONS)
    make_format_1(path)
    with MeasurementStore(path) as store:
        assert store.get(fresh(), HERE, OPTIONS) == replace(TIMES, lost=Losses(), weight_bytes=0)
        store.put(scheduled(fresh(), 2), TIMES, HERE, OPTIONS)
    with MeasurementStore(path) as store:
        assert [row.outcome.lost for row in store.rows()] == [Losses(), TIMES.lost]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (fill_with_text, "file is not a database.*Move the file away"),
        (make_foreign_database, "database of another program"),
        (make_newer, "has format 99, written by a newer LoopGene"),
        (Path.mkdir, "unable to open database file"),
    ],
)
def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path, damage, message):
    path = tmp_path / "store.db"
    damage(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StoreError, match=message) as caught:
        MeasurementStore(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_damage_inside_the_file_is_reported(tmp_path):
    path = tmp_path / "store.db"
    with MeasurementStore(path) as store:
        results = [(scheduled(fresh(), n), TIMES) for n in range(200)]
        store.put_many(results, HERE, OPTIONS)
    content = bytearray(path.read_bytes())
    content[4096 * 3 :] = b"\xff" * (len(content) - 4096 * 3)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="malformed"), MeasurementStore(path) as store:
        list(store.rows())
    assert path.exists()


def test_a_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"Not a directory|File exists"):
        MeasurementStore(tmp_path / "file" / "store.db")


WRITER = """
    import sys
    from backends.store import MeasurementStore
    from tests.backends.samples import fresh, scheduled
    from tests.backends.test_store import HERE, OPTIONS, TIMES
    with MeasurementStore(sys.argv[1]) as store:
        for number in range(int(sys.argv[2]), int(sys.argv[3])):
            store.put(scheduled(fresh(), number), TIMES, HERE, OPTIONS)
            print(number, flush=True)
"""


def start_writer(path, first, last):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(path), str(first), str(last)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )


@pytest.mark.parametrize("begin", [None, make_format_1], ids=["new", "format 1"])
def test_several_processes_may_create_and_fill_one_store(tmp_path, begin):
    path = tmp_path / "store.db"
    if begin is not None:
        begin(path)
    writers = [start_writer(path, n * 50, n * 50 + 50) for n in range(4)]
    for writer in writers:
        writer.communicate(timeout=60)
    assert [writer.returncode for writer in writers] == [0] * 4
    with MeasurementStore(path) as store:
        assert store.count() == 200


def test_a_killed_writer_loses_nothing_that_was_put(tmp_path):
    path = tmp_path / "store.db"
    with start_writer(path, 0, 1_000_000) as writer:
        numbers = [int(writer.stdout.readline()) for _ in range(20)]
        os.kill(writer.pid, signal.SIGKILL)
        numbers += [int(line) for line in writer.stdout.read().split()[:-1]]
    with MeasurementStore(path) as store:
        assert store.count() >= len(numbers)
        assert store.get(scheduled(fresh(), numbers[-1]), HERE, OPTIONS) == TIMES
