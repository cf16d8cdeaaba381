"""A search space that counts what its repair throws away."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from genomes.gene import Gene
from genomes.genome import repair
from genomes.operators import Space, by_phase
from genomes.sites import Site


@dataclass(frozen=True)
class CountedSpace(Space):
    """A space that remembers why genes were dropped.

    Attributes:
        dropped: Dropped genes since the last `take_dropped`, by the kind of reason.
    """

    dropped: Counter[str] = field(default_factory=Counter, compare=False, repr=False)

    def repaired(self, site: Site, genes: Sequence[Gene]) -> tuple[Gene, ...]:
        domain, schedule = by_phase(genes)
        for _, reason in repair(site.shape, (*domain[: self.max_genes], *schedule)).dropped:
            self.dropped[_kind_of(reason)] += 1
        return super().repaired(site, genes)

    def take_dropped(self) -> dict[str, int]:
        """Dropped genes by reason, since the last call."""
        taken = dict(sorted(self.dropped.items()))
        self.dropped.clear()
        return taken


@lru_cache(maxsize=4096)
def _kind_of(reason: str) -> str:
    """Reasons that differ only in numbers, parts of loops or what there is instead are alike."""
    return re.sub(r"\d+", "n", re.sub(r"\.\d+", "", reason.partition(";")[0]))
