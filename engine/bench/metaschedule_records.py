"""Recorded results of MetaSchedule: tuning takes minutes, replaying a trace milliseconds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.bench.metaschedule_tuning import Best, TuningError
from engine.runs import write_atomic


@dataclass(frozen=True)
class Record:
    """What one seeded search found.

    Attributes:
        key: Content hash of the function that was tuned.
        target: What it was tuned for and on, for `tvm.target.Target`.
        tvm: Version of TVM; another one may not read the traces.
        seed: Of the search.
        seconds: What the search took.
        best: The fastest schedule by number of trials.
    """

    key: str
    target: Mapping[str, Any]
    tvm: str
    seed: int
    seconds: float
    best: Mapping[int, Best]

    @property
    def trials(self) -> int:
        """Trials of the whole search."""
        return max(self.best)

    def fits(self, key: str, target: Mapping[str, Any]) -> bool:
        """Whether the record is of this function, target and version of TVM."""
        import tvm

        return (self.key, dict(self.target), self.tvm) == (key, dict(target), tvm.__version__)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Record:
        """Inverse of `dataclasses.asdict` through JSON.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: `data` is no record.
        """
        best = {int(trials): Best(**found) for trials, found in data["best"].items()}
        if not best:
            raise ValueError("a record without a schedule")
        return cls(**{**data, "best": best})


def read(path: Path) -> dict[str, Record]:
    """The records of a file by name; none if it does not exist.

    Raises:
        TuningError: The file is damaged.
    """
    if not path.exists():
        return {}
    try:
        data = json.loads(path.read_text())
        return {name: Record.from_json(record) for name, record in data.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TuningError(
            f"cannot read MetaSchedule's records {path}: {error}; remove it and tune again with "
            "`make tune-metaschedule`"
        ) from error


def add(path: Path, name: str, record: Record) -> None:
    """Add one record to a file, or replace it, in one step that cannot be seen half done."""
    records = {**read(path), name: record}
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{json.dumps(name)}: {json.dumps(asdict(found), separators=(',', ':'))}"
        for name, found in sorted(records.items())
    ]
    write_atomic(path, "{\n" + ",\n".join(lines) + "\n}\n")
