"""The first generation: what is worth a look before anything is known."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from genomes.errors import IllegalTransformation
from genomes.gene import Gene
from genomes.genome import Genome, replay
from genomes.operators import Space
from genomes.presets import PRESETS
from genomes.sites import Site


def uniform_presets(space: Space) -> list[Genome]:
    """Every member of every preset family applied to all sites on which it is legal.

    Returns:
        The first members of the families first; members that apply nowhere are left out.
    """
    families = [
        {site.name: list(PRESETS[name](site.shape)) for site in space.sites}
        for name in space.presets
    ]
    members = [
        [_uniform(space, family, i) for i in range(max(map(len, family.values()), default=0))]
        for family in families
    ]
    return [g for row in zip_longest(*members) for g in row if g is not None and len(g)]


def _uniform(space: Space, family: dict[str, list[tuple[Gene, ...]]], index: int) -> Genome:
    """Member `index` of a family on all sites."""
    return Genome.of(
        {
            site.name: space.repaired(site, family[site.name][index])
            for site in space.sites
            if index < len(family[site.name]) and _applies(space, site, family[site.name][index])
        }
    )


def _applies(space: Space, site: Site, genes: Sequence[Gene]) -> bool:
    """Whether all of `genes` are allowed and legal."""
    if any(gene.op not in space.transformations for gene in genes):
        return False
    try:
        replay(site.shape, tuple(genes))
    except IllegalTransformation:
        return False
    return True
