"""The rows of the measurement store and what they stand for."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from backends.base import Failed, FailureKind, Losses, Measured, MeasureOptions, Outcome
from genomes.gene import Gene
from genomes.nest import LoopNest

OPTIONS = ("repeats", "min_repeat_ms", "build_timeout_s", "run_timeout_s", "rtol", "atol")

DISTURBED = 0
"""The repeats of disturbed times: they are as good as none."""


@dataclass(frozen=True)
class Place:
    """Where kernels run: the part of a measurement's key that a backend determines.

    Attributes:
        target: `Backend.target`.
        device: The backend's name and `Device.fingerprint`.
        tvm: TVM version, for people; the fingerprint covers it.
    """

    target: str
    device: str
    tvm: str = ""


@dataclass(frozen=True)
class StoredMeasurement:
    """One row, for export and for learned models.

    Attributes:
        structure_key, nest_key: Content hashes of what is computed, and of that and how.
        place: Where it ran.
        shape: `ConvShape.to_json`.
        statements: `Statement.structure` of every statement.
        genes: Schedule genes of every statement.
        outcome: Times in seconds, or the failure.
        run_id: The search that measured it.
        created: Seconds since the epoch.
    """

    structure_key: str
    nest_key: str
    place: Place
    shape: Mapping[str, Any]
    statements: Sequence[Any]
    genes: tuple[tuple[Gene, ...], ...]
    outcome: Outcome
    run_id: str
    created: float


def answers(outcome: Outcome, done: MeasureOptions, asked: MeasureOptions) -> bool:
    """Whether an outcome obtained with `done` stands when `asked` is wanted.

    Times stand when they are as many, as long and as strictly checked; a failure stands when
    the limit that it ran into was as generous.
    """
    if isinstance(outcome, Measured):
        return (
            done.repeats >= asked.repeats
            and done.min_repeat_ms >= asked.min_repeat_ms
            and done.rtol <= asked.rtol
            and done.atol <= asked.atol
        )
    if outcome.kind is FailureKind.WRONG_RESULT:
        return done.rtol >= asked.rtol and done.atol >= asked.atol
    if outcome.kind is FailureKind.BUILD_TIMEOUT:
        return done.build_timeout_s >= asked.build_timeout_s
    if outcome.kind is FailureKind.RUN_TIMEOUT:
        return done.run_timeout_s >= asked.run_timeout_s
    return True


def read_outcome(
    failure: str | None,
    message: str | None,
    times_s: str | None,
    network: str | None,
    stages_s: str,
) -> Outcome:
    """An outcome from its columns."""
    if failure is not None:
        return Failed(FailureKind(failure), message or "", json.loads(stages_s))
    found = json.loads(network or '{"lost_s": [], "weight_bytes": 0}')
    return Measured(
        tuple(json.loads(times_s or "[]")),
        json.loads(stages_s),
        Losses(*found["lost_s"]),
        found["weight_bytes"],
    )


def read_genes(text: str) -> tuple[tuple[Gene, ...], ...]:
    """The schedule genes of each statement from their column."""
    return tuple(
        tuple(
            Gene.of(
                gene["op"],
                gene["statement"],
                **{k: tuple(v) if isinstance(v, list) else v for k, v in gene["args"].items()},
            )
            for gene in statement
        )
        for statement in json.loads(text)
    )


def workload_row(nest: LoopNest) -> tuple[str, str, str]:
    """The columns of `workload`."""
    statements = [s.structure() for s in nest.statements]
    return nest.structure_key, json.dumps(nest.shape.to_json()), json.dumps(statements)


def measurement_row(
    nest: LoopNest, outcome: Outcome, place: Place, options: MeasureOptions, run_id: str
) -> tuple[Any, ...]:
    """The columns of `measurement`."""
    genes = [[gene.to_json() for gene in s.schedule_genes] for s in nest.statements]
    result: tuple[Any, ...]
    network: str | None
    done = options
    if isinstance(outcome, Measured):
        done = replace(options, repeats=DISTURBED) if outcome.disturbed else options
        found = {"lost_s": outcome.lost, "weight_bytes": outcome.weight_bytes}
        network = json.dumps(found)
        result = (None, None, json.dumps(outcome.times_s), outcome.median_s)
    else:
        network = None
        result = (outcome.kind.value, outcome.message, None, None)
    return (
        nest.key,
        place.target,
        place.device,
        nest.structure_key,
        json.dumps(genes),
        *result,
        json.dumps(dict(outcome.stages_s)),
        *(getattr(done, name) for name in OPTIONS),
        place.tvm,
        run_id,
        time.time(),
        network,
    )
