"""`mlflow.json` in a run folder: which MLflow run the search continues after an interruption."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from engine.runs import write_atomic

VERSION = 1


@dataclass
class RunRecord:
    """What the file says.

    Attributes:
        uri: Tracking URI of the store.
        experiment: Name of the experiment.
        run_id: None between the decision to make a run and its having been made.
        sessions: How often the search was started or resumed.
        finalists: Ids of the child runs, by name.
    """

    uri: str
    experiment: str
    run_id: str | None = None
    sessions: int = 0
    finalists: dict[str, str] = field(default_factory=dict)

    def save(self, run_dir: Path) -> None:
        """Replace the file."""
        text = json.dumps({"version": VERSION, **asdict(self)}, indent=2)
        write_atomic(_path(run_dir), text + "\n")

    @classmethod
    def load(cls, run_dir: Path, uri: str, experiment: str) -> RunRecord | None:
        """The record of a folder; None if it has none for this store that can be read."""
        try:
            data = json.loads(_path(run_dir).read_text(encoding="utf-8"))
            if data.pop("version") != VERSION:
                return None
            record = cls(**data)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return record if (record.uri, record.experiment) == (uri, experiment) else None


def _path(run_dir: Path) -> Path:
    return run_dir / "mlflow.json"
