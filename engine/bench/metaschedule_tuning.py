"""TVM's MetaSchedule as it searches by itself: random and evolved schedules of one function.

The search is TVM's own: its default space for the target, `EvolutionarySearch`, the XGBoost cost
model.  What differs from `tune_tir` is plumbing that would otherwise take most of the time:
workers that stay (TVM starts new ones for every batch), one instruction set's intrinsics instead
of all, and a population of 128 with three generations per batch (512 and four).  A batch has 32
trials instead of 64, and the cost model guesses for one batch instead of 100 trials, so that more
of few trials are guided by it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import sys
import tempfile
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genomes.errors import LoopGeneError

BATCH = 32
POPULATION, GENERATIONS = 128, 3
BUILD_LIMIT_S, RUN_LIMIT_S = 30.0, 10.0
REPEATS, MIN_REPEAT_MS = 3, 20
JOBS_PER_BUILDER = 200
"""A builder is replaced after so many kernels: what TVM compiles in one process it never frees."""


class TuningError(LoopGeneError):
    """MetaSchedule finds no schedule that works."""


@dataclass(frozen=True)
class Best:
    """The fastest schedule after some trials.

    Attributes:
        trace: TVM's trace as plain JSON data; it applies to the function that was tuned.
        time_s: Seconds of one call, the least of `REPEATS` timings.
    """

    trace: Any
    time_s: float


def tuning_options(
    parser: argparse.ArgumentParser, arguments: list[str] | None, trials: int
) -> argparse.Namespace:
    """The parsed arguments of a command that tunes what has no record, with those it needs.

    Args:
        parser: Has the command's own arguments.
        arguments: Those of the process, if they are not given.
        trials: Of each function, by default.
    """
    parser.add_argument("--trials", type=int, default=trials)
    parser.add_argument("--at-most", type=int, help="tune no more than so many")
    parser.add_argument("--records", type=Path, help="a file instead of this machine's own")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    if options.trials < 1:
        parser.error("--trials must be at least 1")
    return options


class Tuner:
    """Worker processes that build and time what MetaSchedule proposes.

    Args:
        target: For `tvm.target.Target`; has `num-cores`.
    """

    def __init__(self, target: Mapping[str, Any]) -> None:
        light_intrinsics()
        import tvm
        from tvm.s_tir.meta_schedule.runner import EvaluatorConfig, LocalRunner
        from tvm.support.popen_pool import PopenPoolExecutor

        self._target = tvm.target.Target(dict(target))
        self._threads = int(target["num-cores"])
        self._folder = tempfile.TemporaryDirectory(prefix="metaschedule-")
        self._builders = PopenPoolExecutor(
            max_workers=self._threads,
            timeout=BUILD_LIMIT_S,
            initializer=light_intrinsics,
            maximum_process_uses=JOBS_PER_BUILDER,
        )
        timing = EvaluatorConfig(number=1, repeat=REPEATS, min_repeat_ms=MIN_REPEAT_MS)
        self._runner = LocalRunner(timeout_sec=RUN_LIMIT_S, evaluator_config=timing)

    def __enter__(self) -> Tuner:
        return self

    def __exit__(self, *error: object) -> None:
        self._builders.shutdown()
        self._runner.pool.shutdown()
        self._folder.cleanup()

    def tune(self, function: Any, checkpoints: Sequence[int], seed: int) -> dict[int, Best]:
        """The best schedules of one function after some numbers of trials of one search.

        Args:
            function: A PrimFunc; the arguments named by its attribute `layout_free_buffers`
                come in whatever layout the schedule wants.
            checkpoints: Numbers of trials; the greatest is how many there are.
            seed: Of MetaSchedule's random choices; measured times make no two searches equal.

        Raises:
            TuningError: No schedule works.
        """
        from tvm.s_tir import meta_schedule as ms

        np.random.seed(seed)  # the cost model's, while it guesses
        context = ms.TuneContext(
            mod=function,
            target=self._target,
            space_generator="post-order-apply",
            search_strategy=ms.search_strategy.EvolutionarySearch(
                population_size=POPULATION, genetic_num_iters=GENERATIONS
            ),
            num_threads=self._threads,
            rand_state=seed + 1,
        )
        database = ms.database.MemoryDatabase()
        workload = database.commit_workload(context.mod)
        model = ms.cost_model.XGBModel(num_warmup_samples=BATCH, num_tuning_cores=self._threads)
        trials = max(checkpoints)
        context.pre_tuning(trials, BATCH, context.generate_design_space(), database, model)
        best: Best | None = None
        found, done, message = {}, 0, "it proposes none"
        while candidates := context.generate_measure_candidates():
            results = self._measure(candidates)
            for candidate, result in zip(candidates, results, strict=True):
                done += 1
                if result.error_msg:
                    message = str(result.error_msg)
                else:
                    (time_s,) = map(float, result.run_secs)
                    trace = candidate.sch.trace
                    database.commit_tuning_record(
                        ms.database.TuningRecord(
                            trace, workload, [time_s], self._target, candidate.args_info
                        )
                    )
                    if best is None or time_s < best.time_s:
                        best = Best(_plain(trace), time_s)
                if done in checkpoints and best is not None:
                    found[done] = best
            context.notify_runner_results(candidates, results)
            model.update(context, candidates, results)
        context.post_tuning()
        if best is None:
            line = " ".join(message.split())[:200]
            raise TuningError(f"none of MetaSchedule's {done} schedules works: {line}")
        # A small space is exhausted before the trials are spent.
        return {count: found.get(count, best) for count in checkpoints}

    def _measure(self, candidates: Sequence[Any]) -> list[Any]:
        """One `RunnerResult` for each candidate, with the least of its times."""
        from tvm.s_tir.meta_schedule.runner import RunnerInput, RunnerResult

        results = []
        for candidate, built in zip(candidates, self._build(candidates), strict=True):
            if isinstance(built, str):
                results.append(RunnerResult(None, built))
                continue
            job = RunnerInput(str(built), "cpu", candidate.args_info)
            (future,) = self._runner.run([job])
            result = future.result()
            built.unlink()
            if not result.error_msg:
                # What disturbs a timing only ever lengthens it.
                result = RunnerResult([min(map(float, result.run_secs))], None)
            results.append(result)
        return results

    def _build(self, candidates: Sequence[Any]) -> Iterator[Path | str]:
        """The library of each candidate, or why there is none."""
        from tvm.support.popen_pool import StatusKind

        folder = Path(tempfile.mkdtemp(dir=self._folder.name))
        jobs = [
            (candidate.sch.mod, self._target, str(folder / f"{i}.so"))
            for i, candidate in enumerate(candidates)
        ]
        outcomes = self._builders.map_with_error_catching(_build_job, jobs)
        for (_, _, path), outcome in zip(jobs, outcomes, strict=True):
            if outcome.status == StatusKind.COMPLETE:
                yield Path(path)
            elif outcome.status == StatusKind.TIMEOUT:
                yield f"not built within {BUILD_LIMIT_S:.0f} s"
            else:
                yield f"not built: {outcome.value}"


def host_target(threads: int) -> dict[str, Any]:
    """This machine, as the CPU backend compiles for it."""
    from backends.devices import cpu_target

    return dict(cpu_target(threads))


def light_intrinsics() -> None:
    """Import this machine's tensor intrinsics only: all of them take TVM 16 s in every process."""
    import tvm

    name = "tvm.s_tir.tensor_intrin"
    if name in sys.modules:
        return
    package = types.ModuleType(name)
    package.__path__ = [str(Path(tvm.__file__).parent / "s_tir" / "tensor_intrin")]
    sys.modules[name] = package
    tvm.s_tir.tensor_intrin = package
    arm = platform.machine() in ("aarch64", "arm64")
    importlib.import_module(f"{name}.{'arm_cpu' if arm else 'x86'}")


def scheduled(function: Any, trace: Any) -> Any:
    """The schedule that a recorded trace makes of a function.

    Its module still has the blocks that pack the weights.

    Raises:
        TuningError: The trace does not apply to the function.
    """
    from tvm import s_tir
    from tvm.s_tir.schedule import Trace

    from backends.lowering.schedule import TVM_REFUSALS, first_line

    sch = s_tir.Schedule(function, error_render_level="fast")
    try:
        Trace.apply_json_to_schedule(trace, sch)
    except TVM_REFUSALS as error:
        raise TuningError(
            f"a recorded schedule of MetaSchedule no longer applies: {first_line(error)}; remove "
            "its file of records and tune again with `make tune-metaschedule`"
        ) from error
    return sch


def weight_layouts(mod: Any) -> dict[str, Any]:
    """The `IndexMap` to the layout that a scheduled module wants, by argument name.

    Arguments that keep their layout are left out.
    """
    from tvm import s_tir, tirx

    sch = s_tir.Schedule(mod)
    layouts = {}
    for block in map(sch.get, sch.get_child_blocks(sch.get_sblock("root"))):
        if block.annotations.get("meta_schedule.layout_rewrite_preproc"):
            # packed[layout of the axes] = weight[the axes]
            store = block.body
            axes = [axis.var for axis in block.iter_vars]
            layouts[store.value.source.name] = tirx.IndexMap(axes, list(store.indices), None)
    return layouts


def compiled(mod: Any, target: Any) -> Any:
    """The machine code of a scheduled module that gets its weights packed.

    Like the kernels that it is compared with, it trusts its caller to pass what fits.
    """
    import tvm
    from tvm import tirx
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

    with tvm.transform.PassContext(config={"tirx.disable_assert": True}):
        mod = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(mod)
        return tirx.build(mod, target=target)


def _plain(trace: Any) -> Any:
    """A trace as JSON data; TVM leaves integers of its own in it."""
    return json.loads(json.dumps(trace.as_json(), default=lambda number: number.value))


def _build_job(job: tuple[Any, Any, str]) -> None:
    """Build one candidate; runs in a worker."""
    mod, target, path = job
    compiled(mod, target).export_library(path)
