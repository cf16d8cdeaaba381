"""Runs one search in processes that are killed with SIGKILL at random moments.

    python -m tests.engine.killed_search HOME KILLS SEED

prints the number of kills, and in how many different generations the search was killed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import sklearn.datasets  # noqa: F401 - imported once, before the forks
import torch

from engine.config import ExperimentConfig
from engine.runs import RunDir
from engine.search import run_experiment
from tests.engine.toys import experiment


def config(home: Path) -> ExperimentConfig:
    """Fisher potential, modelled latencies, some failures."""
    return experiment(
        home,
        backend={"name": "table", "failures": {"crashed": 0.05}},
        search={"population": 6, "generations": 30, "seed": 3, "tune": 4},
        capacity={"batch": 4, "tolerance": 0.3},
    )


def _search(home: Path) -> None:
    torch.set_num_threads(1)
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


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _wait_for(lines: int, path: Path, pid: int) -> None:
    """Wait until a file has so many lines, or the process has ended."""
    ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while _lines(path) < lines and os.waitid(os.P_PID, pid, ended) is None:
        time.sleep(0.002)


def main(home: Path, kills: int, seed: int) -> None:
    """Search undisturbed in `home/whole`, and in `home/killed` with `kills` interruptions."""
    _finish(home / "whole")
    ends_s = [line["elapsed_s"] for line in RunDir(home / "whole" / "run").history()]
    step_s = (ends_s[-1] - ends_s[0]) / len(ends_s)
    history = RunDir(home / "killed" / "run").history_path
    rng = random.Random(seed)
    killed, lengths = 0, set()
    for _ in range(5 * kills):
        if killed == kills:
            break
        pid = _spawn(home / "killed")
        # Half of them while it starts or resumes, half in one of the next generations.
        if rng.random() < 0.5:
            _wait_for(_lines(history) + rng.randint(1, 2), history, pid)
            time.sleep(rng.uniform(0, step_s))
        else:
            time.sleep(rng.uniform(0, ends_s[0]))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            killed += 1
            lengths.add(len(RunDir(home / "killed" / "run").history()))
    _finish(home / "killed")
    sys.stdout.write(f"{killed} {len(lengths)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
