"""The progress of a search: a live table on a terminal, one line per generation in a log."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from engine.config import ExperimentConfig
from engine.evaluation import Generation
from engine.numbers import ratio_text, span_text, time_text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

RECENT = 5
"""Generations over which the remaining time is estimated."""

PREPARING = "measuring the original network and the initial population"
CONCLUDING = "tuning and measuring the finalists"


@dataclass(frozen=True)
class Limits:
    """When a search ends at the latest.

    Attributes:
        generations: Number of the last generation.
        evaluations: Candidates, if they are limited.
        wall_clock_s: Seconds over all resumptions, if they are limited.
    """

    generations: int
    evaluations: int | None
    wall_clock_s: float | None

    @classmethod
    def of(cls, config: ExperimentConfig) -> Limits:
        """The limits of an experiment."""
        budget = config.budget
        return cls(config.search.generations, budget.evaluations, budget.wall_clock_s)


class Pace:
    """How fast generations come, and how long the rest will take."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._recent: deque[Generation] = deque(maxlen=RECENT + 1)

    def add(self, generation: Generation) -> None:
        """Take note of a generation."""
        self._recent.append(generation)

    @property
    def remaining_s(self) -> float | None:
        """Seconds to the first limit; None as long as one generation says nothing."""
        if not self._recent:
            return None
        first, last = self._recent[0], self._recent[-1]
        left = []
        if self.limits.wall_clock_s is not None:
            left.append(self.limits.wall_clock_s - last.elapsed_s)
        seconds, steps = last.elapsed_s - first.elapsed_s, last.number - first.number
        if steps > 0:
            left.append((self.limits.generations - last.number) * seconds / steps)
            done = last.evaluations - first.evaluations
            if self.limits.evaluations is not None and done > 0:
                left.append((self.limits.evaluations - last.evaluations) * seconds / done)
        return max(0.0, min(left)) if left else None


class Progress:
    """Shows a search; a context manager around it, called with every generation.

    Args:
        console: Where to; a live table if it is a terminal.
        limits: When the search ends.
        title: Name of the run.

    Attributes:
        last: The last generation seen.
    """

    def __init__(self, console: Console, limits: Limits, title: str) -> None:
        self.last: Generation | None = None
        self._console = console
        self._limits = limits
        self._title = title
        self._pace = Pace(limits)
        self._rejected: Counter[str] = Counter()
        self._seconds: Counter[str] = Counter()
        self._original_s: float | None = None
        self._since_s = time.monotonic()
        self._live: Live | None = None
        self._concludes = False
        self._ended = False

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            from rich.live import Live

            self._live = Live(
                console=self._console, get_renderable=self._table, refresh_per_second=2
            )
            self._live.start(refresh=True)
        else:
            self._console.print(PREPARING, soft_wrap=True)
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended = True
        if self._live is not None:
            self._live.stop()

    def show(self, generation: Generation, original_s: float | None) -> None:
        """A generation has ended.

        Args:
            generation: What it did.
            original_s: Latency of the untransformed network, in seconds.
        """
        self.last = generation
        self._since_s = time.monotonic()
        self._original_s = original_s
        self._pace.add(generation)
        self._rejected.update(generation.rejected)
        for stage, seconds in generation.seconds.items():
            self._seconds[stage] += seconds  # type: ignore[assignment]
        if self._live is not None:
            self._live.refresh()
        else:
            self._console.print(self.line(generation), soft_wrap=True)

    def concluding(self) -> None:
        """The last generation has ended."""
        self._concludes = True
        self._since_s = time.monotonic()
        if self._live is not None:
            self._live.refresh()
        else:
            self._console.print(CONCLUDING, soft_wrap=True)

    def line(self, generation: Generation) -> str:
        """One generation as a line of a log."""
        parts = [
            f"generation {generation.number}/{self._limits.generations}",
            f"{generation.evaluations} evaluated",
            self._best(generation),
            f"rejected {_counts(generation.rejected)}",
            f"{span_text(generation.elapsed_s)} ({_shares(generation.seconds)})",
        ]
        if self._pace.remaining_s:
            parts.append(f"{span_text(self._pace.remaining_s)} left")
        return " | ".join(parts)

    def _best(self, generation: Generation) -> str:
        latency_s = generation.best.latency_s
        text = f"best {time_text(latency_s)}"
        if self._original_s is None:
            return text
        original = time_text(self._original_s)
        return f"{text}, {ratio_text(self._original_s, latency_s)} (original {original})"

    def _table(self) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", justify="right")
        table.add_column()
        table.add_row("run", self._title)
        last = self.last
        since_s = time.monotonic() - self._since_s
        if last is None:
            table.add_row("now", f"{PREPARING}, {span_text(since_s)}")
            return table
        remaining_s = self._pace.remaining_s
        left = ""
        if remaining_s is not None and not self._ended:
            left_s = remaining_s - since_s
            left = f", about {span_text(left_s)} left" if left_s > 0 else ""
        if self._concludes and not self._ended:
            left = f", now {CONCLUDING}, {span_text(since_s)}"
        total = self._limits.generations
        table.add_row("generation", f"{last.number} of {total}")
        table.add_row("", ProgressBar(total=total, completed=last.number, width=40))
        table.add_row("time", f"{span_text(last.elapsed_s + since_s)}{left}")
        table.add_row("evaluations", self._evaluations(last))
        table.add_row("latency", self._best(last))
        table.add_row("kernels", f"{last.measurements} measured, {last.store_hits} known before")
        table.add_row("rejected", _counts(self._rejected))
        table.add_row("time spent", _shares(self._seconds))
        return table

    def _evaluations(self, generation: Generation) -> str:
        limit = self._limits.evaluations
        return f"{generation.evaluations}" + (f" of {limit}" if limit is not None else "")


def _counts(counts: Mapping[str, int]) -> str:
    """Counts by name, the largest first: `12 capacity, 2 build_error`."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{number} {name}" for name, number in ordered if number) or "none"


def _shares(seconds: Mapping[str, float]) -> str:
    """Where the time went, the largest share first; below 1 % is left out."""
    total = sum(seconds.values())
    ordered = sorted(seconds.items(), key=lambda item: (-item[1], item[0]))
    shown = (f"{name} {100 * s / total:.0f} %" for name, s in ordered if s > 0.01 * total)
    return ", ".join(shown) or "no time"
