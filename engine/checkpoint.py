"""Saved searches: one versioned JSON file, replaced atomically after every generation.

The file holds plain data only, so that it can be read by people and by other versions, and its
size does not depend on the number of generations: what has passed is in `history.jsonl`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from engine.runs import write_atomic
from genomes.errors import LoopGeneError

FORMAT = "loopgene-checkpoint"
VERSION = 3


class CheckpointError(LoopGeneError):
    """A saved search cannot be read, or belongs to another experiment; it is left as it is."""


def save_checkpoint(path: Path, config_hash: str, state: dict[str, Any]) -> None:
    """Replace the checkpoint; a reader, or a crash, sees the old one or the new one.

    Args:
        path: The file.
        config_hash: Of the experiment; see `engine.config.config_hash`.
        state: Plain JSON data without NaN and inf.

    Raises:
        CheckpointError: The file cannot be written.
    """
    body = _dump(state)
    head = {"format": FORMAT, "version": VERSION, "config": config_hash, "sha256": _digest(body)}
    try:
        write_atomic(path, f'{_dump(head)[:-1]},"state":{body}}}\n')
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written ({error}); make room, then go on with --resume"
        ) from error


def load_checkpoint(path: Path, config_hash: str) -> dict[str, Any] | None:
    """What `save_checkpoint` was given; None if there is no file.

    Raises:
        CheckpointError: The file is damaged, was written by a newer LoopGene, or belongs to
            another experiment.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, " ".join(str(error).split())) from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise _damaged(path, "it is no checkpoint")
    if data.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has version {data.get('version')!r} and this LoopGene reads {VERSION}; "
            "resume it with the LoopGene that wrote it, or start a new run"
        )
    state = data.get("state")
    if not isinstance(state, dict) or data.get("sha256") != _digest(_dump(state)):
        raise _damaged(path, "its content does not match its checksum")
    if data.get("config") != config_hash:
        raise CheckpointError(
            f"{path} belongs to another experiment (config {data.get('config')}, this one is "
            f"{config_hash}); resume with the run's own config.yaml, or start a new run"
        )
    return state


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged: {why}; it was left as it is: restore it from a copy, or start a "
        "new run (measurements are kept)"
    )


def _dump(data: Any) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
