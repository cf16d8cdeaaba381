"""Runs one search in processes that are killed with SIGKILL at random moments.

    python -m tests.engine.killed_search HOME KILLS SEED

prints the number of kills and the milliseconds that the undisturbed search took.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from engine.config import ExperimentConfig
from engine.search import run_experiment
from tests.engine.toys import experiment


def config(home: Path) -> ExperimentConfig:
    """Fisher potential, modelled latencies, some failures."""
    return experiment(
        home,
        backend={"name": "table", "failures": {"crashed": 0.05}},
        search={"population": 8, "generations": 25, "seed": 3},
        capacity={"batch": 8, "tolerance": 0.3},
    )


def _search(home: Path) -> None:
    (home / "run").mkdir(parents=True, exist_ok=True)
    run_experiment(config(home), home / "run", resume=True)


def _spawn(home: Path) -> int:
    # A fork shares the imports; nothing has been computed before it, so no thread is lost.
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _search(home)
            code = 0
        finally:
            os._exit(code)
    return pid


def _finish(home: Path) -> None:
    _, status = os.waitpid(_spawn(home), 0)
    if status:
        sys.exit(f"the search in {home} failed: {status}")


def main(home: Path, kills: int, seed: int) -> None:
    """Search undisturbed in `home/whole`, and in `home/killed` with `kills` interruptions."""
    started = time.monotonic()
    _finish(home / "whole")
    whole_s = time.monotonic() - started
    rng = random.Random(seed)
    killed = 0
    while killed < kills:
        pid = _spawn(home / "killed")
        time.sleep(rng.uniform(0.0, 0.25) * whole_s)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            break
        killed += 1
    _finish(home / "killed")
    sys.stdout.write(f"{killed} {round(whole_s * 1e3)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
