"""The size of a search space: sites, distinct shapes, and what may be done at each site."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from engine.config import SearchConfig
from genomes.errors import IllegalTransformation
from genomes.gene import Gene, Value
from genomes.genome import replay
from genomes.nest import ConvShape, LoopNest
from genomes.presets import PRESETS, legal_presets
from genomes.sites import Site, Sites
from genomes.transformations import REGISTRY, Phase, apply
from genomes.transformations.arguments import Argument, Count, OneOf, Parts


@dataclass(frozen=True)
class Choices:
    """What may be done at a site.

    Attributes:
        genes: Single domain genes with usual arguments that apply to the original convolution.
        presets: Members of the preset families that apply.
    """

    genes: int
    presets: int


@dataclass(frozen=True)
class Survey:
    """The size of a search space.

    Attributes:
        sites: What may be transformed.
        choices: For each site.
    """

    sites: tuple[Site, ...]
    choices: tuple[Choices, ...]

    @property
    def distinct_shapes(self) -> int:
        return len({site.shape for site in self.sites})

    @property
    def log10_genomes(self) -> float:
        """log10 of the networks that presets alone make: one, or none, at every site."""
        return sum(math.log10(c.presets + 1) for c in self.choices)


def survey(sites: Sites, search: SearchConfig) -> Survey:
    """Count what `search` may do with a network."""
    presets = tuple(PRESETS) if search.presets is None else tuple(search.presets)
    allowed = REGISTRY if search.transformations is None else search.transformations
    names = tuple(n for n in REGISTRY if n in allowed and REGISTRY[n].phase is Phase.DOMAIN)
    found = tuple(choices_at(site.shape, names, presets) for site in sites.sites)
    return Survey(sites.sites, found)


@cache
def choices_at(shape: ConvShape, names: tuple[str, ...], presets: tuple[str, ...]) -> Choices:
    """What may be done at a site of a shape.

    Args:
        shape: The site's.
        names: Domain transformations.
        presets: Preset families.
    """
    nest = replay(shape, ())
    genes = sum(_applies(nest, gene) for name in names for gene in _usual(name))
    return Choices(genes, len(legal_presets(shape, presets)))


def _usual(name: str) -> list[Gene]:
    """A transformation with every combination of its usual arguments."""
    arguments = REGISTRY[name].arguments
    values = [_values(domain) for domain in arguments.values()]
    return [
        Gene(name, 0, tuple(sorted(zip(arguments, chosen, strict=True))))
        for chosen in itertools.product(*values)
    ]


def _values(domain: Argument) -> Sequence[Value]:
    match domain:
        case OneOf(values):
            return values
        case Count(usual) | Parts(usual):
            return usual
    raise TypeError(f"the values of {domain.describe()} cannot be counted")


def _applies(nest: LoopNest, gene: Gene) -> bool:
    try:
        apply(nest, gene)
    except IllegalTransformation:
        return False
    return True
