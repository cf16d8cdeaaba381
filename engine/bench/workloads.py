"""The convolutions of the kernel benchmark: five networks', and what genes make of some."""

from __future__ import annotations

from dataclasses import dataclass

from genomes.gene import Gene
from genomes.genome import replay
from genomes.nest import ConvShape, LoopNest
from genomes.presets import bottleneck, depthwise, grouping, seq1, seq2, seq3, spatial_bottleneck


@dataclass(frozen=True)
class Workload:
    """One kernel to measure.

    Attributes:
        name: What stands in the table.
        nest: Unscheduled.
        quick: Whether it belongs to the quick selection.
    """

    name: str
    nest: LoopNest
    quick: bool = False


def conv(
    channels: tuple[int, int], size: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> ConvShape:
    """A square convolution (in, out channels) that keeps the size but for its stride."""
    pad = kernel // 2
    return ConvShape(
        1,
        *channels,
        (size, size),
        (kernel, kernel),
        stride=(stride, stride),
        padding=(pad, pad, pad, pad),
        groups=groups,
    )


RESNET_CIFAR = (
    conv((3, 64), 32),
    conv((64, 64), 32),
    conv((64, 128), 32, stride=2),
    conv((64, 128), 32, kernel=1, stride=2),
    conv((128, 128), 16),
    conv((128, 256), 16, stride=2),
    conv((128, 256), 16, kernel=1, stride=2),
    conv((256, 256), 8),
    conv((256, 512), 8, stride=2),
    conv((256, 512), 8, kernel=1, stride=2),
    conv((512, 512), 4),
)
RESNET_IMAGENET = (
    conv((3, 64), 224, kernel=7, stride=2),
    conv((64, 64), 56),
    conv((64, 128), 56, stride=2),
    conv((64, 128), 56, kernel=1, stride=2),
    conv((128, 128), 28),
    conv((128, 256), 28, stride=2),
    conv((128, 256), 28, kernel=1, stride=2),
    conv((256, 256), 14),
    conv((256, 512), 14, stride=2),
    conv((256, 512), 14, kernel=1, stride=2),
    conv((512, 512), 7),
)
RESNEXT = (
    conv((64, 256), 32, kernel=1),
    conv((64, 128), 32, kernel=1),
    conv((128, 128), 32, groups=2),
    conv((128, 256), 32, kernel=1),
    conv((256, 128), 32, kernel=1),
    conv((256, 512), 32, kernel=1, stride=2),
    conv((256, 256), 32, kernel=1),
    conv((256, 256), 32, stride=2, groups=2),
    conv((256, 512), 16, kernel=1),
    conv((512, 256), 16, kernel=1),
    conv((256, 256), 16, groups=2),
    conv((512, 1024), 16, kernel=1, stride=2),
    conv((512, 512), 16, kernel=1),
    conv((512, 512), 16, stride=2, groups=2),
    conv((512, 1024), 8, kernel=1),
    conv((1024, 512), 8, kernel=1),
    conv((512, 512), 8, groups=2),
)
DENSENET = (
    conv((3, 96), 32),
    conv((96, 192), 32, kernel=1),
    conv((192, 48), 32),
    conv((384, 192), 16, kernel=1),
    conv((192, 48), 16),
    conv((768, 384), 16, kernel=1),
    conv((1056, 192), 8, kernel=1),
    conv((192, 48), 8),
    conv((2112, 1056), 8, kernel=1),
    conv((2160, 192), 4, kernel=1),
    conv((192, 48), 4),
)
"""Some of 86, most of which differ by the number of channels that a layer reads."""
MOBILENET = (
    conv((3, 32), 224, stride=2),
    conv((32, 32), 112, groups=32),
    conv((32, 16), 112, kernel=1),
    conv((16, 96), 112, kernel=1),
    conv((96, 96), 112, stride=2, groups=96),
    conv((96, 24), 56, kernel=1),
    conv((24, 144), 56, kernel=1),
    conv((144, 144), 56, groups=144),
    conv((144, 24), 56, kernel=1),
    conv((144, 144), 56, stride=2, groups=144),
    conv((144, 32), 28, kernel=1),
    conv((32, 192), 28, kernel=1),
    conv((192, 192), 28, groups=192),
    conv((192, 32), 28, kernel=1),
    conv((192, 192), 28, stride=2, groups=192),
    conv((192, 64), 14, kernel=1),
    conv((64, 384), 14, kernel=1),
    conv((384, 384), 14, groups=384),
    conv((384, 64), 14, kernel=1),
    conv((384, 96), 14, kernel=1),
    conv((96, 576), 14, kernel=1),
    conv((576, 576), 14, groups=576),
    conv((576, 96), 14, kernel=1),
    conv((576, 576), 14, stride=2, groups=576),
    conv((576, 160), 7, kernel=1),
    conv((160, 960), 7, kernel=1),
    conv((960, 960), 7, groups=960),
    conv((960, 160), 7, kernel=1),
    conv((960, 320), 7, kernel=1),
    conv((320, 1280), 7, kernel=1),
)
MIDDLE, SMALL, WIDE = conv((128, 128), 16), conv((256, 256), 8), conv((512, 512), 4)
FORMS: tuple[tuple[str, ConvShape, tuple[Gene, ...]], ...] = (
    *((f"{g} groups", MIDDLE, grouping(g)) for g in (2, 4, 8, 16, 32)),
    ("depthwise", MIDDLE, depthwise()),
    ("bottleneck 2", MIDDLE, bottleneck(2)),
    ("bottleneck 4", MIDDLE, bottleneck(4)),
    ("spatial 2", MIDDLE, spatial_bottleneck(2)),
    ("seq1 1,2,4,8", MIDDLE, seq1((1, 2, 4, 8))),
    ("seq2 16, 2 groups", MIDDLE, seq2(MIDDLE, 16, 2)),
    ("seq3 2", MIDDLE, seq3(2)),
    ("8 groups", SMALL, grouping(8)),
    ("depthwise", SMALL, depthwise()),
    ("spatial 2", SMALL, spatial_bottleneck(2)),
    ("seq1 2,4", SMALL, seq1((2, 4))),
    ("seq2 8, 2 groups", SMALL, seq2(SMALL, 8, 2)),
    ("seq3 2", SMALL, seq3(2)),
    ("8 groups", WIDE, grouping(8)),
    ("bottleneck 2", WIDE, bottleneck(2)),
    ("spatial 2", WIDE, spatial_bottleneck(2)),
)
QUICK = frozenset(
    {
        "64->64 3x3 32x32",
        "128->128 3x3 16x16",
        "256->256 3x3 8x8",
        "512->512 3x3 4x4",
        "128->128 3x3 32x32 g2",
        "192->48 3x3 16x16",
        "144->144 3x3 56x56 depthwise",
        "384->64 1x1 14x14",
        "128->128 3x3 16x16: 8 groups",
        "128->128 3x3 16x16: bottleneck 2",
        "128->128 3x3 16x16: seq1 1,2,4,8",
        "256->256 3x3 8x8: 8 groups",
    }
)


def workloads() -> tuple[Workload, ...]:
    """All of them, in the order of the table."""
    found = {}
    for family in (RESNET_CIFAR, RESNET_IMAGENET, RESNEXT, DENSENET, MOBILENET):
        for shape in family:
            found[name_of(shape)] = LoopNest.fresh(shape)
    for form, shape, genes in FORMS:
        found[f"{name_of(shape)}: {form}"] = replay(shape, genes)
    return tuple(Workload(name, nest, name in QUICK) for name, nest in found.items())


def name_of(shape: ConvShape) -> str:
    """Channels, kernel, size, and whatever is not the usual."""
    (height, width), (kh, kw) = shape.in_size, shape.kernel
    parts = [f"{shape.in_channels}->{shape.out_channels} {kh}x{kw} {height}x{width}"]
    if shape.stride != (1, 1):
        parts.append(f"s{shape.stride[0]}")
    if shape.groups == shape.in_channels > 1:
        parts.append("depthwise")
    elif shape.groups > 1:
        parts.append(f"g{shape.groups}")
    return " ".join(parts)
