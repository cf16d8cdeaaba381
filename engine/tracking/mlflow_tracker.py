"""Tracking with MLflow: one run for each search, one child run for each finalist.

Every call writes at once and in order, so that the store is complete up to the last generation
when the process is killed.  The cost of a generation does not depend on their number.
"""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from engine.evaluation import Evaluation, Generation
from engine.tracking.base import Tracker
from engine.tracking.description import describe, tags_of
from engine.tracking.mlflow_store import Store, open_store, quiet_mlflow
from engine.tracking.recorder import Recorder, finite, flatten
from engine.tracking.run_record import RunRecord

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

T = TypeVar("T")

STEPS = "search/evaluations"
"""A metric that every generation has."""

BATCH_METRICS = 1000
BATCH_PARAMS = 100
"""What MLflow takes in one call."""

TABLES = 100
"""The latest populations that MLflow shows as tables: their list has to fit into one tag."""

REFRESH_S = 60.0
"""The plots of a running search are drawn again after so long."""

REFRESH_SHARE = 0.02
"""The drawing takes this share of the time at most."""

FOLDER = "folder"
"""The tag that names the run folder."""

STATUS = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}
"""MLflow's word for the state in which a search ends; KILLED for every other state."""


class MlflowTracker(Tracker):
    """Writes one MLflow run.

    Args:
        uri: Tracking URI; None: the file `mlflow.db` in `home`.
        experiment: Name of the MLflow experiment.
        home: Folder of the run folders.
        refresh_s: Seconds between two drawings of the plots while the search goes on.
    """

    _store: Store
    _record: RunRecord
    _recorder: Recorder
    _run_dir: Path
    _config: Mapping[str, Any]
    _facts: Mapping[str, Any]

    def __init__(
        self, uri: str | None, experiment: str, home: Path, refresh_s: float = REFRESH_S
    ) -> None:
        self._uri = uri
        self._experiment = experiment
        self._home = home
        self._refresh_s = refresh_s
        self._run_id: str | None = None
        self._last = -1
        self._latest: dict[str, float] = {}
        self._pending: list[Metric] = []
        self._population = ""
        self._best_key = ""
        self._refresh_at_s = 0.0

    @property
    def run_id(self) -> str | None:
        return self._run_id

    def start(self, run_dir: Path, config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        self._run_dir, self._config, self._facts = run_dir, config, facts
        with quiet_mlflow():
            self._store = open_store(self._uri, self._experiment, self._home)
            record = RunRecord.load(run_dir, self._store.uri, self._experiment)
            run = self._existing(record.run_id, {FOLDER: str(run_dir)}) if record else None
            if record is None or run is None:
                record = RunRecord(self._store.uri, self._experiment)
                record.save(run_dir)
                run = self._new(run_dir.name, {FOLDER: str(run_dir)})
            record.run_id = self._run_id = run.info.run_id
            record.sessions += 1
            record.save(run_dir)
            self._record = record
            self._continue(run)
            if (run_dir / "config.yaml").is_file():
                self.artifact(run_dir / "config.yaml")
        self._refresh_at_s = monotonic() + self._refresh_s

    def generation(self, generation: Generation) -> None:
        if generation.number <= self._last:
            # Repeated after an interruption that came before the checkpoint.
            return
        self._latest = self._recorder.metrics(generation)
        self._pending += _metrics(self._latest, generation.number)
        self._population = self._recorder.table(generation)
        with quiet_mlflow():
            self._store.check()
            self._text(self._population, _table_path(generation.number))
            if generation.best.genome.key != self._best_key:
                self._text(generation.best.genome.dumps(), "best_genome.json")
                self._best_key = generation.best.genome.key
            self._flush(tables=generation.number)
            self._last = generation.number
            if monotonic() >= self._refresh_at_s:
                self._refresh()

    def finalist(self, name: str, evaluation: Evaluation, metrics: Mapping[str, float]) -> None:
        with quiet_mlflow():
            self._store.check()
            run_id = self._child(name)
            known = {
                "kernels_ms": evaluation.latency_s and evaluation.latency_s * 1e3,
                "kernels_speedup": self._recorder.speedup(evaluation),
                "capacity_ratio": self._recorder.capacity_ratio(evaluation),
                "MMACs": evaluation.macs / 1e6,
                "parameters": evaluation.parameters,
                **metrics,
            }
            grouped = {f"finalist/{key}": value for key, value in finite(known).items()}
            client = self._store.client
            client.log_batch(run_id, metrics=_metrics(grouped, self._record.sessions - 1))
            client.log_text(run_id, evaluation.genome.dumps(), "genome.json")
            client.log_text(run_id, str(evaluation.genome).replace("; ", "\n"), "genome.txt")
            client.set_terminated(run_id, "FINISHED")

    def artifact(self, path: Path) -> None:
        kept = self._run_dir.absolute() / "artifacts"
        folder = path.absolute().parent
        inside = folder.is_relative_to(kept) and folder != kept
        with quiet_mlflow():
            self._store.client.log_artifact(
                self._id, str(path), folder.relative_to(kept).as_posix() if inside else None
            )

    def finish(self, state: str, metrics: Mapping[str, float]) -> None:
        final = {f"result/{key}": value for key, value in finite(metrics).items()}
        self._pending += _metrics(final, self._record.sessions - 1)
        with quiet_mlflow():
            self._store.check()
            if self._population:
                self._text(self._population, "population.json")
            self._flush(tables=self._last)
            self._tag({"state": state, "mlflow.note.content": self._description(state, final)})
            self._store.client.set_terminated(self._id, STATUS.get(state, "KILLED"))
            self._store.settle()

    @property
    def _id(self) -> str:
        assert self._run_id is not None, "start comes first"
        return self._run_id

    def _existing(self, run_id: str | None, tags: Mapping[str, str]) -> Run | None:
        """A run that is there and not in the trash: by its id, or by tags if a kill took that."""
        from mlflow.exceptions import MlflowException

        client = self._store.client
        if run_id is None:
            wanted = " and ".join(f"tags.`{k}` = {_quoted(v)}" for k, v in tags.items())
            found = client.search_runs([self._store.experiment_id], wanted, max_results=1)
            return found[0] if found else None
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def _new(self, name: str, own: Mapping[str, str]) -> Run:
        tags = {
            **tags_of(self._config, self._facts),
            "mlflow.user": _user(),
            "mlflow.source.name": "loopgene",
            "mlflow.source.type": "LOCAL",
            **own,
        }
        return self._store.client.create_run(self._store.experiment_id, tags=tags, run_name=name)

    def _continue(self, run: Run) -> None:
        """Take up a run where it ends; a new one has nothing yet."""
        client = self._store.client
        points = client.get_metric_history(self._id, STEPS)
        self._last = max((point.step for point in points), default=-1)
        self._latest = dict(run.data.metrics)
        self._recorder = Recorder(self._facts.get("original") or {}, self._latest)
        if run.info.status != "RUNNING":
            client.update_run(self._id, status="RUNNING")
        from mlflow.entities import Param

        # Parameters cannot change; config.yaml, which is kept too, says what holds now.
        new = [Param(*p) for p in flatten(self._config).items() if p[0] not in run.data.params]
        for part in _parts(new, BATCH_PARAMS):
            client.log_batch(self._id, params=part)
        note = self._description("running", {})
        self._tag({"state": "running", "mlflow.note.content": note})

    def _child(self, name: str) -> str:
        """The run of a finalist: of an earlier session, or a new one."""
        record = self._record
        own = {"mlflow.parentRunId": self._id, "finalist": name}
        run = self._existing(record.finalists.get(name), own)
        if run is None:
            run = self._new(f"{self._run_dir.name}/{name}", own)
        if record.finalists.get(name) != run.info.run_id:
            record.finalists[name] = run.info.run_id
            record.save(self._run_dir)
        return str(run.info.run_id)

    def _flush(self, tables: int) -> None:
        """Write the metrics of all generations that are not written yet, in one call."""
        from mlflow.entities import RunTag

        tags = [RunTag("mlflow.loggedArtifacts", _table_list(tables))] if tables >= 0 else []
        first, *rest = list(_parts(self._pending, BATCH_METRICS)) or [[]]
        self._store.client.log_batch(self._id, metrics=first, tags=tags)
        for part in rest:
            self._store.client.log_batch(self._id, metrics=part)
        self._pending.clear()

    def _refresh(self) -> None:
        """Draw the plots of the search so far, at most for `REFRESH_SHARE` of the time."""
        from engine.plots import draw_run

        started_s = monotonic()
        # Due again even if the drawing fails.
        self._refresh_at_s = started_s + self._refresh_s
        for path in draw_run(self._run_dir, self._facts.get("original") or {}):
            self.artifact(path)
        took_s = monotonic() - started_s
        self._refresh_at_s = started_s + max(self._refresh_s, took_s / REFRESH_SHARE)

    def _description(self, state: str, final: Mapping[str, float]) -> str:
        return describe(self._config, self._facts, {**self._latest, **final}, state, self._run_dir)

    def _tag(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._store.client.log_batch(self._id, tags=[RunTag(*tag) for tag in tags.items()])

    def _text(self, text: str, path: str) -> None:
        self._store.client.log_text(self._id, text, path)


def _metrics(values: Mapping[str, float], step: int) -> list[Metric]:
    from mlflow.entities import Metric

    # One time for all: a batch that is sent again after a failure adds nothing twice.
    now_ms = int(time.time() * 1000)
    return [Metric(key, value, now_ms, step) for key, value in values.items()]


def _parts(items: Sequence[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def _quoted(text: str) -> str:
    return f'"{text}"' if "'" in text else f"'{text}'"


def _user() -> str:
    """Who runs the search; containers may have no name for it."""
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):
        return "unknown"


def _table_path(number: int) -> str:
    return f"population/generation_{number:04d}.json"


def _table_list(last: int) -> str:
    """What MLflow's artifact viewer shows as tables, as the value of a tag."""
    paths = ["population.json", *map(_table_path, range(last, max(-1, last - TABLES), -1))]
    tables = [{"path": path, "type": "table"} for path in paths]
    return json.dumps(tables, separators=(",", ":"))
