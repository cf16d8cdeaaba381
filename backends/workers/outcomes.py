"""What becomes of a candidate whose job did not finish."""

from __future__ import annotations

from collections.abc import Mapping

from backends.base import Failed, FailureKind
from backends.workers.results import Crashed, Lost, Raised, TimedOut

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Environment of workers in which no library but TVM may start threads."""


def failure_of(result: Raised | TimedOut | Crashed | Lost) -> Failed:
    """The candidate's failure; jobs begin with the stage `build`."""
    match result:
        case Raised(error, message, _, stage, stages_s):
            kind = FailureKind.BUILD_ERROR if stage == "build" else FailureKind.CRASHED
            return Failed(kind, _line(f"{error}: {message}"), plain(stages_s))
        case TimedOut(stage, limit_s, stages_s):
            kind = FailureKind.BUILD_TIMEOUT if stage == "build" else FailureKind.RUN_TIMEOUT
            return Failed(kind, f"killed after {limit_s:g} s in {stage}", plain(stages_s))
        case Crashed(reason, stage, output, stages_s):
            last = output.splitlines()[-1:]
            words = ": ".join([f"{reason} in {stage}", *last])
            return Failed(FailureKind.CRASHED, _line(words), plain(stages_s))
        case Lost(reason, stages_s):
            return Failed(FailureKind.DEVICE_LOST, reason, plain(stages_s))


def plain(stages_s: Mapping[str, float]) -> dict[str, float]:
    """Seconds by stage, rounded for the store."""
    return {name: round(seconds, 6) for name, seconds in stages_s.items()}


def _line(text: str, limit: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."
