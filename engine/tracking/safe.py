"""Tracking that fails never stops a search."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any

from engine.evaluation import Evaluation, Generation
from engine.tracking.base import Tracker

logger = logging.getLogger(__name__)

PATIENCE = 3
"""Failures in a row after which tracking is off."""

LOST_S = 30.0
"""Seconds spent in failing calls after which tracking is off."""


class SafeTracker(Tracker):
    """Passes everything on, and turns exceptions into one line of warning.

    What failed is tried again with the next call, since a locked store or a full disk may come
    back.  Tracking goes off for good when it cannot start, or when it keeps failing.  It is off
    before its start.  Ctrl-C waits for the end of a call, which would leave the store locked.

    Args:
        inner: What may fail.
        patience: Failures in a row after which tracking is off.
        lost_s: Seconds spent in failing calls after which tracking is off.
    """

    def __init__(self, inner: Tracker, patience: int = PATIENCE, lost_s: float = LOST_S) -> None:
        self._inner = inner
        self._patience = patience
        self._left_s = lost_s
        self._failures = 0
        self._warned = False
        self._on = False

    @property
    def run_id(self) -> str | None:
        return self._inner.run_id

    def start(self, run_dir: Path, config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        self._on = True
        self._on = self._try("the start", lambda: self._inner.start(run_dir, config, facts))

    def generation(self, generation: Generation) -> None:
        what = f"generation {generation.number}"
        self._try(what, lambda: self._inner.generation(generation))

    def finalist(self, name: str, evaluation: Evaluation, metrics: Mapping[str, float]) -> None:
        self._try(name, lambda: self._inner.finalist(name, evaluation, metrics))

    def artifact(self, path: Path) -> None:
        self._try(path.name, lambda: self._inner.artifact(path))

    def finish(self, state: str, metrics: Mapping[str, float]) -> None:
        self._try("the end", lambda: self._inner.finish(state, metrics))

    def _try(self, what: str, call: Callable[[], None]) -> bool:
        """Whether the call was made and went well."""
        if not self._on:
            return False
        started_s = monotonic()
        try:
            with uninterrupted():
                call()
        # The border itself: MLflow, SQLAlchemy, HTTP and the file system raise unrelated types.
        except Exception as error:  # noqa: BLE001
            self._failed(what, error, monotonic() - started_s)
            return False
        self._failures = 0
        return True

    def _failed(self, what: str, error: Exception, seconds: float) -> None:
        self._failures += 1
        self._left_s -= seconds
        if self._failures >= self._patience or self._left_s <= 0:
            self._on = False
        level = logging.INFO if self._warned else logging.WARNING
        self._warned = True
        logger.log(
            level,
            "tracking failed at %s (%s); the search goes on and its run folder keeps everything; "
            "tracking is tried again, and is off when it cannot start or keeps failing",
            what,
            one_line(error),
        )


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C and `kill` wait until the block has ended."""
    if threading.current_thread() is not threading.main_thread():
        # Signals are handled in the main thread, and do not interrupt this one.
        yield
        return
    waiting: list[tuple[int, FrameType | None]] = []
    before: dict[int, Callable[[int, FrameType | None], Any]] = {}
    for polite in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(polite)
        # One that is ignored, or ends the process at once, stays as it is.
        if callable(handler):
            before[polite] = handler
            signal.signal(polite, lambda *received: waiting.append(received))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number, frame in waiting[:1]:
            before[number](number, frame)


def one_line(error: Exception) -> str:
    """The kind and the first words of an error, without the text of SQL statements."""
    text = " ".join(str(error).partition("\n")[0].split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
