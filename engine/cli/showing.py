"""`loopgene runs` and `loopgene show`: what has run, and what came out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.common import HOME, HomeOption, console
from engine.emulated import NOTE, is_emulated
from engine.numbers import count_text, ratio_text, span_text, time_text
from genomes.errors import LoopGeneError

if TYPE_CHECKING:
    from rich.table import Table

    from engine.runs import RunDir
    from genomes.gene import Gene

REASONS = {
    "generations": "all generations are done",
    "exhausted": "the strategy has nothing more to propose",
    "patience": "no improvement for search.patience generations",
    "evaluations": "the budget of evaluations is spent",
    "wall_clock": "the budget of time is spent",
}
FRONT = 20
"""Members of a Pareto front that are shown."""


def runs(home: HomeOption = HOME) -> None:
    """List what has run: state, progress, and the best latency found."""
    from rich import box
    from rich.table import Table

    from engine.runs import State, list_runs

    found = list_runs(home)
    if not found:
        typer.echo(f"no runs in {home} yet; start one with: loopgene run CONFIG")
        return
    table = Table(box=box.SIMPLE)
    table.add_column("run", overflow="fold")
    for column in ("state", "started"):
        table.add_column(column, no_wrap=True)
    for column in ("generations", "evaluations", "original", "best", "ratio"):
        table.add_column(column, justify="right")
    last = None
    for run in found:
        state, *cells = _row(run)
        table.add_row(run.name, state, *cells)
        last = run if state == State.INTERRUPTED.value else last
    out = console()
    out.print(table)
    if last is not None:
        out.print(f"{last.name} was interrupted; go on with: {_again(last)}", soft_wrap=True)


def _again(run: RunDir) -> str:
    """The command that resumes a run."""
    return f"loopgene run {run.config_path} --resume {run.name}"


def _row(run: RunDir) -> list[str]:
    """The cells of one run; a damaged one says so."""
    try:
        state = run.state()
    except LoopGeneError:
        return ["damaged", *"------"]
    try:
        total = f"/{run.config().search.generations}"
    except LoopGeneError:
        total = ""
    return [
        state.displayed.value,
        state.started[:16].replace("T", " "),
        "-" if state.generation is None else f"{state.generation}{total}",
        str(state.evaluations),
        time_text(state.original_s),
        time_text(state.best_s),
        ratio_text(state.original_s, state.best_s),
    ]


def show(
    run: Annotated[
        str, typer.Argument(help="A run: its name, a beginning of it, or `latest`.", metavar="RUN")
    ] = "latest",
    home: HomeOption = HOME,
    schedules: Annotated[
        bool, typer.Option("--schedules", help="Show the schedule genes in full too.")
    ] = False,
) -> None:
    """Show what a run found: before and after, in all and site by site."""
    from engine.runs import RunError, find_run

    found = find_run(home, run)
    result = found.result()
    try:
        parts = [found.name, *headline(result), figures(result)]
        parts += [sites(result, schedules), *_front(result)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"{found.result_path} is damaged ({type(error).__name__}: {error}); write it again "
            f"with: {_again(found)}"
        ) from error
    out = console()
    for part in parts:
        out.print(part, soft_wrap=isinstance(part, str))


def headline(result: Mapping[str, Any]) -> list[str]:
    """How the search ended, and on which device."""
    counts, elapsed_s = result["counts"], result["seconds"]["elapsed"]
    rejected = sum(counts["rejected"].values())
    lines = [
        f"{result['state']}: {REASONS.get(result['reason'], result['reason'])}; "
        f"{counts['evaluations']} candidates, {rejected} of them rejected, "
        f"in {span_text(elapsed_s)}",
        f"device: {result['device']['name']}",
        *([NOTE] if is_emulated(result["device"]) else []),
    ]
    return lines if result["improved"] else [*lines, result["note"]]


def figures(result: Mapping[str, Any]) -> Table:
    """Original and found network side by side."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    table.add_column("")
    for column in ("original", "found", "ratio"):
        table.add_column(column, justify="right")
    original, found = result["original"], result["found"]
    rows: list[tuple[str, str, Callable[[float | None], str]]] = [
        ("latency, end to end", "end_to_end_s", time_text),
        ("latency, estimated from kernels", "latency_s", time_text),
        ("multiply-accumulates", "macs", count_text),
        ("parameters of the sites", "parameters", count_text),
        ("capacity", "capacity", _capacity_text),
    ]
    for title, key, text in rows:
        before, after = original.get(key), found.get(key)
        if before is None and after is None:
            continue
        # Capacity is kept when it is large: its ratio is the other way round.
        pair = (after, before) if key == "capacity" else (before, after)
        table.add_row(title, text(before), text(after), ratio_text(*pair))
    return table


def _capacity_text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def sites(result: Mapping[str, Any], schedules: bool) -> Table:
    """Every site before and after.

    Args:
        result: Of a run.
        schedules: Whether schedule genes are shown in full, or only counted.
    """
    from rich import box
    from rich.table import Table

    from genomes.genome import Genome

    genome = Genome.from_json(result["found"]["genome"])
    rows = result["sites"]
    repeated = any(site["calls"] > 1 for site in rows)
    table = Table(box=box.SIMPLE)
    for column in ("site", "shape"):
        table.add_column(column, overflow="fold")
    if repeated:
        table.add_column("calls", justify="right")
    table.add_column("genes", overflow="fold")
    for column in ("us before", "us after", "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    for site in rows:
        before, after = site["before_us"], site["after_us"]
        table.add_row(
            site["name"],
            site["shape"],
            *([str(site["calls"])] if repeated else []),
            _genes_text(genome.genes(site["name"]), schedules),
            _microseconds(before),
            _microseconds(after),
            ratio_text(before, after) if site["genes"] else "",
        )
    return table


def _genes_text(genes: tuple[Gene, ...], schedules: bool) -> str:
    from genomes.operators import by_phase

    domain, schedule = by_phase(genes)
    words = [str(gene) for gene in (genes if schedules else domain)]
    if schedule and not schedules:
        words.append(f"+ {len(schedule)} schedule genes")
    return " ".join(words) or "-"


def _microseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _front(result: Mapping[str, Any]) -> list[Table | str]:
    """The Pareto front of a search that has one."""
    from rich import box
    from rich.table import Table

    front = sorted(result["pareto"], key=lambda e: e["latency_s"])
    if not front:
        return []
    table = Table(box=box.SIMPLE)
    for column in ("latency", "ratio", "capacity", "parameters", "MACs"):
        table.add_column(column, justify="right")
    for e in front[:FRONT]:
        table.add_row(
            time_text(e["latency_s"]),
            ratio_text(result["original"]["latency_s"], e["latency_s"]),
            _capacity_text(e["capacity"]),
            count_text(e["parameters"]),
            count_text(e["macs"]),
        )
    shown = "" if len(front) <= FRONT else f", the {FRONT} fastest"
    return [f"Pareto front of {len(front)} networks{shown}:", table]
