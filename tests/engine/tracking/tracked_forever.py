"""Tracks generations until it is killed: `python -m ...tracked_forever HOME RUN`."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from tests.engine.tracking.synthetic import generation, tracked

if __name__ == "__main__":
    tracker = tracked(Path(sys.argv[1]), Path(sys.argv[2]))
    for number in itertools.count():
        tracker.generation(generation(number))
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
