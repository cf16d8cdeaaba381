"""`loopgene run`: an experiment from its YAML file to its result."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from engine.cli.common import console, elsewhere, terminable, waiting
from genomes.errors import LoopGeneError

if TYPE_CHECKING:
    from engine.config import ExperimentConfig
    from engine.evaluation import Evaluation, Generation
    from engine.progress import Progress
    from engine.runs import RunDir
    from engine.survey import Survey
    from engine.tracking import Tracker

RESUME = "--resume"
SAME_CONFIG = ""
"""The value of a `--resume` without one: the latest run with the same config."""

INTERRUPTED = 130


class RunCommand(TyperCommand):
    """Lets `--resume` stand alone, or in front of the config."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = []
        for at, arg in enumerate(args):
            after = args[at + 1] if at + 1 < len(args) else "-"
            alone = after.startswith("-") or after.endswith((".yaml", ".yml"))
            given.append(f"{RESUME}={SAME_CONFIG}" if arg == RESUME and alone else arg)
        return super().parse_args(ctx, given)


def run(
    config: Annotated[Path, typer.Argument(help="The experiment's YAML file.", metavar="CONFIG")],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Override a field, like search.population=64; may be given several times.",
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            RESUME,
            metavar="[RUN]",
            help="Go on with an interrupted run: the one named, or the latest with this config.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only print the full config and the size of the space."),
    ] = False,
) -> None:
    """Search for a faster network, as an experiment describes it.

    Everything is kept in a run folder; Ctrl-C loses the generation in flight at most.
    """
    from engine.config import load_config
    from engine.resolve import resolve

    experiment = resolve(load_config(config, overrides or ()))
    with waiting("building the network"):
        survey = _survey(experiment)
    if dry_run:
        _describe(experiment, survey)
        return
    run_dir = None if resume is None else _resumed(experiment, resume)
    if run_dir is not None and _is_done(run_dir, experiment):
        at = elsewhere(experiment.home)
        typer.echo(f"{run_dir.name} is finished already; see: loopgene show {run_dir.name}{at}")
        return
    again = ["loopgene", "run", str(config)]
    again += [part for override in overrides or () for part in ("--set", override)]
    _search(experiment, run_dir, shlex.join([*again, RESUME]))


def _survey(experiment: ExperimentConfig) -> Survey:
    """What there is to search; raises what is wrong with the network or the data."""
    from engine.config import ConfigError
    from engine.data import load_data
    from engine.network import build_model
    from engine.survey import survey
    from genomes.sites import find_sites

    load_data(experiment.data.kind, experiment.data.path)
    model = experiment.model
    found = survey(find_sites(build_model(model), model.input_shape), experiment.search)
    if not found.sites:
        raise ConfigError(
            f"{model.spec} has no convolution that can be transformed; "
            f"see why: loopgene inspect {model.spec}"
        )
    return found


def _describe(experiment: ExperimentConfig, survey: Survey) -> None:
    """Print the config as YAML, and the size of the space as YAML comments."""
    from engine.config import config_hash, dump_config

    genes = sum(c.genes for c in survey.choices)
    rows = [("site", "shape", "single genes", "presets")]
    rows += [
        (site.name, str(site.shape), str(choices.genes), str(choices.presets))
        for site, choices in zip(survey.sites, survey.choices, strict=True)
    ]
    name, shape = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines = [
        f"config hash {config_hash(experiment)}",
        f"{len(survey.sites)} sites of {survey.distinct_shapes} distinct shapes",
        f"{genes} legal single genes; "
        f"10^{survey.log10_genomes:.1f} networks of one preset, or none, at each site",
        "",
        *(f"{r[0]:{name}}  {r[1]:{shape}}  {r[2]:>12}  {r[3]:>7}" for r in rows),
    ]
    typer.echo(dump_config(experiment))
    typer.echo("\n".join(f"# {line}".rstrip() for line in lines))


def _resumed(experiment: ExperimentConfig, ref: str) -> RunDir:
    """The run to go on with.

    Raises:
        RunError: There is none, or its config is another one; the message has the difference.
    """
    from engine.config import diff
    from engine.runs import RunError, find_run, list_runs, resumable

    if ref == SAME_CONFIG:
        found = resumable(experiment)
        if found is not None:
            return found
        named = [r for r in list_runs(experiment.home) if r.name[:-21] == experiment.name]
        if not named:
            raise RunError(
                f"there is no run of {experiment.name} in {experiment.home} to resume; "
                f"start one without {RESUME}"
            )
        run_dir = named[-1]
    else:
        run_dir = find_run(experiment.home, ref)
    changes = diff(run_dir.config(), experiment)
    if changes:
        raise RunError(
            "\n  ".join(
                [
                    f"{run_dir.name} has another config and cannot be resumed; "
                    f"change these back, or start a new run without {RESUME}:",
                    *changes,
                ]
            )
        )
    return run_dir


def _is_done(run_dir: RunDir, experiment: ExperimentConfig) -> bool:
    """Whether a run has reached all limits that `experiment` sets."""
    from engine.progress import Limits
    from engine.runs import State

    return run_dir.state().state is State.FINISHED and (
        Limits.of(run_dir.config()) == Limits.of(experiment)
    )


def _search(experiment: ExperimentConfig, run_dir: RunDir | None, again: str) -> None:
    """Run the search with its progress, and leave the state of the run as it ended.

    Args:
        experiment: What is searched.
        run_dir: The run to resume; None starts a new one.
        again: The command that resumes it.
    """
    from engine.config import dump_config
    from engine.progress import Limits, Progress
    from engine.report import publish
    from engine.runs import RunDir, State, write_atomic
    from engine.search import run_experiment
    from engine.tracking import create_tracker
    from engine.tracking.safe import uninterrupted

    resume = run_dir is not None
    if run_dir is None:
        run_dir = RunDir.create(experiment)
    with run_dir.lock(), terminable():
        if resume:
            run_dir.adopt()
            kept = experiment.model_copy(update={"name": run_dir.config().name})
            write_atomic(run_dir.config_path, dump_config(kept))
        typer.echo(f"{'resuming' if resume else 'running'} {run_dir.path}")
        to = experiment.tracking
        tracker = create_tracker(to.mlflow, to.uri, to.experiment, experiment.home)
        progress = Progress(console(), Limits.of(experiment), run_dir.name)
        notes = _notes(progress, run_dir, tracker)
        try:
            with progress:
                result = run_experiment(
                    experiment, run_dir.path, tracker, notes, resume, progress.concluding
                )
            publish(run_dir.path, tracker)
        except KeyboardInterrupt:
            # A second Ctrl-C, or the second signal that `timeout` sends, changes nothing.
            with uninterrupted():
                run_dir.update(state=State.INTERRUPTED)
                typer.echo(f"interrupted {_after(run_dir)}; go on with: {again}", err=True)
                # The search has told it so, unless it was at its end or behind it.
                tracker.finish(State.INTERRUPTED, {})
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            run_dir.update(state=State.FAILED, message=_one_line(error))
            raise
        run_dir.update(state=State(result.state), message=result.reason)
    _report(run_dir, experiment, result.record)
    if result.state == State.STOPPED:
        typer.echo(f"to go on:     {again}, with a larger limit")


def _notes(
    progress: Progress, run_dir: RunDir, tracker: Tracker
) -> Callable[[Generation, Evaluation], None]:
    """What is done after every generation."""

    def note(generation: Generation, original: Evaluation) -> None:
        run_dir.update(
            generation=generation.number,
            evaluations=generation.evaluations,
            original_s=original.latency_s,
            best_s=generation.best.latency_s,
            mlflow_run_id=tracker.run_id,
        )
        progress.show(generation, original.latency_s)

    return note


def _after(run_dir: RunDir) -> str:
    generation = run_dir.state().generation
    return "before generation 0" if generation is None else f"after generation {generation}"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, LoopGeneError) else f"{type(error).__name__}: {text}"


def _report(run_dir: RunDir, experiment: ExperimentConfig, record: Mapping[str, Any]) -> None:
    """What came out, and what to do with it."""
    from engine.cli.showing import figures, headline

    out = console()
    for line in headline(record):
        out.print(line, soft_wrap=True)
    out.print(figures(record))
    at = elsewhere(experiment.home)
    out.print(f"site by site: loopgene show {run_dir.name}{at}", soft_wrap=True)
    out.print(f"to use it:    loopgene export {run_dir.name}{at}", soft_wrap=True)
    tracking = experiment.tracking
    if tracking.mlflow and run_dir.state().mlflow_run_id is not None:
        which = f" {run_dir.name}" if tracking.uri else ""
        out.print(f"in MLflow:    loopgene ui{which}{at}", soft_wrap=True)
