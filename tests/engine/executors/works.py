"""What workers do in tests."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from genomes.errors import IllegalTransformation, LoopGeneError


@dataclass(frozen=True)
class Echo:
    """Gives back its item after so many seconds: (item, pid)."""

    seconds: float = 0.0

    def prepare(self) -> Callable[[int], tuple[int, int]]:
        def call(item: int) -> tuple[int, int]:
            # The first ones take longest: they are ready last.
            time.sleep(self.seconds / (1 + item))
            return item, os.getpid()

        return call


@dataclass(frozen=True)
class Deadly:
    """Kills its process for every item that is odd, or only where `marks` has no file for it."""

    marks: Path | None

    def prepare(self) -> Callable[[int], int]:
        def call(item: int) -> int:
            if item % 2 and not self._met(item):
                os.kill(os.getpid(), signal.SIGKILL)
            return item

        return call

    def _met(self, item: int) -> bool:
        if self.marks is None:
            return False
        mark = self.marks / str(item)
        known = mark.exists()
        mark.touch()
        return known


class Stillborn:
    """Kills its process before it can work."""

    def prepare(self) -> Callable[[int], int]:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class Impossible:
    """Cannot be prepared."""

    def prepare(self) -> Callable[[int], int]:
        raise LoopGeneError("the moon is missing; wait for the night")


class Illegal:
    """Raises what a metric raises."""

    def prepare(self) -> Callable[[int], int]:
        def call(item: int) -> int:
            raise IllegalTransformation(f"{item} does not divide 7")

        return call
