"""The search: propose, evaluate, select, record; interrupted and resumed at any moment.

Whatever decides what comes next is in the checkpoint, which is written after every generation.
A search that is killed goes on from its last complete generation and ends as if it had never
been interrupted, as long as the backend gives the same answers.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.archive import Archive
from engine.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from engine.clock import Clock, OutOfTimeError
from engine.config import ExperimentConfig, config_hash
from engine.evaluation import OK, Evaluation, Generation
from engine.finalists import best_finalist, choose_finalists, faster_first, measure_finalists
from engine.fitness import Evaluator
from engine.latency import LatencyModel, measured_model
from engine.problem import Problem, open_problem
from engine.records import final_metrics, finalist_metrics, history_record, result_record, summary
from engine.runs import RunDir, write_atomic
from engine.strategies import create_strategy
from engine.tracking import NullTracker, Tracker
from engine.tuning import TUNING_SHARE, Tuning, tune_networks
from genomes.errors import LoopGeneError
from genomes.genome import Genome

OnGeneration = Callable[[Generation, Evaluation], None]
"""Called after every generation with it and the evaluation of the untransformed network."""

FINISHED = "finished"
STOPPED = "stopped"
FAILED = "failed"
INTERRUPTED = "interrupted"

FEWEST_KEPT = 16
"""Legal candidates that the archive keeps at least."""


@dataclass(frozen=True)
class SearchResult:
    """How a search ended.

    Attributes:
        state: `finished`, or `stopped` by a budget or the patience.
        reason: The limit that ended it: generations, evaluations, wall_clock, patience, or
            exhausted when the strategy had nothing new to propose.
        record: What `result.json` holds.
    """

    state: str
    reason: str
    record: dict[str, Any]


def run_experiment(
    config: ExperimentConfig,
    run_dir: Path,
    tracker: Tracker | None = None,
    on_generation: OnGeneration | None = None,
    resume: bool = False,
    on_end: Callable[[], None] | None = None,
) -> SearchResult:
    """Search as `config` says, and measure the best candidates end to end.

    Writes checkpoint.json, history.jsonl and result.json in `run_dir`.

    Args:
        config: The experiment, resolved.
        run_dir: An existing folder, held by this process.
        tracker: Told of everything; must not raise.
        on_generation: Called after every generation.
        resume: Go on from the checkpoint, if there is one.
        on_end: Called after the last generation, before finalists are tuned and measured.

    Raises:
        CheckpointError: The checkpoint cannot be used, or there is one and `resume` is not set.
        LoopGeneError: The experiment cannot be built or the device fails; it can be resumed.
    """
    started_s = time.monotonic()
    run, tracker = RunDir(run_dir), tracker or NullTracker()
    saved = load_checkpoint(run.checkpoint_path, config_hash(config))
    if saved is not None and not resume:
        raise CheckpointError(
            f"{run.checkpoint_path} holds a search that has begun; go on with --resume, or "
            "start in another folder"
        )
    with open_problem(config, run.name) as problem:
        return search_problem(problem, run, tracker, on_generation, saved, started_s, on_end)


def search_problem(
    problem: Problem,
    run: RunDir,
    tracker: Tracker,
    on_generation: OnGeneration | None = None,
    saved: dict[str, Any] | None = None,
    started_s: float | None = None,
    on_end: Callable[[], None] | None = None,
) -> SearchResult:
    """`run_experiment` for a problem that is already built.

    Args:
        problem: What is searched.
        run: Where it is recorded.
        tracker: Told of everything; must not raise.
        on_generation: Called after every generation.
        saved: State of a checkpoint to go on from.
        started_s: `time.monotonic()` when the search began in this process; None: now.
        on_end: Called after the last generation, before finalists are tuned and measured.
    """
    started_s = time.monotonic() if started_s is None else started_s
    search = Search(problem, run, tracker, started_s, saved)
    facts = {**problem.facts(), "original": summary(search.original)}
    tracker.start(run.path, problem.config.model_dump(mode="json"), facts)
    try:
        state, reason = search.run(on_generation)
        if on_end is not None:
            on_end()
        record = search.conclude(state, reason)
        write_atomic(run.result_path, json.dumps(record, indent=2, allow_nan=False) + "\n")
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        tracker.finish(INTERRUPTED if interrupted else FAILED, {})
        raise
    tracker.artifact(run.result_path)
    tracker.finish(state, final_metrics(record))
    return SearchResult(state, reason, record)


class Search:
    """One search in one process.

    Args:
        problem: What is searched.
        run: Where it is recorded.
        tracker: Told of generations and finalists.
        started_s: `time.monotonic()` when this process began.
        saved: State of a checkpoint to go on from.

    Attributes:
        original: The evaluation of the untransformed network.
    """

    def __init__(
        self,
        problem: Problem,
        run: RunDir,
        tracker: Tracker,
        started_s: float,
        saved: dict[str, Any] | None = None,
    ) -> None:
        config = problem.config
        self._config = config
        self._problem = problem
        self._run = run
        self._tracker = tracker
        self._clock = Clock(
            started_s, config.budget.wall_clock_s, TUNING_SHARE if config.search.tune else 0.0
        )
        self._strategy = create_strategy(config.search.strategy, problem.space, config.search)
        kept = max(FEWEST_KEPT, config.finalists)
        front = 2 * max(config.search.population, kept)
        self._archive = Archive(problem.space, config.search.mode, kept, front)
        self._generation = -1
        self._evaluations = 0
        self._stale = 0
        self._rejected: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._before: Counter[str] = Counter()
        self._model = (
            measured_model(problem, lambda: not self._clock.out_of_time)
            if saved is None
            else LatencyModel.from_json(saved["latency_model"])
        )
        original_s = self._model.latency_s(problem.objective.original_s)
        objective = replace(problem.objective, original_s=original_s)
        self._evaluator = Evaluator(
            problem.sites.sites,
            problem.metric,
            problem.kernels,
            problem.store,
            objective,
            self._model,
            problem.stages,
        )
        (self.original,) = self._evaluator.evaluate([Genome()])
        if saved is not None:
            self._restore(saved)
        # Lines of generations that no checkpoint knows are written again.
        run.rewind_history(self._generation)

    @property
    def elapsed_s(self) -> float:
        """Seconds of search, over all resumptions."""
        return self._clock.elapsed_s

    @property
    def best(self) -> Evaluation:
        """The fastest legal candidate so far; the original if none is faster."""
        return min(
            (self.original, *self._archive.legal[:1]),
            key=lambda e: float("inf") if e.latency_s is None else e.latency_s,
        )

    def run(self, on_generation: OnGeneration | None = None) -> tuple[str, str]:
        """Go on until a limit is reached.

        Returns:
            State and reason, as in `SearchResult`.
        """
        while (end := self._end()) is None:
            try:
                generation = self._step()
            except OutOfTimeError:
                return STOPPED, "wall_clock"
            if generation is None:
                return FINISHED, "exhausted"
            if on_generation is not None:
                on_generation(generation, self.original)
        return end

    def _end(self) -> tuple[str, str] | None:
        search, budget = self._config.search, self._config.budget
        if self._generation >= search.generations:
            return FINISHED, "generations"
        if search.patience is not None and self._stale >= search.patience:
            return STOPPED, "patience"
        if budget.evaluations is not None and self._evaluations >= budget.evaluations:
            return STOPPED, "evaluations"
        if self._clock.out_of_time:
            return STOPPED, "wall_clock"
        return None

    def _step(self) -> Generation | None:
        """One generation, from the proposal to the checkpoint; None if nothing was proposed."""
        stages, budget = self._problem.stages, self._config.budget.evaluations
        with stages.timed("propose"):
            genomes = self._strategy.ask()
        if not genomes:
            return None
        if budget is not None:
            genomes = genomes[: budget - self._evaluations]
        try:
            evaluated = self._evaluator.evaluate(genomes, self._clock.check)
        except OutOfTimeError:
            self._keep_measured(genomes)
            raise
        with stages.timed("propose"):
            self._strategy.tell(evaluated)
            improved = self._archive.update(evaluated, self._evaluator.is_legal)
        self._generation += 1
        self._evaluations += len(evaluated)
        self._stale = 0 if improved else self._stale + 1
        generation = self._describe(evaluated)
        with stages.timed("checkpoint"):
            self._run.append_history(history_record(generation))
        with stages.timed("track"):
            self._tracker.generation(generation)
        with stages.timed("checkpoint"):
            self._save()
        return generation

    def _keep_measured(self, genomes: list[Genome]) -> None:
        """Let the candidates of an unfinished generation that are measured become finalists.

        The checkpoint does not know them: a resumed search evaluates the generation again.
        """
        measured = self._evaluator.measured(genomes)
        self._archive.update(measured, self._evaluator.is_legal)
        self._evaluations += len(measured)
        self._rejected.update(e.status for e in measured if e.status != OK)

    def _describe(self, evaluated: list[Evaluation]) -> Generation:
        """The generation that has just been evaluated.

        Its seconds include those of the previous generation's tracking and checkpoint.
        """
        rejected = Counter(e.status for e in evaluated if e.status != OK)
        dropped = self._problem.space.take_dropped()
        self._rejected.update(rejected)
        self._dropped.update(dropped)
        work = self._work()
        return Generation(
            number=self._generation,
            population=self._strategy.population,
            evaluated=tuple(evaluated),
            best=self.best,
            rejected=dict(sorted(rejected.items())),
            dropped_genes=dropped,
            seconds=self._problem.stages.take(),
            evaluations=self._evaluations,
            measurements=work["measurements"],
            store_hits=work["store_hits"],
            elapsed_s=self.elapsed_s,
        )

    def _work(self) -> dict[str, int]:
        """What had to be computed, over all resumptions; a killed generation counts twice."""
        backend = self._problem.backend
        here = {
            "measurements": backend.misses,
            "store_hits": backend.hits,
            "capacities": self._evaluator.scored,
        }
        return {name: self._before[name] + count for name, count in here.items()}

    def _save(self) -> None:
        state = {
            "generation": self._generation,
            "evaluations": self._evaluations,
            "stale": self._stale,
            "rejected": dict(self._rejected),
            "dropped": dict(self._dropped),
            "latency_model": self._model.to_json(),
            "strategy": self._strategy.state(),
            "archive": self._archive.state(),
            "work": self._work(),
            "seconds": dict(self._problem.stages.total),
            "elapsed_s": self.elapsed_s,
        }
        save_checkpoint(self._run.checkpoint_path, config_hash(self._config), state)

    def _restore(self, saved: dict[str, Any]) -> None:
        path = self._run.checkpoint_path
        try:
            self._generation = saved["generation"]
            self._evaluations = saved["evaluations"]
            self._stale = saved["stale"]
            self._rejected.update(saved["rejected"])
            self._dropped.update(saved["dropped"])
            self._before.update(saved["work"])
            self._problem.stages.total.update(saved["seconds"])
            self._clock.resume(saved["elapsed_s"])
            self._strategy.restore(saved["strategy"])
            self._archive.restore(saved["archive"])
        except (LookupError, TypeError, ValueError, AssertionError, LoopGeneError) as error:
            raise CheckpointError(
                f"{path} cannot be used: {error}; it was left as it is: start a new run "
                "(measurements are kept)"
            ) from error

    def conclude(self, state: str, reason: str) -> dict[str, Any]:
        """Measure the finalists and say what was found: the content of `result.json`."""
        problem = self._problem
        chosen = choose_finalists(
            problem.space, self._archive, self.original, self._config.finalists
        )
        chosen = [self._evaluator.exactly(evaluation) for evaluation in chosen]
        # A resumed search does not know their kernels yet; the store does, but for those that
        # were disturbed.
        genomes = [e.genome for e in (self.original, *chosen)]
        self._evaluator.evaluate(genomes)
        tuning = Tuning()
        self._clock.release()
        with contextlib.suppress(OutOfTimeError):
            tune_networks(problem, genomes, self._clock.check, tuning)
        self.original, *chosen = map(self._evaluator.retimed, (self.original, *chosen))
        chosen = faster_first(chosen, self.original)
        times, finalists = measure_finalists(
            chosen,
            self.original,
            lambda evaluation: problem.variant(evaluation.genome),
            problem.measure_end_to_end,
        )
        for finalist in finalists:
            self._tracker.finalist(
                finalist.name, finalist.evaluation, finalist_metrics(finalist, times)
            )
        progress = {
            "state": state,
            "reason": reason,
            "counts": {
                "generations": self._generation + 1,
                "evaluations": self._evaluations,
                "rejected": dict(sorted(self._rejected.items())),
                "dropped_genes": dict(sorted(self._dropped.items())),
            },
            "work": self._work(),
            "tuning": tuning.to_json(),
            "latency_model": self._model.to_json(),
            "seconds": {"elapsed": self.elapsed_s, **dict(sorted(problem.stages.total.items()))},
        }
        found = best_finalist(finalists, times, self._evaluator.is_legal)
        return result_record(
            problem,
            (self.original, times),
            found,
            finalists,
            self._archive.front,
            progress,
        )
