"""What the tests of the search share."""

from __future__ import annotations

import json

from engine.runs import RunDir
from engine.tracking import NullTracker

VOLATILE = ("seconds", "work", "elapsed_s", "measurements", "store_hits", "config")
"""What depends on the clock, on how often a search was interrupted, or on its folder."""


class Recorded(NullTracker):
    """Remembers what it was told."""

    def __init__(self):
        self.calls = []

    def start(self, run_dir, config, facts):
        self.calls.append(("start", facts))

    def generation(self, generation):
        self.calls.append(("generation", generation.number))

    def finalist(self, name, evaluation, metrics):
        self.calls.append((name, metrics))

    def artifact(self, path):
        self.calls.append(("artifact", path.name))

    def finish(self, state, metrics):
        self.calls.append((state, metrics))


def run_dir(home, name="run"):
    path = home / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def without(data, names=VOLATILE):
    return {k: v for k, v in data.items() if k not in names}


def outcome(path):
    """All that a search leaves behind, apart from times."""
    run = RunDir(path)
    checkpoint = json.loads(run.checkpoint_path.read_text())
    history = [without(record) for record in run.history()]
    return without(run.result()), without(checkpoint["state"]), history
