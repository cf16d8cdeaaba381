"""Random convolutions and random loop nests, for property tests."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import replace

from hypothesis import strategies as st

from genomes.nest import ConvShape, LoopNest
from genomes.transformations import REGISTRY, Phase, sample_gene

DOMAIN = frozenset(n for n, t in REGISTRY.items() if t.phase is Phase.DOMAIN)


def random_shape(rng: random.Random) -> ConvShape:
    """A small convolution with any stride, dilation, padding, groups, bias and odd extents."""
    while True:
        groups = rng.choice((1, 1, 1, 2, 4))
        mode = rng.choice(("zeros", "zeros", "zeros", "reflect", "replicate", "circular"))
        shape = ConvShape(
            batch=rng.choice((1, 1, 2)),
            in_channels=groups * rng.choice((1, 2, 3, 4, 8)),
            out_channels=groups * rng.choice((1, 2, 3, 4, 8, 16)),
            in_size=(rng.choice((4, 5, 7, 8, 9, 12)), rng.choice((4, 6, 7, 8, 10, 16))),
            kernel=(rng.choice((1, 2, 3, 3, 5)), rng.choice((1, 3, 3))),
            stride=(rng.choice((1, 1, 2, 3)), rng.choice((1, 1, 2))),
            padding=tuple(rng.choice((0, 1, 1, 2)) for _ in range(4)),  # type: ignore[arg-type]
            dilation=(rng.choice((1, 1, 2)), rng.choice((1, 1, 2))),
            groups=groups,
            padding_mode=mode,
            bias=rng.random() < 0.5,
        )
        lanes = [rng.choice(_lanes(c)) for c in (shape.in_channels, shape.out_channels)]
        shape = replace(shape, input_lanes=lanes[0], output_lanes=lanes[1])
        if min(shape.out_size) >= 1:
            return shape


def wide_shape(rng: random.Random) -> ConvShape:
    """A convolution of few pixels, with many channels in each group or with one."""
    while True:
        groups = rng.choice((1, 1, 1, 2, 4))
        channels = [groups * rng.choice((16, 24, 32, 48, 64)) for _ in range(2)]
        if rng.random() < 0.25:
            groups = channels[0] = channels[1]
        kernel, size = rng.choice((1, 3)), rng.choice((1, 2, 4, 7, 8, 12))
        shape = ConvShape(
            1,
            *channels,
            in_size=(size, rng.choice((size, 2 * size))),
            kernel=(kernel, kernel),
            stride=(rng.choice((1, 1, 2)),) * 2,
            padding=(rng.choice((kernel // 2, kernel // 2, 0)),) * 4,
            groups=groups,
            bias=rng.random() < 0.5,
        )
        lanes = [rng.choice(_lanes(c)) for c in channels]
        if min(shape.out_size) >= 1:
            return replace(shape, input_lanes=lanes[0], output_lanes=lanes[1])


def _lanes(channels: int) -> list[int]:
    """Blocks of channels in which an activation can be stored, NCHW as often as not."""
    blocks = [lanes for lanes in (2, 4, 8, 16) if channels % lanes == 0]
    return [*blocks, *[0] * (len(blocks) + 1)]


def random_nest(
    rng: random.Random,
    shape: ConvShape,
    max_genes: int = 4,
    allowed: Collection[str] = DOMAIN,
) -> LoopNest:
    """The nest after up to `max_genes` random legal genes out of `allowed`."""
    nest = LoopNest.fresh(shape)
    for _ in range(rng.randint(0, max_genes)):
        found = sample_gene(nest, allowed, rng)
        if found is not None:
            nest = found[1]
    return nest


generators = st.integers(0, 2**32 - 1).map(random.Random)
shapes = generators.map(random_shape)
nests = generators.map(lambda rng: random_nest(rng, random_shape(rng)))
