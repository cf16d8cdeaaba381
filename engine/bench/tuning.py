"""Our tuner with few measurements against MetaSchedule with many.

    python -m engine.bench.tuning [--measurements 32] [--all] [--only TEXT] [--store FILE]

Every workload is tuned from what the workloads before it have taught the ranking, and from the
measurement store FILE, if one is given.  Then its kernel and the one that MetaSchedule found
(recorded by `make tune-metaschedule`) are compiled, compared with PyTorch on random input, and
timed in turns in this process; shown is the fastest of the rounds.  A workload without a record
is tuned and timed alone.  The gain is that over the fastest of the backend's first proposals, by
the tuner's own measurements.  A schedule whose timing something else has disturbed is timed once
more, which is counted as `timed_again`.  Candidates per second count proposing and ranking,
building, checking and timing.  The last line is one JSON object with the geometric mean of the
ratios.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from engine.bench import command, metaschedule, peers
from engine.bench.command import BenchError, Target
from engine.bench.kernels import TOLERANCE, own_kernel
from engine.bench.workloads import MIDDLE, Workload, name_of, workloads
from engine.network import relative_error
from engine.turns import least_s

if TYPE_CHECKING:
    from backends.base import Backend
    from backends.tuning import Sample, Tuned
    from engine.bench.metaschedule_records import Record

TARGETS = (Target("geomean", 1.15), Target("candidates_per_second_128", 10.0))
OURS, METASCHEDULE = "loopgene", "metaschedule"


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = command.parser(__doc__)
    parser.add_argument("--measurements", type=int, default=32, help="for each workload")
    parser.add_argument("--all", action="store_true", help="every workload, not twelve")
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--store", type=Path, help="measurements to learn from")
    parser.add_argument("--metaschedule", type=Path, help="records instead of this machine's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    if options.measurements < 1 or options.rounds < 1:
        parser.error("--measurements and --rounds must be at least 1")
    peers.share_process(options.threads)
    return command.run("tuning", lambda console: _benchmark(options, console), TARGETS)


@dataclass(frozen=True)
class _Row:
    name: str
    tuned: Tuned
    record: Record | None
    least_s: Mapping[str, float]

    @property
    def ratio(self) -> float | None:
        if METASCHEDULE not in self.least_s:
            return None
        return self.least_s[METASCHEDULE] / self.least_s[OURS]

    @property
    def gain(self) -> float:
        """The fastest of the backend's own proposals against what evolution made of them."""
        return self.tuned.proposed_s / self.tuned.latency_s

    @property
    def per_s(self) -> float:
        return self.tuned.measurements / self.tuned.seconds

    def cells(self) -> list[str]:
        peer_s = self.least_s.get(METASCHEDULE)
        return [
            self.name,
            f"{1e6 * self.least_s[OURS]:.1f}",
            "-" if peer_s is None else f"{1e6 * peer_s:.1f}",
            "-" if self.ratio is None else f"{self.ratio:.2f}",
            f"{self.gain:.2f}",
            f"{self.tuned.measurements}",
            f"{self.tuned.seconds_to_95_percent:.1f}",
            f"{self.per_s:.1f}",
        ]


def _benchmark(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    import torch

    from backends.registry import create_backend

    chosen = [w for w in workloads() if (w.quick or options.all) and options.only in w.name]
    if not chosen:
        raise BenchError(f"no workload has {options.only!r} in its name")
    with create_backend("cpu", {"threads": options.threads}) as backend:
        network = backend.network_target()
        assert network is not None
        target = dict(network.target)
        records = metaschedule.records(target, options.metaschedule)
        tuned = _tune(chosen, backend, options)
    torch.set_num_threads(options.threads)
    table = Table(title=f"{options.measurements} measurements of ours against MetaSchedule's")
    table.add_column("workload", no_wrap=True)
    for column in ("us", "MetaSchedule", "ratio", "gain", "measured", "s to 95 %", "per s"):
        table.add_column(column, justify="right")
    runs = {w.name: _runs(w, tuned[w.name], records.get(w.name), target) for w in chosen}
    fastest_s = least_s(runs, options.rounds)
    rows = [_Row(name, tuned[name], records.get(name), fastest_s[name]) for name in runs]
    for row in rows:
        table.add_row(*row.cells())
    console.print(table)
    return _figures(rows)


def _tune(
    chosen: Sequence[Workload], backend: Backend, options: argparse.Namespace
) -> dict[str, Tuned]:
    from backends.tuning import tune

    # Before the clock starts, the worker processes import what they need.
    backend.measure([backend.default_schedule(chosen[0].nest)])
    samples = _stored(backend, options.store) if options.store else []
    found = {}
    for workload in chosen:
        tuned = tune(backend, workload.nest, options.measurements, options.seed, samples)
        samples.extend(tuned.samples(backend))
        found[workload.name] = tuned
    return found


def _stored(backend: Backend, path: Path) -> list[Sample]:
    from backends.store import MeasurementStore
    from backends.stored import StoredBackend
    from backends.tuning import stored_samples

    if not path.exists():
        raise BenchError(f"there is no measurement store {path}")
    with MeasurementStore(path) as store:
        return stored_samples(StoredBackend(backend, store))


def _runs(
    workload: Workload, tuned: Tuned, record: Record | None, target: Mapping[str, Any]
) -> dict[str, Callable[[], object]]:
    """Our kernel and MetaSchedule's, compared with PyTorch."""
    from backends.kernel_job import operands_of

    operands = operands_of(workload.nest)
    built = {OURS: own_kernel(tuned.nest, target, operands)}
    if record is not None:
        built[METASCHEDULE] = metaschedule.build(
            workload.nest, record, target, operands, record.trials
        )
    for name, (_, result) in built.items():
        error = relative_error(result, operands.expected)
        if not error <= TOLERANCE:
            raise BenchError(f"{workload.name}: {name} deviates from PyTorch by {error:.1e}")
    return {name: run for name, (run, _) in built.items()}


def _figures(rows: Sequence[_Row]) -> dict[str, Any]:
    measurements = sum(row.tuned.measurements for row in rows)
    seconds = sum(row.tuned.seconds for row in rows)
    figures: dict[str, Any] = {
        "measurements": measurements,
        "timed_again": sum(row.tuned.timed_again for row in rows),
        "most_measurements": max(row.tuned.measurements for row in rows),
        "seconds_ours": round(seconds, 1),
        "seconds_to_95_percent": round(sum(r.tuned.seconds_to_95_percent for r in rows), 1),
        "geomean_gain": round(statistics.geometric_mean(row.gain for row in rows), 4),
        "candidates_per_second": round(measurements / seconds, 2),
        "workloads": len(rows),
    }
    for row in rows:
        if row.name == name_of(MIDDLE):
            figures["candidates_per_second_128"] = round(row.per_s, 2)
    ratios = [row.ratio for row in rows if row.ratio is not None]
    if ratios:
        figures |= {
            "geomean": round(statistics.geometric_mean(ratios), 4),
            "min": round(min(ratios), 4),
            "compared": len(ratios),
            "seconds_metaschedule": round(sum(r.record.seconds for r in rows if r.record), 1),
        }
    return figures


if __name__ == "__main__":
    sys.exit(main())
