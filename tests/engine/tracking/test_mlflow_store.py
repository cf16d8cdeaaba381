from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from engine.tracking import mlflow_store
from engine.tracking.mlflow_store import TrackingError, check_file, open_store, quiet_mlflow

OPEN_NEW = """
import shutil, sys, time
from pathlib import Path
from engine.tracking import mlflow_store

def slowly_copied(file, artifacts):
    print("made by", sys.argv[3], file=sys.stderr)
    time.sleep(1)
    shutil.copy(sys.argv[2], file)

mlflow_store.create_sqlite = slowly_copied
import mlflow.store.tracking.sqlalchemy_store
ready = Path(sys.argv[1]).parent / f"{sys.argv[3]}.ready"
ready.touch()
while len(list(ready.parent.glob("*.ready"))) < 2:
    time.sleep(0.01)
store = mlflow_store.open_store(None, "loopgene", Path(sys.argv[1]))
store.check()
print(store.client.create_run(store.experiment_id).info.run_id)
"""


def make_read_only(file: Path) -> None:
    """Give a database a format that SQLite only reads: permissions do not bind root."""
    data = bytearray(file.read_bytes())
    data[18] = 3
    file.write_bytes(data)


def test_processes_that_open_a_new_store_at_once_share_it(template: Path, tmp_path: Path):
    command = [sys.executable, "-c", OPEN_NEW, str(tmp_path / "home"), str(template)]
    processes = [
        subprocess.Popen(
            [*command, name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for name in ("first", "second")
    ]
    results = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    store = open_store(None, "loopgene", tmp_path / "home")
    runs = store.client.search_runs([store.experiment_id])
    assert {run.info.run_id for run in runs} == {out.strip() for out, _ in results}
    assert sum("made by" in err for _, err in results) == 1


def test_mlflow_and_its_migrations_are_silent_inside(caplog):
    names = ("mlflow.store.db.utils", "alembic.runtime.migration")
    with quiet_mlflow():
        for name in names:
            logging.getLogger(name).error("inside")
    for name in names:
        logging.getLogger(name).error("outside")
    assert [record.message for record in caplog.records] == ["outside", "outside"]


def test_a_new_store_is_ready_for_readers(home: Path):
    store = open_store(None, "loopgene", home)
    with contextlib.closing(sqlite3.connect(home / "mlflow.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    experiment = store.client.get_experiment(store.experiment_id)
    assert experiment.artifact_location == (home / "mlflow-artifacts").as_uri()
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_what_a_killed_process_left_is_no_store(template: Path, tmp_path: Path, monkeypatch):
    (tmp_path / ".mlflow.db.1.new").write_text("half made")
    (tmp_path / "mlflow.db").touch()

    def copied(file: Path, artifacts: str) -> None:
        shutil.copy(template, file)

    monkeypatch.setattr(mlflow_store, "create_sqlite", copied)
    open_store(None, "loopgene", tmp_path).check()


@pytest.mark.parametrize("name", ["with space", "Größe", "it's"])
def test_homes_of_any_name(template: Path, tmp_path: Path, name: str):
    home = tmp_path / name
    home.mkdir()
    shutil.copy(template, home / "mlflow.db")
    store = open_store(None, "loopgene", home)
    store.check()
    run = store.client.create_run(store.experiment_id)
    store.client.log_text(run.info.run_id, "x", "a.txt")
    assert list((home / "mlflow-artifacts").rglob("a.txt"))


@pytest.mark.parametrize("name", ["100%", "why?", "a#b"])
def test_homes_that_mlflow_would_misread(tmp_path: Path, name: str):
    with pytest.raises(TrackingError, match=r"set tracking\.uri"):
        open_store(None, "loopgene", tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_relative_home(home: Path, monkeypatch):
    monkeypatch.chdir(home.parent)
    store = open_store(None, "loopgene", Path("home"))
    assert store.file == home / "mlflow.db"


def test_a_store_of_the_users_own(home: Path, tmp_path: Path):
    shutil.copy(home / "mlflow.db", tmp_path / "own.db")
    uri = f"sqlite:///{tmp_path}/own.db"
    store = open_store(uri, "mine", home)
    assert (store.uri, store.file) == (uri, tmp_path / "own.db")


def test_an_experiment_in_the_trash_is_taken_out(home: Path):
    first = open_store(None, "loopgene", home)
    first.client.delete_experiment(first.experiment_id)
    again = open_store(None, "loopgene", home)
    assert again.experiment_id == first.experiment_id
    assert again.client.get_experiment(again.experiment_id).lifecycle_stage == "active"


def test_a_deleted_store(home: Path):
    store = open_store(None, "loopgene", home)
    (home / "mlflow.db").unlink()
    with pytest.raises(TrackingError, match=r"mlflow\.db: unable to open database file"):
        store.check()
    assert not (home / "mlflow.db").exists()


def test_a_replaced_store(home: Path, template: Path):
    store = open_store(None, "loopgene", home)
    shutil.copy(template, home / "other.db")
    os.replace(home / "other.db", home / "mlflow.db")
    with pytest.raises(TrackingError, match="has been replaced by another file"):
        store.check()


def test_a_locked_store(home: Path, monkeypatch):
    monkeypatch.setattr(mlflow_store, "BUSY_S", 0.02)
    with contextlib.closing(sqlite3.connect(home / "mlflow.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TrackingError, match="database is locked"):
            check_file(home / "mlflow.db")
    check_file(home / "mlflow.db")


def test_a_read_only_store(home: Path):
    make_read_only(home / "mlflow.db")
    with pytest.raises(TrackingError, match="readonly database"):
        open_store(None, "loopgene", home)


def test_what_is_no_database(home: Path):
    (home / "mlflow.db").write_text("no database, but long enough to be looked at" * 50)
    with pytest.raises(TrackingError, match="file is not a database"):
        open_store(None, "loopgene", home)


def test_the_file_alone_has_everything_after_settling(home: Path, tmp_path: Path):
    store = open_store(None, "loopgene", home)
    run = store.client.create_run(store.experiment_id, run_name="kept")
    store.settle()
    shutil.copy(home / "mlflow.db", tmp_path / "copy.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        rows = copy.execute("SELECT run_uuid FROM runs").fetchall()
    assert rows == [(run.info.run_id,)]
