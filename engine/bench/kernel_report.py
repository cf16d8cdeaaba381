"""What the kernel benchmark says: its table, its figures, and why a target is missed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from engine.bench.bounds import Bounds
from engine.bench.command import Target
from engine.bench.workloads import Workload

OURS = "loopgene"
PEERS = (
    ONNXRUNTIME,
    EAGER,
    CHANNELS_LAST,
    INDUCTOR,
    METASCHEDULE_FEW,
    METASCHEDULE,
    TVM_DEFAULT,
) = (
    "onnxruntime",
    "eager",
    "channels_last",
    "inductor",
    "metaschedule64",
    "metaschedule256",
    "tvm_default",
)
TORCH = (EAGER, CHANNELS_LAST, INDUCTOR)
BEST_TORCH = "torch"
"""The fastest of them, for each workload."""

LARGE_MACS = 30e6
"""A dense convolution with at least so many multiply-adds is large."""

LEAST_RATIO, LARGE_OVER_BOUND, OVER_BOUND = 0.95, 1.1, 1.5
TARGETS = (
    Target("geomean_vs_onnxruntime", 1.25),
    Target("min_vs_onnxruntime", LEAST_RATIO),
    Target("geomean_vs_torch", 1.25),
    Target("min_vs_torch", LEAST_RATIO),
    Target("large_vs_bound", LARGE_OVER_BOUND, at_most=True),
    Target("small_vs_bound", OVER_BOUND, at_most=True),
)
BELIEVED = 0.95
"""No kernel is faster than its bound, but for what two timings differ."""

NAMED = 5
"""Of the workloads that miss a target, so many are named."""


@dataclass(frozen=True)
class Row:
    """One workload.

    Attributes:
        workload: What was computed.
        least_s: Least seconds of one call of ours and of each peer that ran.
        bound_s: Least seconds that the machine needs.
        bound: What sets them, `arithmetic` or `bandwidth`.
    """

    workload: Workload
    least_s: Mapping[str, float]
    bound_s: float
    bound: str

    @classmethod
    def of(cls, workload: Workload, least_s: Mapping[str, float], bounds: Bounds) -> Row:
        return cls(workload, least_s, *bounds.seconds(workload.nest))

    def over(self, *peers: str) -> float | None:
        """How many times as long the fastest of some peers takes; None if none of them ran."""
        times = [self.least_s[peer] for peer in peers if peer in self.least_s]
        return min(times) / self.least_s[OURS] if times else None

    @property
    def over_bound(self) -> float:
        return self.least_s[OURS] / self.bound_s

    @property
    def large(self) -> bool:
        """Whether it is a dense convolution that arithmetic limits."""
        statements = self.workload.nest.statements
        dense = len(statements) == 1 and statements[0].groups == 1
        return dense and self.bound == "arithmetic" and self.workload.nest.macs >= LARGE_MACS

    def cells(self) -> list[str]:
        """The row of `table`."""
        onnxruntime, torch = self.over(ONNXRUNTIME), self.over(*TORCH)
        return [
            self.workload.name,
            _microseconds(self.least_s[OURS]),
            f"{_microseconds(self.bound_s)} {self.bound[0]}",
            f"{self.over_bound:.2f}",
            *(_microseconds(self._least(*peers)) for _, peers in _COLUMNS),
            *(_ratio(ratio) for ratio in (onnxruntime, torch, self.over(METASCHEDULE))),
        ]

    def _least(self, *peers: str) -> float | None:
        return min((self.least_s[peer] for peer in peers if peer in self.least_s), default=None)


_COLUMNS = (
    ("ORT", (ONNXRUNTIME,)),
    ("torch", TORCH),
    ("MS 64", (METASCHEDULE_FEW,)),
    ("MS 256", (METASCHEDULE,)),
    ("TVM", (TVM_DEFAULT,)),
)
_COMPARED = {
    ONNXRUNTIME: (ONNXRUNTIME,),
    BEST_TORCH: TORCH,
    **{peer: (peer,) for peer in PEERS if peer != ONNXRUNTIME},
}
"""What the figures of a comparison are called, and the peers whose fastest is compared."""


def table(rows: Sequence[Row], threads: int) -> Table:
    """All workloads, times in microseconds."""
    title = f"convolutions, float32, batch 1, {threads} threads; microseconds"
    shown = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("workload", no_wrap=True)
    times = [title for title, _ in _COLUMNS]
    for column in ("ours", "bound", "x bound", *times, "vs ORT", "vs torch", "vs MS"):
        shown.add_column(column, justify="right")
    for row in rows:
        shown.add_row(*row.cells())
    return shown


def summary(rows: Sequence[Row]) -> Table:
    """How many times as long as ours each peer takes, over all workloads."""
    shown = Table("peer", title="times as long as ours", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("workloads", "geometric mean", "at worst"):
        shown.add_column(column, justify="right")
    for name, peers in _COMPARED.items():
        if ratios := _ratios(rows, *peers):
            title = "best torch" if name == BEST_TORCH else name
            mean = statistics.geometric_mean(ratios)
            shown.add_row(title, str(len(ratios)), f"{mean:.3f}", f"{min(ratios):.3f}")
    return shown


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """The figures of the last line.

    Those of peers that ran nowhere are left out, and those of the bounds where these are wrong.
    """
    report: dict[str, float] = {}
    for name, peers in _COMPARED.items():
        if ratios := _ratios(rows, *peers):
            report[f"geomean_vs_{name}"] = statistics.geometric_mean(ratios)
            report[f"min_vs_{name}"] = min(ratios)
    if not _too_fast(rows):
        report["median_vs_bound"] = statistics.median(row.over_bound for row in rows)
        for name, large in (("large_vs_bound", True), ("small_vs_bound", False)):
            over = [row.over_bound for row in rows if row.large is large]
            if over:
                report[name] = max(over)
    rounded = {name: round(value, 4) for name, value in report.items()}
    tuned = len(_ratios(rows, METASCHEDULE))
    return {**rounded, "workloads": len(rows), "workloads_metaschedule256": tuned}


def explain(console: Console, rows: Sequence[Row]) -> None:
    """Name the workloads that miss a target which every workload has to meet."""
    large = [row for row in rows if row.large]
    small = [row for row in rows if not row.large]
    below, above = (lambda ratio: ratio < LEAST_RATIO), (lambda bound: lambda x: x > bound)
    _name(console, f"below {LEAST_RATIO} of ONNX Runtime", rows, _over(ONNXRUNTIME), below)
    _name(console, f"below {LEAST_RATIO} of the best torch", rows, _over(*TORCH), below)
    too_fast = _too_fast(rows)
    if too_fast:
        console.print(
            f"{too_fast} of {len(rows)} kernels are faster than their bound: the machine did not "
            "give all its cores while its peak was measured, and nothing is said of bounds",
            soft_wrap=True,
        )
        return
    for what, some, most in (
        ("large dense", large, LARGE_OVER_BOUND),
        ("other", small, OVER_BOUND),
    ):
        text = f"{what} convolutions above {most} of their bound"
        _name(console, text, some, lambda row: row.over_bound, above(most))


def _too_fast(rows: Sequence[Row]) -> int:
    """Kernels that are faster than they can be."""
    return sum(row.over_bound < BELIEVED for row in rows)


def _over(*peers: str) -> Callable[[Row], float | None]:
    return lambda row: row.over(*peers)


def _name(
    console: Console,
    what: str,
    rows: Iterable[Row],
    value: Callable[[Row], float | None],
    misses: Callable[[float], bool],
) -> None:
    found = [(row.workload.name, value(row)) for row in rows]
    missed = [(name, x) for name, x in found if x is not None and misses(x)]
    if missed:
        worst = sorted(missed, key=lambda pair: abs(pair[1] - 1), reverse=True)
        named = ", ".join(f"{name} ({x:.2f})" for name, x in worst[:NAMED])
        more = f", and {len(missed) - NAMED} more" if len(missed) > NAMED else ""
        console.print(f"{what}: {len(missed)}: {named}{more}", soft_wrap=True)


def _ratios(rows: Sequence[Row], *peers: str) -> list[float]:
    return [ratio for row in rows if (ratio := row.over(*peers)) is not None]


def _microseconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{1e6 * seconds:.1f}" if seconds < 100e-6 else f"{1e6 * seconds:.0f}"


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"
