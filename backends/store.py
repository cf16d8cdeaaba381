"""The measurement store: what is known of every kernel, shared by sites, searches and runs.

One SQLite file in WAL mode; any number of processes may read and write it at once.  A row is
keyed by what is computed and how (`LoopNest.structure_key`, `LoopNest.key`), the target and
the device fingerprint, which covers the TVM version.  How a kernel was timed and checked is
not part of the key: a row answers every request that is no more demanding than what was done
(`store_rows.answers`).  Asking for fewer repeats measures nothing again, asking for more does;
a longer time-out tries again what has timed out, and nothing else.  Times of a machine that
something else kept busy answer only those that do not wait for a quiet one.

Failures that the candidate is to blame for are remembered like times; others never are.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from backends.base import Measured, MeasureOptions, Outcome
from backends.store_rows import (
    DISTURBED,
    OPTIONS,
    Place,
    StoredMeasurement,
    answers,
    measurement_row,
    read_genes,
    read_outcome,
    workload_row,
)
from backends.timing import is_impatient
from genomes.errors import LoopGeneError
from genomes.nest import LoopNest

SCHEMA_VERSION = 2
_APPLICATION = 0x4C474D53  # "LGMS"
_BUSY_TIMEOUT_S = 30.0
_KEYS_PER_QUERY = 500

_SCHEMA = """
CREATE TABLE workload (
    structure_key TEXT PRIMARY KEY,
    shape TEXT NOT NULL,
    statements TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE measurement (
    nest_key TEXT NOT NULL,
    target TEXT NOT NULL,
    device TEXT NOT NULL,
    structure_key TEXT NOT NULL REFERENCES workload,
    genes TEXT NOT NULL,
    failure TEXT,
    message TEXT,
    times_s TEXT,
    median_s REAL,
    stages_s TEXT NOT NULL,
    repeats INTEGER NOT NULL,
    min_repeat_ms REAL NOT NULL,
    build_timeout_s REAL NOT NULL,
    run_timeout_s REAL NOT NULL,
    rtol REAL NOT NULL,
    atol REAL NOT NULL,
    tvm TEXT NOT NULL,
    run_id TEXT NOT NULL,
    created REAL NOT NULL,
    network TEXT,
    PRIMARY KEY (nest_key, target, device)
) WITHOUT ROWID;
CREATE TABLE capacity (
    key TEXT PRIMARY KEY,
    value REAL NOT NULL,
    detail TEXT NOT NULL,
    created REAL NOT NULL
) WITHOUT ROWID;
"""
_OUTCOME = f"nest_key, failure, message, times_s, network, stages_s, {', '.join(OPTIONS)}"


class StoreError(LoopGeneError):
    """The measurement store cannot be opened, read or written."""


class MeasurementStore:
    """The store in the file `path`, which is created when it does not exist.

    Raises:
        StoreError: The file is not a measurement store, was written by a newer LoopGene, is
            damaged or cannot be accessed; every method may raise it.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        with self._errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def get(self, nest: LoopNest, place: Place, options: MeasureOptions) -> Outcome | None:
        """What is known of `nest`, None when it has to be measured."""
        return self.get_many([nest], place, options).get(nest.key)

    def get_many(
        self, nests: Iterable[LoopNest], place: Place, options: MeasureOptions
    ) -> dict[str, Outcome]:
        """The known outcomes by `LoopNest.key`."""
        keys = list({nest.key for nest in nests})
        found: dict[str, Outcome] = {}
        with self._errors(), self._lock:
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                some = keys[start : start + _KEYS_PER_QUERY]
                rows = self._connection.execute(
                    f"SELECT {_OUTCOME} FROM measurement WHERE target = ? AND device = ?"
                    f" AND nest_key IN ({','.join('?' * len(some))})",
                    (place.target, place.device, *some),
                )
                for key, *columns in rows:
                    outcome = read_outcome(*columns[:5])
                    done = MeasureOptions(*columns[5:])
                    if done.repeats == DISTURBED and is_impatient():
                        done = replace(done, repeats=options.repeats)
                    if answers(outcome, done, options):
                        found[key] = outcome
        return found

    def put(
        self,
        nest: LoopNest,
        outcome: Outcome,
        place: Place,
        options: MeasureOptions,
        run_id: str = "",
    ) -> None:
        """Remember an outcome, unless it is a failure that the candidate is not to blame for."""
        self.put_many([(nest, outcome)], place, options, run_id)

    def put_many(
        self,
        results: Iterable[tuple[LoopNest, Outcome]],
        place: Place,
        options: MeasureOptions,
        run_id: str = "",
    ) -> None:
        """Remember outcomes in one transaction.

        A row with the same key is replaced, but times are not by a time-out or by those of a
        busy machine.
        """
        kept = [
            (n, o) for n, o in results if isinstance(o, Measured) or o.kind.charged_to_candidate
        ]
        if not kept:
            return
        workloads = {nest.structure_key: workload_row(nest) for nest, _ in kept}
        rows = [measurement_row(nest, o, place, options, run_id) for nest, o in kept]
        with self._transaction():
            rows = [
                row for row, (_, o) in zip(rows, kept, strict=True) if self._tells_more(row, o)
            ]
            self._connection.executemany(
                "INSERT OR IGNORE INTO workload VALUES (?, ?, ?)", workloads.values()
            )
            self._connection.executemany(
                f"INSERT OR REPLACE INTO measurement VALUES ({','.join('?' * 20)})", rows
            )

    def _tells_more(self, row: Sequence[Any], outcome: Outcome) -> bool:
        """Whether an outcome says more than the row with its key."""
        if isinstance(outcome, Measured):
            if not outcome.disturbed:
                return True
        elif not outcome.kind.is_timeout:
            return True
        known = self._connection.execute(
            "SELECT repeats FROM measurement WHERE nest_key = ? AND target = ? AND device = ?"
            " AND failure IS NULL",
            row[:3],
        ).fetchone()
        return known is None or (known[0] == DISTURBED and isinstance(outcome, Measured))

    def count(self) -> int:
        """Number of measurements, failures included."""
        with self._errors(), self._lock:
            row = self._connection.execute("SELECT COUNT(*) FROM measurement").fetchone()
        return int(row[0])

    def rows(self) -> Iterator[StoredMeasurement]:
        """All measurements, oldest first."""
        with self._errors(), self._lock:
            rows = self._connection.execute(
                "SELECT structure_key, nest_key, target, device, tvm, shape, statements, genes,"
                " failure, message, times_s, network, stages_s, run_id, created"
                " FROM measurement JOIN workload USING (structure_key) ORDER BY created, nest_key"
            ).fetchall()
        for row in rows:
            yield StoredMeasurement(
                structure_key=row[0],
                nest_key=row[1],
                place=Place(*row[2:5]),
                shape=json.loads(row[5]),
                statements=json.loads(row[6]),
                genes=read_genes(row[7]),
                outcome=read_outcome(*row[8:13]),
                run_id=row[13],
                created=row[14],
            )

    def get_capacity(self, key: str) -> tuple[float, dict[str, Any]] | None:
        """The value and the details stored for a capacity score, None when it is not known."""
        with self._errors(), self._lock:
            row = self._connection.execute(
                "SELECT value, detail FROM capacity WHERE key = ?", (key,)
            ).fetchone()
        return None if row is None else (row[0], json.loads(row[1]))

    def put_capacity(
        self, key: str, value: float, detail: Mapping[str, Any] | None = None
    ) -> None:
        """Remember a capacity score."""
        row = (key, value, json.dumps(detail or {}), time.time())
        with self._transaction():
            self._connection.execute("INSERT OR REPLACE INTO capacity VALUES (?, ?, ?, ?)", row)

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._connection.close()

    def __enter__(self) -> MeasurementStore:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _prepare(self) -> None:
        application, version, tables = self._identity()
        if application == 0 and version == 0 and tables == 0:
            self._create()
            application, version, _ = self._identity()
        if application != _APPLICATION:
            raise StoreError(
                f"{self.path} is the database of another program, not a measurement store;"
                " choose another path for the store."
            )
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"The measurement store {self.path} has format {version}, written by a newer"
                f" LoopGene (this one reads {SCHEMA_VERSION}); update LoopGene or choose another"
                " path for the store."
            )
        if version < SCHEMA_VERSION:
            self._update()
        # A kill loses nothing that was committed; a power failure may lose the last rows.
        self._connection.execute("PRAGMA synchronous = NORMAL")

    def _identity(self) -> tuple[int, int, int]:
        """(application id, schema version, number of tables).

        The tables are counted first: where there are some, the other two are set.
        """
        queries = (
            "SELECT COUNT(*) FROM sqlite_schema",
            "PRAGMA user_version",
            "PRAGMA application_id",
        )
        tables, version, application = (
            int(self._connection.execute(query).fetchone()[0]) for query in queries
        )
        return application, version, tables

    def _create(self) -> None:
        self._enter_wal_mode()
        with self._transaction():
            if self._identity()[2] == 0:  # nobody else has been faster
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _update(self) -> None:
        """From format 1, which says nothing of what kernels lose in a network."""
        with self._transaction():
            if self._identity()[1] < SCHEMA_VERSION:  # nobody else has been faster
                self._connection.execute("ALTER TABLE measurement ADD COLUMN network TEXT")
                self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _enter_wal_mode(self) -> None:
        """SQLite does not wait for another process that is doing the same, so this does."""
        deadline = time.monotonic() + _BUSY_TIMEOUT_S
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors(), self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"The measurement store {self.path} cannot be used: {error}. Move the file away"
                " or choose another path for the store; LoopGene never deletes it."
            ) from error
