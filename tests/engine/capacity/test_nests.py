from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from torch import nn

from engine.capacity.nests import is_original, merged
from genomes import presets
from genomes.gene import Gene
from genomes.genome import replay
from genomes.modules import SiteConv2d
from genomes.nest import ConvShape
from genomes.operators import Space, random_genome
from genomes.presets import PRESETS
from genomes.sites import Site
from genomes.transformations import REGISTRY, Phase

SHAPE = ConvShape(1, 16, 16, (8, 8), (3, 3), padding=(1, 1, 1, 1))
GROUPED = replace(SHAPE, out_channels=32, groups=4, bias=True)
STRIDED = replace(SHAPE, out_channels=32, in_size=(9, 9), stride=(2, 2))


def conv(shape: ConvShape) -> nn.Conv2d:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Conv2d(
            shape.in_channels,
            shape.out_channels,
            shape.kernel,
            shape.stride,
            padding=1,
            groups=shape.groups,
            bias=shape.bias,
        )


@pytest.mark.parametrize("shape", [SHAPE, GROUPED, STRIDED], ids=["plain", "grouped", "strided"])
def test_merging_changes_no_function(shape: ConvShape) -> None:
    names = frozenset(name for name, t in REGISTRY.items() if t.phase is Phase.DOMAIN)
    space = Space((Site("a", shape),), names, tuple(PRESETS))
    rng = random.Random(0)
    x = torch.randn(2, *shape.input_shape[1:], generator=torch.Generator().manual_seed(0))
    original = conv(shape)
    fewer = 0
    for _ in range(100):
        nest = replay(shape, random_genome(space, rng, share=1.0).genes("a"))
        small = merged(nest)
        with torch.no_grad():
            y = SiteConv2d.from_conv(original, nest)(x)
            torch.testing.assert_close(SiteConv2d.from_conv(original, small)(x), y)
            same = torch.allclose(original(x), y, atol=1e-5)
        assert is_original(nest) == same
        fewer += len(small.statements) < len(nest.statements)
    assert fewer > 5


@pytest.mark.parametrize(
    "genes",
    [
        (),
        presets.seq3(4),
        (Gene.of("split_domain", loop="co", parts=4),),
        (
            Gene.of("split_domain", loop="co", parts=2),
            Gene.of("split_domain", 1, loop="wo", parts=2),
        ),
        (Gene.of("unroll", loop="kw"),),
    ],
)
@pytest.mark.parametrize("shape", [SHAPE, GROUPED])
def test_splits_and_schedules_leave_the_original(
    shape: ConvShape, genes: tuple[Gene, ...]
) -> None:
    nest = replay(shape, genes)
    assert is_original(nest)
    assert len(merged(nest).statements) == 1


def test_equal_parts_become_one_group_convolution() -> None:
    both = replay(SHAPE, presets.seq1((2, 2)))
    assert len(merged(both).statements) == 2  # both parts read all channels
    whole = replay(SHAPE, presets.grouping(4))
    halves = replay(SHAPE, (*presets.grouping(4), Gene.of("split_domain", loop="co", parts=2)))
    assert len(halves.statements) == 2
    assert merged(halves) == merged(whole)
    assert not is_original(halves)


def test_repeated_channels_are_kept_apart() -> None:
    nest = replay(
        SHAPE,
        (
            Gene.of("split_domain", loop="co", parts=2),
            Gene.of("bottleneck", 0, loop="co", factor=2),
            Gene.of("bottleneck", 1, loop="co", factor=2),
        ),
    )
    assert len(merged(nest).statements) == 2
