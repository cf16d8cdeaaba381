"""What the commands of the benchmarks share: one line for an error, targets, JSON last."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from genomes.errors import LoopGeneError

WIDTH = 120
"""Columns of a table in a log file or a pipe."""


class BenchError(LoopGeneError):
    """A benchmark cannot be run, or what it runs computes something else than PyTorch."""


@dataclass(frozen=True)
class Target:
    """A bound on one figure of a report.

    Attributes:
        figure: Its name.
        bound: Still met by a figure equal to it.
        at_most: Whether the figure must not be greater; otherwise, not smaller.
    """

    figure: str
    bound: float
    at_most: bool = False

    def met(self, value: float) -> bool:
        """Whether a figure of this value meets the target."""
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        return f"{self.figure} {'<=' if self.at_most else '>='} {self.bound:g}"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser described by the first line of a module's docstring."""
    return argparse.ArgumentParser(description=(doc or "").splitlines()[0])


def run(
    name: str,
    benchmark: Callable[[Console], Mapping[str, Any]],
    targets: Sequence[Target] = (),
) -> int:
    """Run a benchmark and print its report as one JSON line, the last one.

    Args:
        name: As in `make bench-NAME`.
        benchmark: Gives the report: plain data.
        targets: What its figures are compared with.

    Returns:
        The exit code: 0, also where a target is missed, or 1 after an error.
    """
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    # PyTorch's own use of what it deprecates, wherever a peer lets it decompose a network.
    warnings.filterwarnings("ignore", "`isinstance", FutureWarning)
    try:
        report = benchmark(console)
    except LoopGeneError as error:
        console.print(f"bench-{name}: error: {error}", style="red", soft_wrap=True, markup=False)
        return 1
    judge(console, report, targets)
    console.file.write(json.dumps(report) + "\n")
    return 0


def judge(
    console: Console, report: Mapping[str, Any], targets: Sequence[Target], subject: str = ""
) -> None:
    """Say of each target whether it is met.

    Args:
        console: Where to.
        report: Has the figures; a target without its figure is left out.
        targets: All that apply.
        subject: What the report is about, where there are several.
    """
    for target in targets:
        if target.figure in report:
            value = report[target.figure]
            said = "met" if target.met(value) else "MISSED"
            about = f"{subject}: " if subject else ""
            console.print(f"{about}target {said}: {target}, measured {value:g}", soft_wrap=True)
