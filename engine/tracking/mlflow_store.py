"""Opening an MLflow store so that nothing can hang, race or be left half made."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genomes.errors import LoopGeneError

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

BUSY_S = 5.0
"""How long a store may be locked by others before a call gives up."""

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A dead server costs seconds; MLflow's own defaults cost minutes for every call.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""How MLflow behaves in our process, unless the user's environment says otherwise."""

EXPERIMENT_TAGS = {
    # Opens the experiment on its runs and not on the traces of language models.
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": "Searches by LoopGene: one run for each search, metrics by generation "
    "(the step), and one child run for each finalist that was measured end to end.",
}


class TrackingError(LoopGeneError):
    """An MLflow store cannot be used."""


@dataclass(frozen=True)
class Store:
    """An open store.

    Attributes:
        client: Bound to the store; no global state of MLflow is touched.
        uri: Tracking URI.
        experiment_id: The experiment in it.
        file: The SQLite file; None for every other kind of store.
        inode: Of that file when it was opened.
    """

    client: MlflowClient
    uri: str
    experiment_id: str
    file: Path | None
    inode: int | None

    def check(self) -> None:
        """Find out at once whether the store takes writes.

        MLflow itself would wait 20 s for a lock, and would go on writing to a deleted file.

        Raises:
            TrackingError: The file is gone, replaced, locked or read-only.
        """
        if self.file is None:
            return
        check_file(self.file)
        if self.file.stat().st_ino != self.inode:
            raise TrackingError(f"{self.file} has been replaced by another file")

    def settle(self) -> None:
        """Move what SQLite keeps beside the file into it, so that it can be copied alone."""
        if self.file is not None:
            with contextlib.closing(_connect(self.file)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def default_uri(home: Path) -> str:
    """The store that belongs to a home."""
    return sqlite_uri(home.absolute() / "mlflow.db")


def sqlite_uri(path: Path) -> str:
    """The tracking URI of a SQLite file.

    Raises:
        TrackingError: MLflow would make another file: it reads these characters as part of a URI.
    """
    if set("%?#") & set(str(path)):
        raise TrackingError(
            f"MLflow cannot open {path}: the path has one of the characters % ? #; "
            "choose another home, or set tracking.uri"
        )
    return f"sqlite:///{path}"


def open_store(uri: str | None, experiment: str, home: Path) -> Store:
    """Open a store; a SQLite file that does not exist is made.

    Args:
        uri: Tracking URI; None: the default of `home`.
        experiment: Made if it does not exist, taken out of the trash if it is there.
        home: A new experiment of a SQLite store keeps its artifacts in `mlflow-artifacts` in it.

    Raises:
        TrackingError: The SQLite file cannot be written.
        MlflowException: The store is not usable.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    uri = uri or default_uri(home)
    file = sqlite_file(uri)
    if file is None:
        client = MlflowClient(uri, uri)
        return Store(client, uri, _experiment(client, experiment, None), None, None)
    artifacts = (home.absolute() / "mlflow-artifacts").as_uri()
    file.parent.mkdir(parents=True, exist_ok=True)
    # Of several processes that migrate one new store, all but one would fail.
    with _locked(file.with_name(f".{file.name}.lock")):
        if not file.exists() or file.stat().st_size == 0:
            create_sqlite(file, artifacts)
        check_file(file)
        client = MlflowClient(uri, uri)
        experiment_id = _experiment(client, experiment, artifacts)
    return Store(client, uri, experiment_id, file, file.stat().st_ino)


def create_sqlite(file: Path, artifacts: str) -> None:
    """Make a store in one step: a process killed meanwhile leaves no half-migrated file.

    Args:
        file: Where; its folder exists.
        artifacts: URI of the root of artifacts of experiments that name none.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    logger.info("making the MLflow store %s; this takes some seconds, once", file)
    for left in file.parent.glob(f".{file.name}.*.new*"):
        left.unlink()
    new = file.with_name(f".{file.name}.{os.getpid()}.new")
    with quiet_mlflow():
        SqlAlchemyStore(sqlite_uri(new), artifacts).engine.dispose()
    with contextlib.closing(sqlite3.connect(new)) as connection:
        # Readers (the user interface) and the search do not wait for each other, and a commit
        # costs one flush instead of three.
        connection.execute("PRAGMA journal_mode=WAL")
    os.replace(new, file)


def check_file(file: Path) -> None:
    """Find out whether a SQLite file takes writes, without writing.

    Raises:
        TrackingError: It does not, within `BUSY_S`.
    """
    try:
        with contextlib.closing(_connect(file)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        raise TrackingError(f"{file}: {error}") from error


@contextlib.contextmanager
def quiet_mlflow() -> Iterator[None]:
    """Keep MLflow and its migrations from logging: errors are told by exceptions."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    before = [(each, each.level) for each in loggers]
    for each in loggers:
        each.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for each, level in before:
            each.setLevel(level)


def sqlite_file(uri: str) -> Path | None:
    """The file of a tracking URI; None for every other kind of store."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
    except ArgumentError:
        return None
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    return Path(url.database).absolute()


def _connect(file: Path) -> sqlite3.Connection:
    # mode=rw: a file that is gone is not made anew.
    return sqlite3.connect(
        f"{file.as_uri()}?mode=rw", uri=True, timeout=BUSY_S, isolation_level=None
    )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    """The id of an experiment that takes runs."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifacts, EXPERIMENT_TAGS)
        except MlflowException:
            # On a server, another client may have been faster.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)
