"""TVM's MetaSchedule on the workloads of the kernel benchmark: tuned once, recorded, replayed.

    python -m engine.bench.metaschedule [--quick] [--only TEXT] [--trials 256] [--at-most N]

Tunes every workload that has no record for this machine yet, about two minutes each, and writes
its best schedules after 64 and after all trials to metaschedule_kernels.json in the machine's
folder of experiments/recorded.  It can be interrupted at any time: what is finished is recorded.
What MetaSchedule may do is described in `engine.bench.metaschedule_tuning`; weights come packed as
its schedule wants them, as those of LoopGene's kernels do.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from engine.bench import command, metaschedule_records, peers
from engine.bench.command import BenchError
from engine.bench.metaschedule_function import plain_function
from engine.bench.metaschedule_records import Record
from engine.bench.metaschedule_tuning import (
    Tuner,
    TuningError,
    compiled,
    host_target,
    scheduled,
    tuning_options,
    weight_layouts,
)
from engine.bench.recorded import recorded
from engine.bench.workloads import Workload, workloads
from genomes.nest import LoopNest

if TYPE_CHECKING:
    from backends.kernel_job import Operands

RECORDS = "metaschedule_kernels.json"
FEW_TRIALS, TRIALS = 64, 256
SEED = 0


def main(arguments: list[str] | None = None) -> int:
    """Tune what has no record; returns the exit code."""
    parser = command.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="the quick benchmark's workloads")
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    options = tuning_options(parser, arguments, TRIALS)
    peers.share_process(options.threads)
    return command.run("metaschedule", lambda console: _run(options, console))


def _run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    chosen = [w for w in workloads() if (w.quick or not options.quick) and options.only in w.name]
    if not chosen:
        raise BenchError(f"no workload has {options.only!r} in its name")
    target = host_target(options.threads)
    path = options.records or recorded(target, RECORDS)
    known = records(target, path)
    missing = [workload for workload in chosen if workload.name not in known]
    console.print(f"{len(chosen) - len(missing)} of {len(chosen)} workloads have a record")
    tuned = missing[: options.at_most]
    _tune(tuned, target, path, options.trials, console)
    return {"workloads": len(chosen), "tuned": len(tuned), "missing": len(missing) - len(tuned)}


def records(target: Mapping[str, Any], path: Path | None = None) -> dict[str, Record]:
    """What is recorded of the workloads, by name, for this target and this version of TVM.

    Args:
        target: For `tvm.target.Target`.
        path: A file instead of that of the target.

    Raises:
        TuningError: The file is damaged.
    """
    found = metaschedule_records.read(path or recorded(target, RECORDS))
    return {
        w.name: found[w.name]
        for w in workloads()
        if w.name in found and found[w.name].fits(w.nest.structure_key, target)
    }


def build(
    nest: LoopNest,
    record: Record,
    target: Mapping[str, Any],
    operands: Operands,
    trials: int = TRIALS,
) -> peers.Peer:
    """MetaSchedule's best kernel after some trials, on packed weights.

    Args:
        nest: Unscheduled.
        record: Of this nest.
        target: For `tvm.target.Target`.
        operands: Of `nest`.
        trials: A number of trials that the record has.

    Raises:
        TuningError: The record is of another nest, or does not apply.
    """
    import tvm

    if record.key != nest.structure_key or trials not in record.best:
        raise TuningError(
            f"the record of {nest.shape} is not of {trials} trials of this computation; "
            "tune it again with `make tune-metaschedule`"
        )
    mod = scheduled(plain_function(nest), record.best[trials].trace).mod
    kernel = compiled(mod, tvm.target.Target(dict(target)))
    layouts = weight_layouts(mod)
    weights = []
    for number, weight in enumerate(operands.weights):
        plain, layout = tvm.runtime.tensor(weight), layouts.get(f"weight_{number}")
        weights.append(plain if layout is None else layout.map_tensor(plain))
    bias = [] if operands.bias is None else [tvm.runtime.tensor(operands.bias)]
    result = tvm.runtime.tensor(np.full(nest.shape.output_shape, np.nan, np.float32))
    arguments = (tvm.runtime.tensor(operands.x), *weights, *bias, result)
    call = kernel["main"]
    call(*arguments)
    return lambda: call(*arguments), result.numpy()


def _tune(
    missing: Sequence[Workload],
    target: dict[str, Any],
    path: Path,
    most_trials: int,
    console: Console,
) -> None:
    if not missing:
        return
    import tvm

    checkpoints = sorted({min(FEW_TRIALS, most_trials), most_trials})
    with Tuner(target) as tuner:
        for workload in missing:
            start = time.perf_counter()
            best = tuner.tune(plain_function(workload.nest), checkpoints, SEED)
            seconds = round(time.perf_counter() - start, 1)
            key = workload.nest.structure_key
            record = Record(key, target, tvm.__version__, SEED, seconds, best)
            metaschedule_records.add(path, workload.name, record)
            times = ", ".join(
                f"{1e6 * found.time_s:.1f} us after {trials}" for trials, found in best.items()
            )
            console.print(f"{workload.name}: {times} trials in {seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
