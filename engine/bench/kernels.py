"""Kernels of convolutions and of their transformed forms, against the libraries.

    python -m engine.bench.kernels [--quick] [--tune] [--schedules FILE]

Every kernel is compiled, compared with PyTorch on random input, and timed in turns with ONNX
Runtime and PyTorch, which run the same function as a module, all in this process.  A kernel has
the schedule recorded in FILE; `--tune` first measures the backend's proposals for every workload
and records the fastest.  Where FILE has none, the kernel has the default schedule.

Shown is the fastest of the rounds: kernels of some microseconds suffer whenever the scheduler
puts two threads on one core.  The bound of a kernel is the larger of what its multiply-adds take
at the peak that is measured here, and what its operands take to be read and its result to be
written from the last cache.  The last line is one JSON object with the geometric means of the
ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from engine.bench import command, peers
from engine.bench.bounds import measure_bounds
from engine.bench.command import BenchError
from engine.bench.workloads import Workload, workloads
from genomes.gene import Gene
from genomes.genome import Genome
from genomes.nest import LoopNest
from genomes.transformations import apply

if TYPE_CHECKING:
    from backends.base import Backend

SCHEDULES = Path("experiments/kernel_schedules.json")
SETTLE_S = 0.08
TOLERANCE = 1e-4
"""Largest accepted deviation from PyTorch, relative to the largest output."""

OURS, ONNXRUNTIME, EAGER, CHANNELS_LAST, INDUCTOR = (
    "loopgene",
    "onnxruntime",
    "torch",
    "channels_last",
    "inductor",
)
TORCH = (EAGER, CHANNELS_LAST, INDUCTOR)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = command.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="twelve workloads")
    parser.add_argument("--tune", action="store_true", help="measure proposals and record them")
    parser.add_argument("--schedules", type=Path, default=SCHEDULES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--inductor", action="store_true", help="torch.compile too (slow)")
    options = parser.parse_args(arguments)
    peers.share_process(options.threads)
    return command.run("kernels", lambda console: _benchmark(options, console))


def _benchmark(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    import torch

    from backends.registry import create_backend

    chosen = [w for w in workloads() if (w.quick or not options.quick) and options.only in w.name]
    if not chosen:
        raise BenchError(f"no workload has {options.only!r} in its name")
    with create_backend("cpu", {"threads": options.threads}) as backend:
        schedules = _read(options.schedules)
        if options.tune:
            _tune(chosen, backend, schedules, console)
            _write(options.schedules, schedules)
        network = backend.network_target()
        assert network is not None
        target, lanes = dict(network.target), network.features.lanes
        nests = {w.name: _scheduled(w, schedules, backend) for w in chosen}
    torch.set_num_threads(options.threads)
    bounds = measure_bounds(target, options.threads, lanes)
    console.print(
        f"measured peak {bounds.macs_per_s * 2e-9:.0f} GFLOP/s, "
        f"bandwidth of the last cache {bounds.bytes_per_s * 1e-9:.0f} GB/s"
    )
    table = Table(title=f"convolutions, float32, batch 1, {options.threads} threads")
    table.add_column("workload", no_wrap=True)
    for column in ("us", "bound", "x bound", "ORT", "torch", "vs ORT", "vs torch"):
        table.add_column(column, justify="right")
    rows = []
    for workload in chosen:
        least = _time(workload, nests[workload.name], target, options)
        row = _Row(workload.name, least, *bounds.seconds(workload.nest))
        rows.append(row)
        table.add_row(*row.cells())
    console.print(table)
    return _report(rows)


@dataclass(frozen=True)
class _Row:
    name: str
    least: Mapping[str, float]
    bound_s: float
    bound: str

    @property
    def over_onnxruntime(self) -> float:
        return self.least[ONNXRUNTIME] / self.least[OURS]

    @property
    def over_torch(self) -> float:
        return min(self.least[n] for n in TORCH if n in self.least) / self.least[OURS]

    @property
    def over_bound(self) -> float:
        return self.least[OURS] / self.bound_s

    def cells(self) -> list[str]:
        best_torch = self.over_torch * self.least[OURS]
        return [
            self.name,
            f"{1e6 * self.least[OURS]:.1f}",
            f"{1e6 * self.bound_s:.1f} {self.bound[0]}",
            f"{self.over_bound:.2f}",
            f"{1e6 * self.least[ONNXRUNTIME]:.1f}",
            f"{1e6 * best_torch:.1f}",
            f"{self.over_onnxruntime:.2f}",
            f"{self.over_torch:.2f}",
        ]


def _report(rows: Sequence[_Row]) -> dict[str, Any]:
    versus = [row.over_onnxruntime for row in rows]
    report = {
        "geomean_vs_onnxruntime": statistics.geometric_mean(versus),
        "min_vs_onnxruntime": min(versus),
        "geomean_vs_torch": statistics.geometric_mean(row.over_torch for row in rows),
        "min_vs_torch": min(row.over_torch for row in rows),
        "median_vs_bound": statistics.median(row.over_bound for row in rows),
    }
    return {**{k: round(v, 4) for k, v in report.items()}, "workloads": len(rows)}


def _time(
    workload: Workload, nest: LoopNest, target: Mapping[str, Any], options: argparse.Namespace
) -> dict[str, float]:
    """Least seconds of every way to compute a workload, over all rounds."""
    import torch

    from backends.kernel_job import operands_of
    from engine.network import interleaved, relative_error
    from genomes.modules import SiteConv2d

    operands = operands_of(workload.nest)
    x = torch.from_numpy(operands.x)
    weights = [torch.from_numpy(w) for w in operands.weights]
    module = SiteConv2d(workload.nest, weights).eval()
    builders: dict[str, Callable[[], peers.Peer]] = {
        OURS: lambda: _kernel(nest, target, operands),
        ONNXRUNTIME: lambda: peers.onnxruntime(module, x, options.threads),
        EAGER: lambda: peers.eager(module, x),
        CHANNELS_LAST: lambda: peers.channels_last(module, x),
    }
    if options.inductor:
        builders[INDUCTOR] = lambda: peers.inductor(module, x)
    runs = {}
    for name, build in builders.items():
        run, result = build()
        error = relative_error(result, operands.expected)
        if not error <= TOLERANCE:
            raise BenchError(f"{workload.name}: {name} deviates from PyTorch by {error:.1e}")
        runs[name] = run
    with torch.no_grad():
        times = interleaved(runs, options.rounds, SETTLE_S)
    return {name: min(values) for name, values in times.items()}


def _kernel(
    nest: LoopNest, target: Mapping[str, Any], operands: Any
) -> tuple[Callable[[], object], np.ndarray]:
    import tvm

    from backends.lowering import build_kernel

    kernel = build_kernel(nest, dict(target))
    arrays = kernel.arguments(operands.x, operands.weights, operands.bias)
    arguments = [tvm.runtime.tensor(a) for a in arrays]
    call = kernel.module["main"]
    call(*arguments)
    return lambda: call(*arguments), arguments[-1].numpy()


def _scheduled(workload: Workload, schedules: Mapping[str, Genome], backend: Backend) -> LoopNest:
    nest = workload.nest
    if workload.name in schedules:
        for gene in schedules[workload.name].genes(workload.name):
            nest = apply(nest, gene)
    return backend.default_schedule(nest)


def _tune(
    chosen: Sequence[Workload],
    backend: Backend,
    schedules: dict[str, Genome],
    console: Console,
) -> None:
    from backends.base import Measured

    start, count = time.perf_counter(), 0
    for workload in chosen:
        proposals = backend.schedule_candidates(workload.nest)
        outcomes = backend.measure(proposals)
        count += len(proposals)
        timed = [
            (min(outcome.times_s), nest)
            for outcome, nest in zip(outcomes, proposals, strict=True)
            if isinstance(outcome, Measured)
        ]
        if not timed:
            raise BenchError(f"no proposed schedule of {workload.name} works: {outcomes[0]}")
        best_s, best = min(timed, key=lambda pair: pair[0])
        genes: tuple[Gene, ...] = tuple(g for s in best.statements for g in s.schedule_genes)
        schedules[workload.name] = Genome.of({workload.name: genes})
        console.print(f"{workload.name}: {1e6 * best_s:.1f} us, the best of {len(timed)}")
    seconds = time.perf_counter() - start
    console.print(f"{count} measurements in {seconds:.0f} s")


def _read(path: Path) -> dict[str, Genome]:
    if not path.exists():
        return {}
    try:
        data = json.loads(path.read_text())
        return {name: Genome.from_json(genome) for name, genome in data.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise BenchError(
            f"cannot read the schedules {path}: {error}; record them again with --tune"
        ) from error


def _write(path: Path, schedules: Mapping[str, Genome]) -> None:
    lines = [f"{json.dumps(n)}: {json.dumps(g.to_json())}" for n, g in sorted(schedules.items())]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    sys.exit(main())
