"""The pictures of a search, drawn from its run folder.

Readable at 800 pixels.  No global state of matplotlib is used: a search can draw while a user's
own code has figures open.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.numbers import ratio_text, share_text, span_text, time_text
from engine.run_data import Candidate, RunData

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN, HEAD_IN, DPI = 8.0, 0.5, 150
ORIGINAL, FOUND, LEGAL, ILLEGAL = "#6b7280", "#0f766e", "#3b82c4", "#d97706"
BEFORE = "#b6bcc6"
TEXT, FAINT, GRID = "#1f2937", "#6b7280", "#e5e7eb"
CATEGORIES = (
    "#0f766e",
    "#3b82c4",
    "#d97706",
    "#8b5cf6",
    "#be3455",
    "#65a30d",
    "#0891b2",
    "#a16207",
    "#db6fb5",
)
OTHERS = "#cbd5e1"
DASHES = (0, (4, 3))

MOST_SITES, MOST_NAME = 24, 90
SLOWEST_SHOWN = 1.6
"""Candidates slower than so many originals are drawn at the edge."""
LOGARITHMIC_FROM = 20.0
"""Capacities that differ by so much have a logarithmic axis."""


def draw_run(run_dir: Path, original: Mapping[str, Any] | None = None) -> list[Path]:
    """Draw all pictures for which there is data into `artifacts/plots` of a run folder.

    Args:
        run_dir: The folder.
        original: As `RunData.read`.

    Returns:
        The files.

    Raises:
        LoopGeneError: A file of the folder is damaged, or its config is missing.
        OSError: A picture cannot be written.
    """
    run = RunData.read(run_dir, original)
    folder = run_dir / "artifacts" / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in PLOTS.items():
        figure = draw(run)
        if figure is not None:
            path = folder / f"{name}.png"
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            figure.savefig(temporary, format="png", dpi=DPI, facecolor="white")
            os.replace(temporary, path)
            written.append(path)
    return written


def best_latency(run: RunData) -> Figure | None:
    """Best latency so far against evaluations, the original as a line."""
    if not run.candidates:
        return None
    figure, axes = _figure("Best latency so far", run.name)
    unit, scale = run.unit
    original = (run.original_s or run.candidates[0].latency_s) * scale
    latencies = [c.latency_s * scale for c in run.candidates]
    x, y = [0], [original]
    for candidate, latency in zip(run.candidates, latencies, strict=True):
        if candidate.legal and latency < y[-1]:
            x.append(candidate.number)
            y.append(latency)
    last = run.history[-1]["evaluations"]
    low = min(original, *latencies)
    top = min(max(1.1 * original, *latencies), SLOWEST_SHOWN * original)
    _dots(axes, run, lambda c: (c.number, min(c.latency_s * scale, top)))
    axes.step([*x, last], [*y, y[-1]], where="post", color=FOUND, linewidth=2.2,
              label="best so far", zorder=3)  # fmt: skip
    axes.plot(last, y[-1], "o", color=FOUND, markersize=6, zorder=4, clip_on=False)
    axes.axhline(original, color=ORIGINAL, linewidth=1.4, linestyle=DASHES, zorder=2)
    _note(axes, f"original {time_text(original / scale)}", original, 4, ORIGINAL)
    found = f"{time_text(y[-1] / scale)}, {ratio_text(original, y[-1])}"
    _note(axes, found, y[-1], -7, FOUND, weight="bold")
    margin = 0.1 * (top - low)
    axes.set_ylim(low - 1.5 * margin, top + margin)
    axes.set_xlim(0, last)
    axes.set_xlabel("candidates evaluated")
    axes.set_ylabel(f"latency ({unit})")
    _legend(axes)
    return figure


def pareto(run: RunData) -> Figure | None:
    """Latency against capacity; what no other candidate beats in both is the front."""
    known = [c for c in run.candidates if c.capacity_ratio is not None]
    if not known:
        return None
    figure, axes = _figure("Latency and capacity of the candidates", run.name)
    unit, scale = run.unit
    edge = SLOWEST_SHOWN * run.original_s if run.original_s else math.inf
    _dots(axes, run, lambda c: (min(c.latency_s, edge) * scale, c.capacity_ratio))
    front = [(c.latency_s * scale, c.capacity_ratio or 0.0) for c in _front(known)]
    axes.plot(*zip(*front, strict=True), "o-", drawstyle="steps-post", color=FOUND,
              linewidth=1.6, markersize=5, label="front", zorder=3)  # fmt: skip
    if run.original_s:
        axes.plot(run.original_s * scale, 1.0, "*", color=TEXT, markersize=13, label="original",
                  zorder=4)  # fmt: skip
    axes.axhline(1 - run.tolerance, color=ILLEGAL, linewidth=1.2, linestyle=DASHES,
                 label="capacity to keep")  # fmt: skip
    axes.set_xlabel(f"latency ({unit})")
    axes.set_ylabel("capacity / capacity of the original")
    ratios = [c.capacity_ratio or 0.0 for c in known]
    if 0 < min(ratios) < max(ratios) / LOGARITHMIC_FROM:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    _legend(axes)
    return figure


def sites(run: RunData) -> Figure | None:
    """Latency of every site before and after, the slowest first."""
    known = [s for s in run.result.get("sites", ()) if s["before_us"] and s["after_us"]]
    if not known:
        return None
    known.sort(key=lambda s: -s["before_us"])
    shown = known[:MOST_SITES]
    title = "Convolutions before and after"
    if len(shown) < len(known):
        title += f": the {len(shown)} slowest of {len(known)}"
    figure, axes = _figure(title, run.name, height_in=1.7 + 0.3 * len(shown))
    milli = shown[0]["before_us"] >= 1000
    unit, scale = ("ms", 1e-3) if milli else ("us", 1.0)
    before = [s["before_us"] * scale for s in shown]
    after = [s["after_us"] * scale for s in shown]
    rows = range(len(shown))
    axes.barh([r - 0.19 for r in rows], before, 0.36, color=BEFORE, label="before")
    axes.barh([r + 0.19 for r in rows], after, 0.36, color=FOUND, label="after")
    for row, old, new in zip(rows, before, after, strict=True):
        changed = abs(old / new - 1) >= 0.005
        axes.annotate(ratio_text(old, new) if changed else "=", (max(old, new), row), (5, 0),
                      textcoords="offset points", va="center", fontsize=9,
                      color=FOUND if new < old and changed else FAINT)  # fmt: skip
    axes.set_yticks(rows, [_shortened(s) for s in shown])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlim(0, max(*before, *after) * 1.12)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"latency, all calls in one inference ({unit})")
    _legend(axes, location="lower right")
    return figure


def gene_frequencies(run: RunData) -> Figure | None:
    """Genes per candidate of the population, by transformation, over the generations."""
    from matplotlib.ticker import MaxNLocator

    rows = [
        (r["generation"], {op: n / len(r["population"]) for op, n in r["genes"].items()})
        for r in run.history
        if r["population"]
    ]
    total: Counter[str] = Counter()
    for _, genes in rows:
        total.update(genes)
    if not total:
        return None
    names = [name for name, _ in total.most_common()]
    named = names if len(names) <= len(CATEGORIES) else names[: len(CATEGORIES) - 1]
    others = names[len(named) :]
    layers = {name: [genes.get(name, 0.0) for _, genes in rows] for name in named}
    if others:
        layers[f"{len(others)} others"] = [
            sum(genes.get(name, 0.0) for name in others) for _, genes in rows
        ]
    colours = [*CATEGORIES[: len(named)], *([OTHERS] if others else [])]
    height_in = 4.6 if len(rows) > 1 else 1.7 + 0.34 * len(layers)
    figure, axes = _figure("Genes in the population", run.name, height_in)
    if len(rows) > 1:
        numbers = [number for number, _ in rows]
        axes.stackplot(numbers, *layers.values(), colors=colours, labels=list(layers),
                       linewidth=0.6, edgecolor="white")  # fmt: skip
        axes.set_xlim(numbers[0], numbers[-1])
        axes.set_xlabel("generation")
        axes.set_ylabel("genes per candidate")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend_beside(axes)
    else:
        axes.barh(list(layers), [values[0] for values in layers.values()], color=colours)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"genes per candidate in generation {rows[0][0]}")
    return figure


def where_time_went(run: RunData) -> Figure | None:
    """Seconds by stage."""
    total_s = sum(run.seconds.values())
    if total_s <= 0:
        return None
    shown = {k: v for k, v in run.seconds.items() if v > 0}
    figure, axes = _figure(
        f"Where {span_text(total_s)} of work went", run.name, height_in=1.7 + 0.34 * len(shown)
    )
    axes.barh(list(shown), list(shown.values()), 0.62, color=LEGAL)
    for row, seconds in enumerate(shown.values()):
        text = f"{span_text(seconds)}  ({share_text(seconds, total_s)})"
        axes.annotate(text, (seconds, row), (5, 0), textcoords="offset points",
                      va="center", fontsize=9.5, color=FAINT)  # fmt: skip
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, max(shown.values()) * 1.3)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("seconds")
    return figure


PLOTS: dict[str, Callable[[RunData], Figure | None]] = {
    "best_latency": best_latency,
    "pareto": pareto,
    "sites": sites,
    "genes": gene_frequencies,
    "time": where_time_went,
}
"""By file name; None where there is nothing to show yet."""


def _figure(title: str, name: str, height_in: float = 4.6) -> tuple[Figure, Axes]:
    """An empty picture with a title and the run's name above the axes, at the left edge."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    below = (0, 0, 1, 1 - HEAD_IN / height_in)
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, rect=below)
    figure = Figure(figsize=(WIDTH_IN, height_in), layout=layout)
    FigureCanvasAgg(figure)
    shown = name if len(name) <= MOST_NAME else f"{name[: MOST_NAME - 1]}…"
    left = 0.12 / WIDTH_IN
    figure.text(left, 1 - 0.12 / height_in, title, va="top", size=13, weight="bold", color=TEXT)
    figure.text(left, 1 - 0.36 / height_in, shown, va="top", size=9.5, color=FAINT)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9ca3af")
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=10, colors=TEXT)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_fontsize(11)
        axis.label.set_color(TEXT)
    return figure, axes


def _legend(axes: Axes, location: Literal["best", "lower right"] = "best") -> None:
    legend = axes.legend(loc=location, fontsize=9.5, labelcolor=TEXT, framealpha=0.9,
                         edgecolor="none")  # fmt: skip
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)


def _legend_beside(axes: Axes) -> None:
    """Beside the picture, in the order of the layers."""
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5),
                fontsize=9.5, labelcolor=TEXT, frameon=False)  # fmt: skip


def _note(
    axes: Axes, text: str, y: float, offset: int, colour: str, weight: str = "normal"
) -> None:
    """Text at the right end of a line, `offset` points above it."""
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1}
    axes.annotate(text, (1, y), (-6, offset), xycoords=("axes fraction", "data"),
                  textcoords="offset points", ha="right", va="bottom" if offset > 0 else "top",
                  color=colour, fontsize=10.5, weight=weight, zorder=5, bbox=box)  # fmt: skip


def _dots(axes: Axes, run: RunData, place: Callable[[Candidate], tuple[Any, Any]]) -> None:
    """The candidates, legal ones and others."""
    for legal, colour, marker, label in (
        (False, ILLEGAL, "x", "candidate that loses capacity"),
        (True, LEGAL, "o", "candidate"),
    ):
        dots = [place(c) for c in run.candidates if c.legal is legal]
        dots = [dot for dot in dots if None not in dot]
        if dots:
            x, y = zip(*dots, strict=True)
            # Few dots have to be seen, many must not hide each other.
            alpha = min(0.7, max(0.2, 300 / len(dots)))
            size = min(32.0, max(9.0, 3000 / len(dots)))
            axes.scatter(x, y, s=size, c=colour, marker=marker, alpha=alpha,
                         linewidths=0.8 if marker == "x" else 0, label=label)  # fmt: skip


def _front(candidates: Sequence[Candidate]) -> Iterator[Candidate]:
    """The candidates that no other beats in both, the fastest first."""
    best = -math.inf
    for candidate in sorted(candidates, key=lambda c: (c.latency_s, -(c.capacity_ratio or 0))):
        if (candidate.capacity_ratio or 0) > best:
            best = candidate.capacity_ratio or 0
            yield candidate


def _shortened(site: Mapping[str, Any], limit: int = 34) -> str:
    """A site's name; of a long one, the end."""
    name = str(site["name"])
    name = name if len(name) <= limit else f"…{name[-limit + 1 :]}"
    return f"{site['calls']} x  {name}" if site["calls"] > 1 else name
