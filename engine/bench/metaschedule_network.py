"""Whole networks compiled by TVM with what MetaSchedule found for each of their functions.

    python -m engine.bench.metaschedule_network [EXPERIMENT.yaml ...] [--trials 64] [--at-most N]

Relax imports the network, folds BatchNorm into the convolutions, and fuses what follows them;
every function that is left is tuned on its own, and recorded by its content in
metaschedule_networks.json of the machine's folder of experiments/recorded, so that networks share
what they have in common.  Weights are packed at compile time as the schedules want them.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from engine.bench import command, metaschedule_records, peers
from engine.bench.metaschedule_records import Record
from engine.bench.metaschedule_tuning import (
    Tuner,
    host_target,
    light_intrinsics,
    scheduled,
    tuning_options,
)
from engine.bench.recorded import recorded

if TYPE_CHECKING:
    from torch import Tensor, nn

EXPERIMENTS = tuple(
    Path(f"experiments/{name}.yaml")
    for name in (
        "resnet18_cifar10_cpu",
        "resnet34_cifar10_cpu",
        "resnext29_cifar10_cpu",
        "densenet161_cifar10_cpu",
        "mobilenetv2_imagenet_cpu",
    )
)
RECORDS = "metaschedule_networks.json"
TRIALS = 64
SEED = 0


@dataclass(frozen=True)
class Task:
    """One function of a network.

    Attributes:
        name: What Relax calls it, and the beginning of its content hash.
        key: Its content hash.
        mod: A module with the function as `main`, its stages numbered.
    """

    name: str
    key: str
    mod: Any


def main(arguments: list[str] | None = None) -> int:
    """Tune the functions that have no record; returns the exit code."""
    parser = command.parser(__doc__)
    parser.add_argument("experiments", nargs="*", default=EXPERIMENTS, type=Path)
    options = tuning_options(parser, arguments, TRIALS)
    peers.share_process(options.threads)
    return command.run("metaschedule", lambda console: _tune(options, console))


def metaschedule(
    module: nn.Module, x: Tensor, threads: int, path: Path | None = None
) -> peers.Peer | None:
    """A network as MetaSchedule-tuned TVM runs it; None where a function has no record.

    Args:
        module: In eval mode.
        x: Its input.
        threads: Threads to run on.
        path: The records; by default those of this machine.

    Raises:
        TuningError: The records are damaged.
    """
    import tvm
    from tvm import relax

    target = host_target(threads)
    mod = imported(module, x, target)
    tasks = tasks_of(mod, target)
    records = _records(path or recorded(target, RECORDS), target)
    if any(task.key not in records for task in tasks):
        return None
    tvm_target = tvm.target.Target(target)
    with tvm_target, _database(tasks, records, tvm_target):
        mod = relax.transform.MetaScheduleApplyDatabase()(mod)
    # Like the networks that it is compared with, it trusts its caller to pass what fits.
    options = {"tirx.disable_assert": True}
    with tvm_target, tvm.transform.PassContext(config=options):
        mod = tvm.transform.Sequential(
            [
                relax.transform.SplitLayoutRewritePreproc(),
                relax.transform.LiftTransformParams(),
                relax.transform.FoldConstant(),
            ]
        )(mod)
        executable = tvm.compile(mod, tvm_target)
    run = relax.VirtualMachine(executable, tvm.cpu())["main"]
    data = tvm.runtime.tensor(x.numpy())
    return lambda: run(data), run(data).numpy()


def imported(module: nn.Module, x: Tensor, target: Mapping[str, Any]) -> Any:
    """A network as a Relax module of fused functions whose weights are layout-free."""
    import torch
    import tvm
    from tvm import relax
    from tvm.relax.frontend.torch import from_exported_program

    with torch.no_grad():
        program = torch.export.export(module, (x,))
    mod = from_exported_program(program, unwrap_unit_return_tuple=True)
    with tvm.target.Target(dict(target)):
        return tvm.transform.Sequential(
            [
                relax.transform.FoldBatchnormToConv2D(),
                relax.transform.DecomposeOpsForInference(),
                relax.transform.CanonicalizeBindings(),
                relax.get_pipeline("zero"),
                relax.transform.CanonicalizeBindings(),
                relax.transform.AttachAttrLayoutFreeBuffers(),
            ]
        )(mod)


def tasks_of(mod: Any, target: Mapping[str, Any]) -> list[Task]:
    """The distinct functions of an imported network, by name."""
    light_intrinsics()
    import tvm
    from tvm.s_tir.meta_schedule.relax_integration import extract_tasks
    from tvm.s_tir.meta_schedule.utils import shash2hex

    tasks = []
    for task in extract_tasks(mod, tvm.target.Target(dict(target))):
        (function,) = task.dispatched
        key = str(shash2hex(function))
        tasks.append(Task(f"{task.task_name} {key[:10]}", key, _numbered(function)))
    return sorted(tasks, key=lambda task: task.name)


def _numbered(mod: Any) -> Any:
    """A function, as `main` of a module, with its stages named by their order.

    Relax names some after variables of the network, and a trace finds them by name: equal
    functions of two networks need equal names.
    """
    import tvm
    from tvm import tirx
    from tvm.s_tir import SBlock, SBlockRealize

    numbers = itertools.count()

    def named(block: Any) -> Any:
        name = block.name_hint if block.name_hint == "root" else f"stage_{next(numbers)}"
        accesses = (block.iter_vars, block.reads, block.writes)
        rest = (block.init, block.alloc_buffers, block.match_buffers, block.annotations)
        return SBlock(*accesses, name, rewritten(block.body), *rest)

    def rewritten(stmt: Any) -> Any:
        if isinstance(stmt, tirx.SeqStmt):
            return tirx.SeqStmt([rewritten(part) for part in stmt.seq])
        if isinstance(stmt, tirx.For):
            fields = (stmt.kind, rewritten(stmt.body), stmt.thread_binding, stmt.annotations)
            return tirx.For(stmt.loop_var, stmt.min, stmt.extent, *fields, stmt.step)
        if isinstance(stmt, SBlockRealize):
            return SBlockRealize(stmt.iter_values, stmt.predicate, named(stmt.block))
        return stmt

    function = mod["main"]
    return tvm.IRModule({"main": function.with_body(rewritten(function.body))})


def _database(tasks: Sequence[Task], records: Mapping[str, Record], target: Any) -> Any:
    """TVM's database with the best trace of every task."""
    from tvm.s_tir import meta_schedule as ms

    database = ms.database.MemoryDatabase()
    for task in tasks:
        record = records[task.key]
        best = record.best[record.trials]
        trace = scheduled(task.mod, best.trace).trace
        arguments = ms.arg_info.ArgInfo.from_prim_func(task.mod["main"])
        workload = database.commit_workload(task.mod)
        database.commit_tuning_record(
            ms.database.TuningRecord(trace, workload, [best.time_s], target, arguments)
        )
    return database


def _tune(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Tune the functions that have no record."""
    import torch
    import tvm

    from engine.config import load_config
    from engine.network import build_model

    target = host_target(options.threads)
    tasks: dict[str, Task] = {}
    for experiment in options.experiments:
        config = load_config(experiment).model
        module = build_model(config).eval()
        mod = imported(module, torch.zeros(config.input_shape), target)
        tasks.update({task.key: task for task in tasks_of(mod, target)})
    path = options.records or recorded(target, RECORDS)
    known = _records(path, target)
    missing = [task for key, task in tasks.items() if key not in known]
    console.print(f"{len(tasks) - len(missing)} of {len(tasks)} functions have a record")
    chosen = missing[: options.at_most]
    if chosen:
        with Tuner(target) as tuner:
            for task in chosen:
                start = time.perf_counter()
                best = tuner.tune(task.mod, [options.trials], SEED)
                seconds = round(time.perf_counter() - start, 1)
                record = Record(task.key, target, tvm.__version__, SEED, seconds, best)
                metaschedule_records.add(path, task.name, record)
                time_us = 1e6 * best[options.trials].time_s
                console.print(f"{task.name}: {time_us:.1f} us in {seconds:.0f} s")
    left = len(missing) - len(chosen)
    return {"functions": len(tasks), "tuned": len(chosen), "missing": left}


def _records(path: Path, target: Mapping[str, Any]) -> dict[str, Record]:
    """The records for this target and this version of TVM, by content hash."""
    records = metaschedule_records.read(path).values()
    return {record.key: record for record in records if record.fits(record.key, target)}


if __name__ == "__main__":
    sys.exit(main())
