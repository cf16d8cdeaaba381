"""Kernels of convolutions and of their transformed forms, against the libraries.

    python -m engine.bench.kernels [--quick] [--tune] [--peers NAME,...] [--schedules FILE]

Every kernel is compiled, compared with PyTorch on random input, and timed in turns with its peers,
all in this process: ONNX Runtime, PyTorch (eager, channels-last, and compiled with the weights
frozen) and TVM without tuning, which run the same function as a module, and the kernels that
TVM's MetaSchedule found in 64 and in 256 trials where they are recorded
(`engine.bench.metaschedule`).  A kernel has the schedule recorded in kernel_schedules.json of the
machine's folder of experiments/recorded; `--tune` first tunes every workload, with
`--measurements` each, and records what it finds unless the recorded schedule is faster.  Where
none is recorded, the kernel has the default schedule.

Shown is the least time of calls that together take half a millisecond, over rounds of which each
goes through all workloads: two threads are put on one core now and then, of any runtime, and may
stay there for seconds.  The bound of a kernel is the larger of what its multiply-adds take
at the peak that is measured here, and what its operands take to be read and its result to be
written from the last cache.  The last line is one JSON object with the geometric means of the
ratios.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from engine.bench import command, kernel_report, kernel_schedules, metaschedule, peers
from engine.bench.bounds import Bounds, limits
from engine.bench.command import BenchError
from engine.bench.kernel_report import (
    CHANNELS_LAST,
    EAGER,
    INDUCTOR,
    METASCHEDULE,
    METASCHEDULE_FEW,
    ONNXRUNTIME,
    OURS,
    PEERS,
    TVM_DEFAULT,
)
from engine.bench.kernel_schedules import Recorded
from engine.bench.metaschedule_records import Record
from engine.bench.recorded import recorded
from engine.bench.workloads import Workload, workloads
from engine.turns import least_s
from genomes.gene import Gene
from genomes.genome import Genome
from genomes.nest import LoopNest
from genomes.transformations import apply

if TYPE_CHECKING:
    from backends.base import Backend

SCHEDULES = "kernel_schedules.json"
ROUNDS, QUICK_ROUNDS = 7, 2
DUEL_ROUNDS = 5
"""Turns of a newly tuned schedule and of the recorded one."""
TOLERANCE = 1e-4
"""Largest accepted deviation from PyTorch, relative to the largest output."""

QUICK_PEERS = (ONNXRUNTIME, EAGER, CHANNELS_LAST, METASCHEDULE)
"""Those that are built in less than a second."""
LIMITS, LIMITS_AGAIN = "limits", "limits, again"
"""What is timed before and after the workloads: what the machine can do at most."""
METASCHEDULES = {METASCHEDULE_FEW: metaschedule.FEW_TRIALS, METASCHEDULE: metaschedule.TRIALS}


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = command.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="twelve workloads")
    parser.add_argument("--tune", action="store_true", help="tune and record the schedules")
    parser.add_argument("--measurements", type=int, default=32, help="for each workload")
    parser.add_argument("--seed", type=int, default=0, help="of the tuning")
    parser.add_argument("--schedules", type=Path, help="a file instead of this machine's own")
    parser.add_argument("--metaschedule", type=Path, help="records instead of this machine's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--rounds", type=int, help=f"{ROUNDS} by default, {QUICK_ROUNDS} with --quick"
    )
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument(
        "--peers",
        help=f"of {', '.join(PEERS)}; all by default, {', '.join(QUICK_PEERS)} with --quick",
    )
    options = parser.parse_args(arguments)
    if options.rounds is None:
        options.rounds = QUICK_ROUNDS if options.quick else ROUNDS
    if options.rounds < 1 or options.measurements < 1:
        parser.error("--rounds and --measurements must be at least 1")
    if options.peers is None:
        options.peers = QUICK_PEERS if options.quick else PEERS
    else:
        options.peers = tuple(filter(None, options.peers.split(",")))
        if unknown := [name for name in options.peers if name not in PEERS]:
            parser.error(f"no such peer: {', '.join(unknown)}; there are {', '.join(PEERS)}")
    peers.share_process(options.threads)
    return command.run(
        "kernels", lambda console: _benchmark(options, console), kernel_report.TARGETS
    )


def _benchmark(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    import torch

    from backends.registry import create_backend

    chosen = [w for w in workloads() if (w.quick or not options.quick) and options.only in w.name]
    if not chosen:
        raise BenchError(f"no workload has {options.only!r} in its name")
    with create_backend("cpu", {"threads": options.threads}) as backend:
        network = backend.network_target()
        assert network is not None
        target, lanes = dict(network.target), network.features.lanes
        path = options.schedules or recorded(target, SCHEDULES)
        known = _known(path, target, options.tune, console)
        if options.tune:
            _tune(chosen, backend, options, path, known, console)
        nests = {w.name: _scheduled(w, known.schedules, backend) for w in chosen}
    torch.set_num_threads(options.threads)
    tuned = metaschedule.records(target, options.metaschedule)
    count = sum(workload.name in tuned for workload in chosen)
    console.print(f"{count} of {len(chosen)} workloads have a record of MetaSchedule")
    most = limits(target, options.threads, lanes)
    runs = {w.name: _runs(w, nests[w.name], tuned.get(w.name), target, options) for w in chosen}
    with torch.no_grad():
        fastest_s = least_s({LIMITS: most, **runs, LIMITS_AGAIN: most}, options.rounds)
    first, last = fastest_s.pop(LIMITS), fastest_s.pop(LIMITS_AGAIN)
    least = {limit: min(seconds, last[limit]) for limit, seconds in first.items()}
    bounds = Bounds.of(least, options.threads, lanes)
    console.print(
        f"measured peak {bounds.macs_per_s * 2e-9:.0f} GFLOP/s, "
        f"bandwidth of the last cache {bounds.bytes_per_s * 1e-9:.0f} GB/s; "
        f"a call on all threads takes {1e6 * bounds.call_s:.1f} us"
    )
    rows = [kernel_report.Row.of(w, fastest_s[w.name], bounds) for w in chosen]
    console.print(kernel_report.table(rows, options.threads))
    console.print(kernel_report.summary(rows))
    kernel_report.explain(console, rows)
    return kernel_report.figures(rows)


def _runs(
    workload: Workload,
    nest: LoopNest,
    record: Record | None,
    target: Mapping[str, Any],
    options: argparse.Namespace,
) -> dict[str, Callable[[], object]]:
    """Every way to compute a workload, compared with PyTorch."""
    import torch

    from backends.kernel_job import operands_of
    from engine.network import relative_error
    from genomes.modules import SiteConv2d

    operands = operands_of(workload.nest)
    x = torch.from_numpy(operands.x)
    weights = [torch.from_numpy(w) for w in operands.weights]
    module = SiteConv2d(workload.nest, weights).eval()
    builders: dict[str, Callable[[], peers.Peer]] = {
        ONNXRUNTIME: lambda: peers.onnxruntime(module, x, options.threads, traced=True),
        EAGER: lambda: peers.eager(module, x),
        CHANNELS_LAST: lambda: peers.channels_last(module, x),
        INDUCTOR: lambda: peers.inductor(module, x),
        TVM_DEFAULT: lambda: peers.tvm_default(module, x, target),
    }
    for name, trials in METASCHEDULES.items():
        if record is not None and trials in record.best:
            builders[name] = functools.partial(
                metaschedule.build, workload.nest, record, target, operands, trials
            )
    wanted = {name: build for name, build in builders.items() if name in options.peers}
    wanted[OURS] = lambda: own_kernel(nest, target, operands)
    runs = {}
    for name, build in wanted.items():
        run, result = build()
        error = relative_error(result, operands.expected)
        if not error <= TOLERANCE:
            raise BenchError(f"{workload.name}: {name} deviates from PyTorch by {error:.1e}")
        runs[name] = run
    return runs


def own_kernel(
    nest: LoopNest, target: Mapping[str, Any], operands: Any
) -> tuple[Callable[[], object], np.ndarray]:
    """A scheduled nest's kernel on packed weights, as a peer."""
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


def _known(path: Path, target: Mapping[str, Any], to_tune: bool, console: Console) -> Recorded:
    """The recorded schedules of this target, to which more can be added."""
    found = kernel_schedules.read(path)
    if found is not None and found.target == target:
        return found
    if found is not None and to_tune:
        raise BenchError(f"{path} has the schedules of another target; give another --schedules")
    if not to_tune:
        console.print(
            f"{path} has no schedules of this target: kernels have default schedules; --tune "
            "records better ones",
            soft_wrap=True,
        )
    return Recorded(target, {})


def _tune(
    chosen: Sequence[Workload],
    backend: Backend,
    options: argparse.Namespace,
    path: Path,
    known: Recorded,
    console: Console,
) -> None:
    """Tune every workload, each with what those before it have taught the ranking.

    What has been found is recorded at once; the recorded schedule stays where it is faster.
    """
    from backends.tuning import Sample, tune

    schedules = known.schedules
    start, count = time.perf_counter(), 0
    samples: list[Sample] = []
    for workload in chosen:
        tuned = tune(backend, workload.nest, options.measurements, options.seed, samples)
        samples.extend(tuned.samples(backend))
        count += tuned.measurements
        genes: tuple[Gene, ...] = tuple(g for s in tuned.nest.statements for g in s.schedule_genes)
        kept = workload.name in schedules and not _faster(
            workload, tuned.nest, _scheduled(workload, schedules, backend), backend
        )
        if not kept:
            schedules[workload.name] = Genome.of({workload.name: genes})
            kernel_schedules.write(path, known)
        console.print(
            f"{workload.name}: {1e6 * tuned.latency_s:.1f} us after {tuned.measurements} "
            f"measurements ({1e6 * tuned.proposed_s:.1f} us before the ranking learned)"
            f"{'; the recorded schedule is kept' if kept else ''}",
            soft_wrap=True,
        )
    seconds = time.perf_counter() - start
    console.print(f"{count} measurements in {seconds:.0f} s")


def _faster(workload: Workload, nest: LoopNest, other: LoopNest, backend: Backend) -> bool:
    """Whether `nest` is the faster one of two schedules."""
    from backends.kernel_job import operands_of

    network = backend.network_target()
    assert network is not None
    operands = operands_of(workload.nest)
    built = {str(n): own_kernel(s, network.target, operands) for n, s in enumerate((nest, other))}
    times = least_s({"": {name: run for name, (run, _) in built.items()}}, DUEL_ROUNDS)[""]
    return times["0"] < times["1"]


if __name__ == "__main__":
    sys.exit(main())
