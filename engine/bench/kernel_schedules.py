"""The recorded schedules of the kernel benchmark: one file, of one target."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.bench.command import BenchError
from engine.runs import write_atomic
from genomes.genome import Genome


@dataclass(frozen=True)
class Recorded:
    """What a file holds.

    Attributes:
        target: A TVM target, as a mapping.
        schedules: By workload; each genome has the workload as its only site.
    """

    target: Mapping[str, Any]
    schedules: dict[str, Genome]


def read(path: Path) -> Recorded | None:
    """The schedules in a file; None if it does not exist.

    Raises:
        BenchError: The file is damaged.
    """
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text())
        schedules = {name: Genome.from_json(g) for name, g in data["schedules"].items()}
        return Recorded(dict(data["target"]), schedules)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchError(
            f"cannot read the schedules {path}: {' '.join(repr(error).split())}; remove it and "
            "record them again with --tune"
        ) from error


def write(path: Path, recorded: Recorded) -> None:
    """Replace a file in one step that cannot be seen half done."""
    lines = [
        f"{json.dumps(name)}: {json.dumps(genome.to_json(), separators=(',', ':'))}"
        for name, genome in sorted(recorded.schedules.items())
    ]
    target = json.dumps(dict(recorded.target))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, f'{{"target": {target},\n"schedules": {{\n' + ",\n".join(lines) + "\n}}\n")
