"""The report of a run: what was searched, what was found, and how to get it again, in Markdown."""

from __future__ import annotations

import logging
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.emulated import NOTE, is_emulated
from engine.numbers import count_text, ratio_text, share_text, span_text, time_text
from engine.plots import draw_run
from engine.runs import RunDir, write_atomic
from engine.tracking import Tracker
from engine.tracking.safe import one_line

logger = logging.getLogger(__name__)

PICTURES = {
    "best_latency": "Best latency so far",
    "pareto": "Latency and capacity of the candidates",
    "sites": "Convolutions before and after",
    "genes": "Genes in the population",
    "time": "Where the time went",
}
"""Captions by the name of the plot."""


def write_report(run_dir: Path) -> list[Path]:
    """Draw the plots of a run and write its report into its `artifacts`.

    Args:
        run_dir: A run folder with a result.

    Returns:
        The report and the plots.

    Raises:
        RunError: The run has no result yet, or a file of its folder is damaged.
        OSError: A file cannot be written.
    """
    run = RunDir(run_dir)
    plots = draw_run(run_dir)
    links = {path.stem: path.relative_to(run.artifacts).as_posix() for path in plots}
    path = run.artifacts / "report.md"
    write_atomic(path, render_result(run.result(), links, str(run.config_path), run.name))
    return [path, *plots]


def publish(run_dir: Path, tracker: Tracker) -> None:
    """Write the report of a finished run and keep it, and the plots, with its tracker.

    What the search found is safe in the run folder before: a report that fails is a warning.
    """
    try:
        paths = write_report(run_dir)
    # The border between a search that went well and its pictures.
    except Exception as error:  # noqa: BLE001
        logger.warning(
            "the report of %s could not be written (%s); its result.json is complete",
            run_dir.name,
            one_line(error),
        )
        return
    for path in paths:
        tracker.artifact(path)


def render_result(
    result: Mapping[str, Any],
    plots: Mapping[str, str] | None = None,
    config: str | None = None,
    run: str = "latest",
) -> str:
    """The report of a result.

    Args:
        result: What `result.json` holds.
        plots: Paths of the pictures, relative to the report, by their name.
        config: Path of the experiment's file, for the commands.
        run: Name of the run, for the commands.

    Returns:
        Markdown.
    """
    sections = [
        _head(result),
        _searched(result),
        _found(result),
        _sites(result),
        _genome(result),
        _effort(result),
        _pictures(plots or {}),
        _commands(config or f"{result['name']}.yaml", run),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(result: Mapping[str, Any]) -> str:
    original, found = result["original"], result["found"]
    lines = [f"# {result['name']}", ""]
    if not result["improved"]:
        return "\n".join([*lines, f"No improvement: {result['note']}."])
    if original.get("end_to_end_s") and found.get("end_to_end_s"):
        before, after = original["end_to_end_s"], found["end_to_end_s"]
        timed = "the whole network, compiled and measured end to end, in turns with the original"
    else:
        before, after = original["latency_s"], found["latency_s"]
        timed = "estimated from the measured kernels"
    times = f"{time_text(before)} → {time_text(after)}"
    if is_emulated(result["device"]):
        return "\n".join([*lines, f"{times}, but {NOTE}."])
    return "\n".join([*lines, f"**{ratio_text(before, after)} faster**: {times} ({timed})."])


def _searched(result: Mapping[str, Any]) -> str:
    device, counts, sites = result["device"], result["counts"], result["sites"]
    shapes = len({site["shape"] for site in sites})
    versions = ", ".join(f"{name} {v}" for name, v in result["versions"].items())
    rows = {
        **_configured(result["config"]),
        "convolutions searched": f"{len(sites)}, of {shapes} shapes",
        "device": f"{device['name']}, fingerprint `{device['fingerprint']}`",
        "target": f"`{device['target']}`",
        **_drift(result.get("drift", ())),
        "versions": versions,
        "candidates": f"{counts['evaluations']} in {counts['generations']} generations",
        "ended": f"{result['state']} ({result['reason']})",
    }
    return "## What was searched\n\n" + "\n".join(f"- **{k}**: {v}" for k, v in rows.items())


def _drift(timings: Sequence[tuple[int, float]]) -> dict[str, str]:
    if not timings:
        return {}
    first, *later = (seconds for _, seconds in timings)
    text = f"the same kernel took {time_text(first)} at first"
    if later:
        text += (
            f", {time_text(min(later))} to {time_text(max(later))} later ({len(later)} timings)"
        )
    return {"drift": text}


def _configured(config: Mapping[str, Any]) -> dict[str, str]:
    """What the experiment's file says."""
    model, data, search, capacity = (config[k] for k in ("model", "data", "search", "capacity"))
    shape = "x".join(map(str, model["input_shape"]))
    weights = model["weights"] or f"random, seed {model['seed']}"
    lost = (
        f"; {100 * capacity['tolerance']:g} % of it may be lost" if capacity["tolerance"] else ""
    )
    if capacity["parameters"]:
        lost += f"; at least {100 * capacity['parameters']:g} % of the parameters are kept"
    return {
        "network": f"`{model['spec']}`, input {shape}, weights {weights}",
        "strategy": f"{search['strategy']}, {search['mode']}, population {search['population']}, "
        f"seed {search['seed']}",
        "capacity": f"{capacity['metric']} on {capacity['batch']} images of {data['kind']}{lost}",
    }


def _found(result: Mapping[str, Any]) -> str:
    original = result["original"]
    networks = [("original", original), *((f["name"], f) for f in result["finalists"])]
    end_to_end = any("end_to_end_s" in figures for _, figures in networks)
    head = ["network", "kernels", "ratio"]
    if end_to_end:
        head += ["end to end", "IQR", "ratio"]
    head += ["capacity", "MACs", "parameters"]
    rows = []
    for name, figures in networks:
        row = [f"**{name}**" if name == result["found"]["name"] else name]
        row.append(time_text(figures["latency_s"]))
        row.append(ratio_text(original["latency_s"], figures["latency_s"]))
        if end_to_end:
            row += _end_to_end(original, figures)
        row.append(_relative(figures["capacity"], original["capacity"]))
        row += [count_text(figures["macs"]), count_text(figures["parameters"])]
        rows.append(row)
    text = (
        "*Kernels*: what the search minimises, the sum of the measured kernels, scaled to what "
        "they take in the network, and the rest. "
    )
    if end_to_end:
        count = len(original.get("end_to_end_times_s", ()))
        text += (
            f"*End to end*: the whole network, median of {count} timings and their interquartile "
            "range, all networks in turns in one process, the quieter half of the turns. "
        )
    text += "*Capacity* is relative to the original; MACs and parameters are those of all sites."
    return "## What was found\n\n" + _table(head, rows) + "\n\n" + text


def _end_to_end(original: Mapping[str, Any], figures: Mapping[str, Any]) -> list[str]:
    if "end_to_end_failure" in figures:
        return [str(figures["end_to_end_failure"]), "-", "-"]
    median_s, times_s = figures.get("end_to_end_s"), figures.get("end_to_end_times_s") or []
    spread = "-"
    if median_s and len(times_s) > 1:
        low, _, high = statistics.quantiles(times_s, n=4, method="inclusive")
        spread = share_text(high - low, median_s)
    return [time_text(median_s), spread, ratio_text(original.get("end_to_end_s"), median_s)]


def _sites(result: Mapping[str, Any]) -> str:
    rows = [
        (
            f"`{site['name']}`",
            site["shape"],
            site["calls"],
            _micro(site["before_us"]),
            _micro(site["after_us"]),
            ratio_text(site["before_us"], site["after_us"]),
        )
        for site in sorted(result["sites"], key=lambda s: -(s["before_us"] or 0))
    ]
    head = ("convolution", "shape", "calls", "before", "after", "ratio")
    note = "Latency of all calls in one inference, the slowest first."
    return "## Convolution by convolution\n\n" + _table(head, rows) + "\n\n" + note


def _genome(result: Mapping[str, Any]) -> str:
    changed = [site for site in result["sites"] if site["genes"]]
    if not changed:
        return ""
    lines = [f"- `{site['name']}`: `{site['genes']}`" for site in changed]
    return "## The genome\n\n" + "\n".join(lines)


def _effort(result: Mapping[str, Any]) -> str:
    counts, work = result["counts"], result["work"]
    seconds = {k: v for k, v in result["seconds"].items() if k != "elapsed" and v > 0}
    total_s = sum(seconds.values())
    rows = [
        (stage, span_text(value), share_text(value, total_s))
        for stage, value in sorted(seconds.items(), key=lambda item: -item[1])
    ]
    parts = [
        "## What it took",
        f"{span_text(result['seconds']['elapsed'])} of search; {work['measurements']} kernels "
        f"measured, {work['store_hits']} known from the store.",
        *_tuning(result.get("tuning"), seconds.get("tune", 0.0)),
        _table(("stage", "time", "share"), rows),
    ]
    rejected = _counted(counts["rejected"])
    parts.append(
        _table(("candidates rejected", "count"), rejected)
        if rejected
        else "No candidate was rejected."
    )
    dropped = _counted(counts["dropped_genes"])
    if dropped:
        parts.append(_table(("genes dropped by the repair", "count"), dropped))
    return "\n\n".join(parts)


def _tuning(tuning: Mapping[str, Any] | None, seconds: float) -> list[str]:
    if not tuning or not tuning["workloads"]:
        return []
    return [
        f"{tuning['measurements']} of them in {span_text(seconds)} at the end, for "
        f"faster schedules of {tuning['workloads']} kernels of the original and the finalists: "
        f"{tuning['improved']} became faster, {ratio_text(tuning['speedup'], 1.0)} by geometric "
        "mean of all."
    ]


def _counted(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(((k, n) for k, n in counts.items() if n), key=lambda item: (-item[1], item[0]))


def _pictures(plots: Mapping[str, str]) -> str:
    shown = [f"![{caption}]({plots[name]})" for name, caption in PICTURES.items() if name in plots]
    return "## Pictures\n\n" + "\n\n".join(shown) if shown else ""


def _commands(config: str, run: str) -> str:
    lines = [
        f"loopgene run {shlex.quote(config)}",
        f"loopgene show {run}",
        f"loopgene export {run}",
    ]
    text = (
        "The same search again; kernels that the store of measurements knows are not timed again."
    )
    return "## Again\n\n" + text + "\n\n```sh\n" + "\n".join(lines) + "\n```"


def _table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    return "\n".join([_row(head), "|" + "---|" * len(head), *map(_row, rows)])


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(_escaped(cells)) + " |"


def _escaped(cells: Sequence[object]) -> Iterator[str]:
    for cell in cells:
        yield str(cell).replace("|", "\\|")


def _relative(value: float | None, whole: float | None) -> str:
    return f"{value / whole:.3f}" if whole and value is not None else "-"


def _micro(value: float | None) -> str:
    return "-" if value is None else time_text(value * 1e-6)
