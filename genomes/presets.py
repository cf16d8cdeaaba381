"""Named transformations of the paper, built from the primitives.

Each preset is a function from its parameters to genes for one site.  Sources: NAS-PTE
(Turner et al., ASPLOS 2021, arXiv 2102.06599), section 7.3 for the sequences; BlockSwap
(arXiv 1906.04113) for grouping and bottlenecking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from genomes.errors import IllegalTransformation
from genomes.gene import Gene
from genomes.genome import replay
from genomes.nest import ConvShape


def grouping(groups: int, layout: str = "block") -> tuple[Gene, ...]:
    """A grouped convolution."""
    return (Gene.of("group", over="co", groups=groups, layout=layout),)


def depthwise() -> tuple[Gene, ...]:
    """A depthwise convolution."""
    return (Gene.of("depthwise"),)


def bottleneck(factor: int) -> tuple[Gene, ...]:
    """1/factor of the output channels; the others repeat them."""
    return (Gene.of("bottleneck", loop="co", factor=factor),)


def input_bottleneck(factor: int) -> tuple[Gene, ...]:
    """1/factor of the input channels."""
    return (Gene.of("bottleneck", loop="ci", factor=factor),)


def spatial_bottleneck(factor: int) -> tuple[Gene, ...]:
    """Every factor-th row and column: [interchange, bottleneck, interchange]."""
    return (
        Gene.of("bottleneck", loop="ho", factor=factor),
        Gene.of("bottleneck", loop="wo", factor=factor),
    )


def seq1(groups: Sequence[int]) -> tuple[Gene, ...]:
    """Sequence 1: split co into equal parts and group each with its own factor.

    Args:
        groups: One factor in {1, 2, 4, 8} for each of the {1, 2, 4, 8} parts.
    """
    parts = len(groups)
    split = (Gene.of("split_domain", loop="co", parts=parts),) if parts > 1 else ()
    grouped = (
        Gene.of("group", part, over="co", groups=g, layout="block")
        for part, g in enumerate(groups)
        if g > 1
    )
    return (*split, *grouped)


def seq2(shape: ConvShape, peel: int, groups: int) -> tuple[Gene, ...]:
    """Sequence 2: the first `peel` output channels stay dense; the rest is grouped.

    The rest reads the input channels from `peel` on.

    Args:
        shape: The site.
        peel: Dense output channels, in {1, 2, 4, 8, 16}.
        groups: Groups of the rest, in {1, 2, 3, 4}.
    """
    sizes = (peel, shape.out_channels - peel)
    genes: tuple[Gene, ...] = (
        Gene.of("split_domain", loop="co", parts=sizes),
        Gene.of("narrow", 1, start=peel),
    )
    if groups > 1:
        genes += (Gene.of("group", 1, over="co", groups=groups, layout="block"),)
    return genes


def seq3(slices: int) -> tuple[Gene, ...]:
    """Sequence 3: H split into slices, each with its own weights; slices in {1, 2, 4, 8}."""
    if slices == 1:
        return ()
    return (Gene.of("split_domain", loop="ho", parts=slices), Gene.of("untie", loop="ho"))


PRESETS: dict[str, Callable[[ConvShape], Iterator[tuple[Gene, ...]]]] = {
    "grouping": lambda shape: (grouping(g) for g in (2, 4, 8, 16, 32)),
    "depthwise": lambda shape: iter((depthwise(),)),
    "bottleneck": lambda shape: (bottleneck(b) for b in (2, 4, 8)),
    "input_bottleneck": lambda shape: (input_bottleneck(b) for b in (2, 4)),
    "spatial_bottleneck": lambda shape: (spatial_bottleneck(b) for b in (2, 4)),
    "seq1": lambda shape: (
        seq1(g)
        for g in ((2, 4), (2, 8), (4, 8), (1, 2), (1, 4), (1, 8), (2, 2, 4, 4), (1, 2, 4, 8))
    ),
    "seq2": lambda shape: (seq2(shape, u, g) for u in (1, 2, 4, 8, 16) for g in (1, 2, 3, 4)),
    "seq3": lambda shape: (seq3(s) for s in (2, 4, 8)),
}
"""By name: the usual members of a preset's family for a site, legal or not."""


def legal_presets(shape: ConvShape, names: Sequence[str]) -> list[tuple[Gene, ...]]:
    """The members of the named preset families that apply to a site.

    Raises:
        KeyError: A name is not in `PRESETS`.
    """
    found = []
    for name in names:
        for genes in PRESETS[name](shape):
            try:
                replay(shape, genes)
            except IllegalTransformation:
                continue
            found.append(genes)
    return found
