"""What the pictures of a run show, read from its folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.runs import RunDir

ROUNDING = 1e-6
"""As in `engine.fitness`, which needs torch: what the order of summation alone changes."""


@dataclass(frozen=True)
class RunData:
    """What the pictures show.

    Attributes:
        name: Of the run.
        history: The records of `history.jsonl`.
        original: `latency_s`, `capacity` and `parameters` of the untransformed network.
        result: What `result.json` holds; {} while the search goes on.
        tolerance: Relative loss of capacity that is legal.
        parameters: Least share of the original's parameters that is legal.
    """

    name: str
    history: Sequence[Mapping[str, Any]]
    original: Mapping[str, Any]
    result: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = 0.0
    parameters: float = 0.0

    @classmethod
    def read(cls, run_dir: Path, original: Mapping[str, Any] | None = None) -> RunData:
        """The data of a run folder.

        Args:
            run_dir: The folder.
            original: Of a search that goes on, which has no result yet, or one of an earlier
                session; None: the result is read, if there is one.

        Raises:
            LoopGeneError: A file of the folder is damaged, or its config is missing.
        """
        run = RunDir(run_dir)
        result = run.result() if original is None and run.result_path.exists() else {}
        known = original or result.get("original", {})
        bounds = run.config().capacity
        return cls(run.name, run.history(), known, result, bounds.tolerance, bounds.parameters)

    @property
    def original_s(self) -> float | None:
        """Latency of the original in seconds, as the search estimates it."""
        return self.original.get("latency_s")

    @cached_property
    def candidates(self) -> list[Candidate]:
        """Every candidate that has a latency, in the order of evaluation."""
        capacity = self.original.get("capacity")
        least = self.parameters * self.original.get("parameters", 0)
        found = []
        for record in self.history:
            first = record["evaluations"] - len(record["candidates"]) + 1
            for number, candidate in enumerate(record["candidates"], first):
                latency_s, own = candidate["latency_s"], candidate["capacity"]
                if latency_s is not None:
                    ratio = own / capacity if capacity and own is not None else None
                    kept = ratio is None or ratio >= 1 - self.tolerance - ROUNDING
                    legal = kept and candidate["parameters"] >= least
                    found.append(Candidate(number, latency_s, ratio, legal))
        return found

    @property
    def unit(self) -> tuple[str, float]:
        """The unit in which latencies are shown, and how many of it make a second."""
        known = [self.original_s, *(c.latency_s for c in self.candidates[:1])]
        return ("us", 1e6) if (next(filter(None, known), 1.0)) < 1e-3 else ("ms", 1e3)

    @cached_property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage, the largest first."""
        if self.result.get("seconds"):
            total = Counter({k: v for k, v in self.result["seconds"].items() if k != "elapsed"})
        else:
            total = Counter()
            for record in self.history:
                total.update(record["seconds"])
        return dict(total.most_common())


@dataclass(frozen=True)
class Candidate:
    """One dot of a picture.

    Attributes:
        number: Its place in the order of evaluation, from 1.
        latency_s: Estimated from its kernels.
        capacity_ratio: Relative to the original; None if it is not known.
        legal: Whether the capacity and enough parameters are kept.
    """

    number: int
    latency_s: float
    capacity_ratio: float | None
    legal: bool
