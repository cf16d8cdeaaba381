"""Loop nests: the iteration domain of one convolution, as statements over boxes of it.

A convolution of shape (N, C_in, H, W) -> (N, C_out, H_out, W_out) is the nest

    for n, co, ho, wo, ci, kh, kw:
        O[n, co, ho, wo] += W[co, ci, kh, kw] * I[n, ci, ho*s + kh*d - p, wo*s + kw*d - p]

A `Statement` computes one box of the output with one (grouped) convolution; the boxes of a
nest's statements partition the output.  Everything here is immutable plain data: no torch,
no TVM.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from genomes.gene import Gene
from genomes.schedule import Loop, Schedule

OUTPUT_LOOPS = ("co", "ho", "wo")
SPATIAL_LOOPS = ("n", "co", "ho", "wo")
REDUCTION_LOOPS = ("ci", "kh", "kw")
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


@dataclass(frozen=True, slots=True)
class Range:
    """The half-open interval [start, start + extent)."""

    start: int
    extent: int

    @property
    def stop(self) -> int:
        return self.start + self.extent


@dataclass(frozen=True)
class ConvShape:
    """The shapes of one 2-d convolution as it is called in the network.

    Attributes:
        batch: N.
        in_channels: C_in.
        out_channels: C_out.
        in_size: (H, W) of the input, in pixels.
        kernel: (K_h, K_w).
        stride: (s_h, s_w).
        padding: (top, bottom, left, right), in pixels; may be asymmetric.
        dilation: (d_h, d_w).
        groups: Number of groups; divides both channel counts.
        padding_mode: One of `PADDING_MODES`, as in `torch.nn.Conv2d`.
        bias: Whether a bias of shape (C_out,) is added.
        input_lanes: Channels that are stored innermost in the input, (N, C_in / x, H, W, x):
            the layout NCHW[x]c; 0 for NCHW. Divides C_in. A convolution takes the layouts of
            its neighbours in the network; what it computes does not depend on them.
        output_lanes: The same for the output.
    """

    batch: int
    in_channels: int
    out_channels: int
    in_size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    padding_mode: str = "zeros"
    bias: bool = False
    input_lanes: int = 0
    output_lanes: int = 0

    @property
    def out_size(self) -> tuple[int, int]:
        """(H_out, W_out)."""
        top, bottom, left, right = self.padding
        height, width = self.in_size
        span_h = self.dilation[0] * (self.kernel[0] - 1) + 1
        span_w = self.dilation[1] * (self.kernel[1] - 1) + 1
        return (
            (height + top + bottom - span_h) // self.stride[0] + 1,
            (width + left + right - span_w) // self.stride[1] + 1,
        )

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(N, C_in, H, W)."""
        return (self.batch, self.in_channels, *self.in_size)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """(N, C_out, H_out, W_out)."""
        return (self.batch, self.out_channels, *self.out_size)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """(C_out, C_in / groups, K_h, K_w)."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one call."""
        _, per_group, kh, kw = self.weight_shape
        n, co, ho, wo = self.output_shape
        return n * co * ho * wo * per_group * kh * kw

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back; NCHW goes without saying."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {k: v for k, v in fields.items() if v or not k.endswith("_lanes")}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ConvShape:
        """Inverse of `to_json`."""
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in data.items()
        }
        return cls(**fields)

    def __str__(self) -> str:
        n, ci, h, w = self.input_shape
        text = f"{n}x{ci}x{h}x{w} -> {self.out_channels}, {self.kernel[0]}x{self.kernel[1]}"
        if self.stride != (1, 1):
            text += f", stride {self.stride[0]}"
        if self.dilation != (1, 1):
            text += f", dilation {self.dilation[0]}"
        return text + (f", {self.groups} groups" if self.groups > 1 else "")


@dataclass(frozen=True, slots=True)
class InputAccess:
    """Which input channels a statement reads: channel(g, j) = start + g*group_stride + j*stride.

    Attributes:
        start: First channel.
        groups: Number of groups of the convolution.
        group_stride: Distance between the first channels of neighbouring groups.
        count: Channels read by each group.
        stride: Distance between neighbouring channels of one group.
    """

    start: int
    groups: int
    group_stride: int
    count: int
    stride: int = 1

    def channel(self, group: int, index: int) -> int:
        """The input channel that is number `index` of `group`."""
        return self.start + group * self.group_stride + index * self.stride

    @property
    def contiguous(self) -> bool:
        """Whether the channels of all groups, in order, are one interval."""
        return self.stride == 1 and (self.groups == 1 or self.group_stride == self.count)

    @property
    def dense(self) -> bool:
        """Whether splitting every group again gives evenly spaced groups."""
        return self.groups == 1 or self.group_stride == self.count * self.stride

    def normalised(self) -> InputAccess:
        """One form for equal accesses: strides that are never used get fixed values."""
        stride = self.stride if self.count > 1 else 1
        return replace(
            self, group_stride=self.group_stride if self.groups > 1 else self.count, stride=stride
        )


@dataclass(frozen=True)
class Statement:
    """One box of the output, computed by one (grouped) convolution and repeated into place.

    Attributes:
        co, ho, wo: The output box, in elements of the site's output.
        kept_co: Output channels computed; output channel c of the box is the computed
            channel c % kept_co.
        repeat_ho, repeat_wo: Every how many-th row / column is computed; the others repeat
            the nearest computed one above / to the left.
        inputs: Input channels read.
        kh, kw: Kernel taps kept.
        weight: Statements with the same number share one weight tensor.
        schedule: Loop order and mapping; None until `scheduled` is called.
    """

    co: Range
    ho: Range
    wo: Range
    kept_co: int
    repeat_ho: int
    repeat_wo: int
    inputs: InputAccess
    kh: Range
    kw: Range
    weight: int
    _schedule: Schedule | None = field(default=None)

    @property
    def groups(self) -> int:
        return self.inputs.groups

    @property
    def rows(self) -> int:
        """Output rows computed."""
        return self.ho.extent // self.repeat_ho

    @property
    def columns(self) -> int:
        """Output columns computed."""
        return self.wo.extent // self.repeat_wo

    @property
    def repeats_channels(self) -> int:
        return self.co.extent // self.kept_co

    @property
    def repeats(self) -> bool:
        """Whether computed elements are repeated to fill the box."""
        return self.repeats_channels > 1 or self.repeat_ho > 1 or self.repeat_wo > 1

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """(kept_co, channels per group, taps_h, taps_w)."""
        return (self.kept_co, self.inputs.count, self.kh.extent, self.kw.extent)

    def output_range(self, loop: str) -> Range:
        """The box's range along `co`, `ho` or `wo`."""
        return {"co": self.co, "ho": self.ho, "wo": self.wo}[loop]

    def scheduled(self, batch: int) -> Schedule:
        """The schedule so far: the fresh loops n, co, ho, wo, ci, kh, kw if there is none."""
        if self._schedule is not None:
            return self._schedule
        extents = (batch, self.kept_co, self.rows, self.columns)
        reductions = (self.inputs.count, self.kh.extent, self.kw.extent)
        spatial = zip(SPATIAL_LOOPS, extents, strict=True)
        reducing = zip(REDUCTION_LOOPS, reductions, strict=True)
        loops = [Loop.fresh(name, extent, reduction=False) for name, extent in spatial]
        loops += [Loop.fresh(name, extent, reduction=True) for name, extent in reducing]
        return Schedule(tuple(loops))

    @property
    def has_schedule(self) -> bool:
        return self._schedule is not None

    @property
    def schedule_genes(self) -> tuple[Gene, ...]:
        return self._schedule.genes if self._schedule is not None else ()

    def cut(self, loop: str, start: int, size: int) -> Statement:
        """This statement restricted to [start, start + size) of `co`, `ho` or `wo`."""
        box = Range(start, size)
        if loop == "co":
            return replace(self, co=box)
        return replace(self, ho=box) if loop == "ho" else replace(self, wo=box)

    def with_schedule(self, schedule: Schedule | None) -> Statement:
        return replace(self, _schedule=schedule)

    def structure(self) -> tuple[Any, ...]:
        """What is computed, without how: plain nested tuples."""
        a = self.inputs
        return (
            (self.co.start, self.co.extent, self.kept_co),
            (self.ho.start, self.ho.extent, self.repeat_ho),
            (self.wo.start, self.wo.extent, self.repeat_wo),
            (a.start, a.groups, a.group_stride, a.count, a.stride),
            (self.kh.start, self.kh.extent, self.kw.start, self.kw.extent),
            self.weight,
        )

    @classmethod
    def from_structure(cls, data: Any) -> Statement:
        """The unscheduled statement with a `structure`, which may come from JSON."""
        (co, co_size, kept), (ho, ho_size, by_ho), (wo, wo_size, by_wo), inputs, taps, weight = (
            data
        )
        return cls(
            co=Range(co, co_size),
            ho=Range(ho, ho_size),
            wo=Range(wo, wo_size),
            kept_co=kept,
            repeat_ho=by_ho,
            repeat_wo=by_wo,
            inputs=InputAccess(*inputs),
            kh=Range(*taps[:2]),
            kw=Range(*taps[2:]),
            weight=weight,
        )


@dataclass(frozen=True)
class LoopNest:
    """A site's convolution as statements whose boxes partition the output."""

    shape: ConvShape
    statements: tuple[Statement, ...]

    @classmethod
    def fresh(cls, shape: ConvShape) -> LoopNest:
        """The untransformed convolution: one statement over the whole domain."""
        per_group = shape.in_channels // shape.groups
        statement = Statement(
            co=Range(0, shape.out_channels),
            ho=Range(0, shape.out_size[0]),
            wo=Range(0, shape.out_size[1]),
            kept_co=shape.out_channels,
            repeat_ho=1,
            repeat_wo=1,
            inputs=InputAccess(0, shape.groups, per_group, per_group),
            kh=Range(0, shape.kernel[0]),
            kw=Range(0, shape.kernel[1]),
            weight=0,
        )
        return cls(shape, (statement,))

    def replaced(self, index: int, *statements: Statement) -> LoopNest:
        """This nest with statement `index` replaced, weights numbered by first appearance."""
        new = (*self.statements[:index], *statements, *self.statements[index + 1 :])
        return LoopNest(self.shape, new).renumbered()

    def renumbered(self) -> LoopNest:
        """This nest with its weights numbered by first appearance."""
        numbers: dict[int, int] = {}
        for s in self.statements:
            numbers.setdefault(s.weight, len(numbers))
        if all(old == new for old, new in numbers.items()):
            return self
        tied = (replace(s, weight=numbers[s.weight]) for s in self.statements)
        return LoopNest(self.shape, tuple(tied))

    def unscheduled(self) -> LoopNest:
        """The same computation with no schedule."""
        return LoopNest(self.shape, tuple(s.with_schedule(None) for s in self.statements))

    def sharing(self, index: int) -> tuple[int, ...]:
        """Indices of the statements that share the weight of statement `index`."""
        weight = self.statements[index].weight
        return tuple(i for i, s in enumerate(self.statements) if s.weight == weight)

    @cached_property
    def weights(self) -> tuple[Statement, ...]:
        """One statement for every distinct weight tensor, in weight order."""
        first: dict[int, Statement] = {}
        for s in self.statements:
            first.setdefault(s.weight, s)
        return tuple(first[w] for w in sorted(first))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one call."""
        n = self.shape.batch
        total = 0
        for s in self.statements:
            co, ci, kh, kw = s.weight_shape
            total += n * s.rows * s.columns * co * ci * kh * kw
        return total

    @property
    def parameters(self) -> int:
        """Weights and biases, in elements."""
        total = self.shape.out_channels if self.shape.bias else 0
        for s in self.weights:
            co, ci, kh, kw = s.weight_shape
            total += co * ci * kh * kw
        return total

    @cached_property
    def structure_key(self) -> str:
        """Content hash of what is computed (shape and domains), whatever the schedule."""
        content = [self.shape.to_json(), [s.structure() for s in self.statements]]
        return _digest(content)

    @cached_property
    def key(self) -> str:
        """Content hash of what is computed and how."""
        schedules = [[g.to_json() for g in s.schedule_genes] for s in self.statements]
        return _digest([self.structure_key, schedules])


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]
