"""What of a search is recorded: parameters, metrics by generation, tables of populations.

Plain data without MLflow.  Metric names are grouped by a slash, as MLflow's charts are; units are
in the names.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from engine.evaluation import Evaluation, Generation

PARAM_CHARACTERS = 500
"""Longer values are cut; MLflow would cut at 6,000 without a word, and its pages overflow."""

GENOME_CHARACTERS = 1000
"""Length of a genome's text in a table; the whole genomes are in the run folder."""

COLUMNS = (
    "rank",
    "latency_ms",
    "speedup",
    "capacity_ratio",
    "MMACs",
    "parameters",
    "genes",
    "status",
    "genome",
    "key",
)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Parameters by dotted path; values as JSON text, words without quotes."""
    found: dict[str, str] = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            found.update(flatten(value, f"{path}."))
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            found[allowed(path)] = cut(text, PARAM_CHARACTERS)
    return found


def allowed(name: str) -> str:
    """`name` without the characters that MLflow refuses in names."""
    return re.sub(r"[^\w\-./: ]", "_", name)[:250]


def cut(text: str, limit: int) -> str:
    """`text` with an ellipsis in place of what exceeds `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are numbers: a database reads inf back as 1.8e308."""
    return {
        allowed(name): float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


class Recorder:
    """Turns generations into metrics and tables.

    Args:
        original: `latency_s` and `capacity` of the untransformed network, if they are known.
        totals: The last cumulative metrics of a search that goes on.
    """

    def __init__(self, original: Mapping[str, Any], totals: Mapping[str, float]) -> None:
        self._latency_s: float | None = original.get("latency_s")
        self._capacity: float | None = original.get("capacity")
        self._totals = {k: v for k, v in totals.items() if k.startswith(("seconds/", "rejected/"))}
        self._texts: dict[str, str] = {}

    def metrics(self, generation: Generation) -> dict[str, float]:
        """The metrics of a generation, all finite; seconds and rejections add up."""
        for reason, count in generation.rejected.items():
            self._add(f"rejected/{reason}", count)
        for stage, seconds in generation.seconds.items():
            self._add(f"seconds/{stage}", seconds)
        best = generation.best
        found: dict[str, Any] = {
            "best/latency_ms": _ms(best.latency_s),
            "best/speedup": self.speedup(best),
            "best/capacity_ratio": self.capacity_ratio(best),
            "search/evaluations": generation.evaluations,
            "search/measurements": generation.measurements,
            "search/store_hits": generation.store_hits,
            "search/elapsed_s": generation.elapsed_s,
            **self._totals,
        }
        latencies = [e.latency_s for e in generation.population if e.latency_s is not None]
        if latencies:
            found["population/median_latency_ms"] = _ms(statistics.median(latencies))
            found["population/min_latency_ms"] = _ms(min(latencies))
        return finite(found)

    def table(self, generation: Generation) -> str:
        """The population, best first, as JSON in the form of pandas' `orient="split"`."""
        ordered = sorted(generation.population, key=lambda e: e.fitness)
        texts = {e.genome.key: self._text(e) for e in ordered}
        # Survivors keep their text; of what has died out, nothing is kept.
        self._texts = texts
        rows = [[rank, *self._cells(e)] for rank, e in enumerate(ordered, 1)]
        return json.dumps({"columns": COLUMNS, "data": rows})

    def speedup(self, evaluation: Evaluation) -> float | None:
        """How many times faster than the original."""
        if not self._latency_s or not evaluation.latency_s:
            return None
        return self._latency_s / evaluation.latency_s

    def capacity_ratio(self, evaluation: Evaluation) -> float | None:
        """Capacity relative to the original's."""
        if not self._capacity or evaluation.capacity is None:
            return None
        return evaluation.capacity / self._capacity

    def _add(self, name: str, value: float) -> None:
        name = allowed(name)
        self._totals[name] = self._totals.get(name, 0.0) + value

    def _cells(self, evaluation: Evaluation) -> Iterator[Any]:
        yield _digits(_ms(evaluation.latency_s), 4)
        yield _digits(self.speedup(evaluation), 3)
        yield _digits(self.capacity_ratio(evaluation), 4)
        yield _digits(evaluation.macs / 1e6, 3)
        yield evaluation.parameters
        yield len(evaluation.genome)
        yield evaluation.status
        yield self._texts[evaluation.genome.key]
        yield evaluation.genome.key

    def _text(self, evaluation: Evaluation) -> str:
        genome = evaluation.genome
        return self._texts.get(genome.key) or cut(str(genome), GENOME_CHARACTERS)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def _digits(value: float | None, digits: int) -> float | None:
    """Rounded for a table; None for what is no number."""
    return round(value, digits) if value is not None and math.isfinite(value) else None
