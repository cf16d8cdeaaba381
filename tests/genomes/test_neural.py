"""The rules of the domain transformations, each by its message, and what they compute."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from genomes.errors import IllegalTransformation
from genomes.gene import Gene
from genomes.genome import replay
from genomes.modules import SiteConv2d
from genomes.nest import ConvShape

SHAPE = ConvShape(2, 16, 16, (8, 8), (3, 3), padding=(1, 1, 1, 1))
SPLIT_ROWS = Gene.of("split_domain", loop="ho", parts=2)
GROUP = Gene.of("group", over="co", groups=4, layout="block")


def bottleneck(loop: str, factor: int, statement: int = 0) -> Gene:
    return Gene.of("bottleneck", statement, loop=loop, factor=factor)


def group(groups: int, over: str = "co", layout: str = "block", statement: int = 0) -> Gene:
    return Gene.of("group", statement, over=over, groups=groups, layout=layout)


def split(loop: str, parts, statement: int = 0) -> Gene:
    return Gene.of("split_domain", statement, loop=loop, parts=parts)


ILLEGAL = {
    "co factor does not divide": (SHAPE, [bottleneck("co", 3)], "3 does not divide the 16 output"),
    "ci factor does not divide": (SHAPE, [bottleneck("ci", 3)], "3 does not divide the 16 input"),
    "odd rows": (
        replace(SHAPE, in_size=(7, 8)),
        [bottleneck("ho", 2)],
        "2 does not divide the 7 output rows",
    ),
    "odd columns": (
        replace(SHAPE, in_size=(8, 7)),
        [bottleneck("wo", 2)],
        "2 does not divide the 7 output columns",
    ),
    "factor 1": (SHAPE, [bottleneck("co", 1)], "by 1 drops nothing"),
    "one output channel": (
        replace(SHAPE, out_channels=1),
        [bottleneck("co", 2)],
        "only one output channel",
    ),
    "one input channel": (
        replace(SHAPE, in_channels=1),
        [bottleneck("ci", 2)],
        "only one input channel",
    ),
    "all taps kept": (SHAPE, [bottleneck("kh", 4)], "nothing is dropped"),
    "no centre tap": (SHAPE, [bottleneck("kh", 2)], "no common centre"),
    "input bottleneck of groups": (
        replace(SHAPE, groups=2),
        [bottleneck("ci", 2)],
        "reduce before grouping",
    ),
    "cut through groups": (
        replace(SHAPE, out_channels=12, groups=2),
        [bottleneck("co", 3)],
        "not a whole number of groups",
    ),
    "group one output channel": (
        replace(SHAPE, out_channels=1),
        [group(2)],
        "only one output channel",
    ),
    "group one input channel": (
        replace(SHAPE, in_channels=1),
        [group(2)],
        "only one input channel",
    ),
    "groups do not divide ci": (
        replace(SHAPE, in_channels=18),
        [group(4)],
        "4 does not divide the 18 input",
    ),
    "groups do not divide co": (
        replace(SHAPE, out_channels=18),
        [group(4)],
        "4 does not divide the 18 output",
    ),
    "interleave groups": (
        replace(SHAPE, groups=2),
        [group(2, layout="interleaved")],
        "interleaved grouping of a grouped",
    ),
    "row slices of groups": (replace(SHAPE, groups=2), [group(2, "ho")], "slice before grouping"),
    "rows do not divide": (
        replace(SHAPE, in_size=(9, 9)),
        [group(2, "ho")],
        "2 does not divide the 9 output rows",
    ),
    "depthwise of one output channel": (
        replace(SHAPE, out_channels=1),
        [Gene.of("depthwise")],
        "one output channel is a full reduction",
    ),
    "depthwise of one input channel": (
        replace(SHAPE, in_channels=1),
        [Gene.of("depthwise")],
        "one input channel per group already",
    ),
    "depthwise already": (
        replace(SHAPE, groups=16),
        [Gene.of("depthwise")],
        "one input channel per group already",
    ),
    "depthwise co no multiple": (
        replace(SHAPE, out_channels=24),
        [Gene.of("depthwise")],
        "no multiple of the 16 input channels",
    ),
    "sizes do not add up": (SHAPE, [split("co", (4, 4))], "do not add up to the 16"),
    "parts do not divide": (SHAPE, [split("co", 3)], "3 does not divide the 16 output"),
    "split after bottleneck": (
        SHAPE,
        [bottleneck("co", 2), split("co", 2)],
        "split before the bottleneck",
    ),
    "split off the repeat": (
        SHAPE,
        [bottleneck("ho", 4), split("ho", (2, 6))],
        "no multiples of the 4-fold repeat",
    ),
    "split through groups": (SHAPE, [GROUP, split("co", (6, 10))], "cuts through groups"),
    "too many statements": (
        SHAPE,
        [split("co", 16), *(split("ho", 8, i) for i in (0, 8, 16))],
        "at most 32",
    ),
    "group of tied rows": (SHAPE, [SPLIT_ROWS, group(2)], "untie it first"),
    "bottleneck of tied rows": (SHAPE, [SPLIT_ROWS, bottleneck("co", 2)], "untie it first"),
    "kernel of tied rows": (SHAPE, [SPLIT_ROWS, bottleneck("kh", 1)], "untie it first"),
    "narrow tied rows": (SHAPE, [SPLIT_ROWS, Gene.of("narrow", start=2)], "untie it first"),
    "channel split of tied rows": (SHAPE, [SPLIT_ROWS, split("co", 2)], "untie it first"),
    "untie nothing": (SHAPE, [Gene.of("untie", loop="ho")], "nothing to untie"),
    "untie the other loop": (SHAPE, [SPLIT_ROWS, Gene.of("untie", loop="wo")], "nothing to untie"),
    "untie ragged slices": (
        SHAPE,
        [split("wo", 2), split("ho", 2), split("ho", (2, 2), 0), Gene.of("untie", loop="ho")],
        "overlap and cannot be untied",
    ),
    "narrow everything": (SHAPE, [Gene.of("narrow", start=16)], "only 16 input channels"),
    "narrow groups": (
        replace(SHAPE, groups=2),
        [Gene.of("narrow", start=2)],
        "narrow before grouping",
    ),
    "no such statement": (SHAPE, [group(2, statement=1)], "there is no statement 1"),
    "unknown operation": (SHAPE, [Gene.of("shrink")], "unknown transformation 'shrink'"),
    "missing argument": (SHAPE, [Gene.of("bottleneck", loop="co")], "lacks the argument factor"),
    "unknown argument": (SHAPE, [Gene.of("depthwise", by=2)], "no argument by"),
    "wrong word": (SHAPE, [bottleneck("n", 2)], "loop is 'n', expected co | ci"),
    "wrong number": (SHAPE, [bottleneck("co", 0)], "expected a whole number >= 1"),
    "wrong sizes": (SHAPE, [split("co", (16,))], "needs two or more sizes"),
    "domain after schedule": (
        SHAPE,
        [Gene.of("split", loop="co", factor=4), group(2)],
        "domain genes come first",
    ),
}


@pytest.mark.parametrize("case", ILLEGAL)
def test_illegal(case: str) -> None:
    shape, genes, message = ILLEGAL[case]
    with pytest.raises(IllegalTransformation, match=message.replace("(", r"\(")):
        replay(shape, tuple(genes))


def lowered(genes: list[Gene], shape: ConvShape = SHAPE) -> tuple[nn.Conv2d, torch.Tensor, ...]:
    """(original convolution, input, output of the transformed one)."""
    torch.manual_seed(0)
    conv = nn.Conv2d(
        shape.in_channels, shape.out_channels, shape.kernel, shape.stride, 1, groups=shape.groups
    )
    nest = replay(replace(shape, bias=True), tuple(genes))
    x = torch.randn(shape.input_shape)
    return conv, x, SiteConv2d.from_conv(conv, nest)(x)


def masked(conv: nn.Conv2d, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The convolution with dropped weights set to zero."""
    return functional.conv2d(x, conv.weight * mask, conv.bias, conv.stride, 1)


def test_group_keeps_the_block_diagonal() -> None:
    conv, x, y = lowered([GROUP])
    block = torch.arange(16) // 4
    mask = (block[:, None] == block[None, :]).float()[:, :, None, None]
    torch.testing.assert_close(y, masked(conv, x, mask))


def test_interleaved_group_reads_every_gth_channel() -> None:
    conv, x, y = lowered([group(4, layout="interleaved")])
    mask = (torch.arange(16)[:, None] // 4 == torch.arange(16)[None, :] % 4).float()
    torch.testing.assert_close(y, masked(conv, x, mask[:, :, None, None]))


def test_grouping_twice_refines() -> None:
    _, _, twice = lowered([group(2), group(2)])
    _, _, once = lowered([group(4)])
    torch.testing.assert_close(twice, once)


def test_output_bottleneck_repeats_channels() -> None:
    conv, x, y = lowered([bottleneck("co", 4)])
    first = (conv(x) - conv.bias.view(1, -1, 1, 1))[:, :4]
    expected = torch.cat([first] * 4, dim=1) + conv.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(y, expected)


def test_input_bottleneck_reads_the_first_channels() -> None:
    conv, x, y = lowered([bottleneck("ci", 2)])
    mask = (torch.arange(16) < 8).float().view(1, 16, 1, 1)
    torch.testing.assert_close(y, masked(conv, x, mask))


def test_kernel_bottleneck_keeps_the_centre() -> None:
    conv, x, y = lowered([bottleneck("kh", 1)])
    mask = torch.tensor([0.0, 1.0, 0.0]).view(1, 1, 3, 1)
    torch.testing.assert_close(y, masked(conv, x, mask))


def test_narrow_drops_the_first_channels() -> None:
    conv, x, y = lowered([Gene.of("narrow", start=5)])
    mask = (torch.arange(16) >= 5).float().view(1, 16, 1, 1)
    torch.testing.assert_close(y, masked(conv, x, mask))


def test_row_groups_read_their_own_channels() -> None:
    conv, x, y = lowered([group(2, "ho")])
    low = (torch.arange(16) < 8).float().view(1, 16, 1, 1)
    expected = torch.cat([masked(conv, x, low)[:, :, :4], masked(conv, x, 1 - low)[:, :, 4:]], 2)
    torch.testing.assert_close(y, expected)


def test_bottleneck_of_a_grouped_convolution_keeps_whole_groups() -> None:
    shape = replace(SHAPE, groups=4)
    conv, x, y = lowered([bottleneck("co", 2)], shape)
    first = (conv(x) - conv.bias.view(1, -1, 1, 1))[:, :8]
    torch.testing.assert_close(y, torch.cat([first] * 2, 1) + conv.bias.view(1, -1, 1, 1))
    assert replay(shape, (bottleneck("co", 2),)).statements[0].groups == 2


def test_untied_slices_keep_sharing_across_the_other_loop() -> None:
    genes = (split("ho", 2), split("wo", 2, 1), split("wo", 2, 0), Gene.of("untie", loop="ho"))
    nest = replay(SHAPE, genes)
    assert [s.weight for s in nest.statements] == [0, 0, 1, 1]


def test_dropping_iterations_drops_macs_in_proportion() -> None:
    fresh = replay(SHAPE, ())
    assert replay(SHAPE, (GROUP,)).macs * 4 == fresh.macs
    assert replay(SHAPE, (bottleneck("co", 2), bottleneck("ho", 2))).macs * 4 == fresh.macs
    assert replay(SHAPE, (split("co", 4),)).macs == fresh.macs == SHAPE.macs
