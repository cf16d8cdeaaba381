"""The torch lowering: a loop nest as a `torch.nn.Module`.

`SiteConv2d` computes exactly what the nest's statements say; the TVM lowering computes the
same function with the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from genomes.nest import ConvShape, InputAccess, LoopNest, Range, Statement


def weight_indices(shape: ConvShape, s: Statement) -> tuple[np.ndarray, np.ndarray]:
    """Where a statement's weight stands in the original one.

    Returns:
        Row numbers of shape (kept_co, 1) and column numbers of shape (kept_co, count) into
        the original weight (C_out, C_in / groups, K_h, K_w).
    """
    rows = np.arange(s.co.start, s.co.start + s.kept_co)
    a = s.inputs
    group = np.arange(s.kept_co) // (s.kept_co // a.groups)
    channels = a.start + group[:, None] * a.group_stride + np.arange(a.count)[None, :] * a.stride
    first = rows // (shape.out_channels // shape.groups) * (shape.in_channels // shape.groups)
    return rows[:, None], channels - first[:, None]


class SiteConv2d(nn.Module):
    """A transformed convolution: (N, C_in, H, W) -> (N, C_out, H_out, W_out).

    `in_channels`, `kernel_size`, `stride` and so on are those of the original convolution, for
    networks that read them; what is computed follows the nest alone.

    Attributes:
        nest: What is computed; schedules play no part here.
        weights: One parameter (kept_co, channels per group, taps_h, taps_w) for each distinct
            weight of the nest.
        bias: (C_out,) or None.
    """

    bias: nn.Parameter | None

    def __init__(
        self, nest: LoopNest, weights: Sequence[Tensor] | None = None, bias: Tensor | None = None
    ) -> None:
        """Make the module.

        Args:
            nest: What is computed.
            weights: The distinct weights, in weight order; drawn anew where they are missing.
            bias: (C_out,), for a nest with a bias; zeros where it is missing.
        """
        super().__init__()
        self.nest = nest.unscheduled()
        if weights is None:
            weights = [torch.empty(s.weight_shape) for s in nest.weights]
            for weight in weights:
                nn.init.kaiming_normal_(weight, mode="fan_in", nonlinearity="relu")
        self.weights = nn.ParameterList(nn.Parameter(weight) for weight in weights)
        if nest.shape.bias and bias is None:
            bias = torch.zeros(nest.shape.out_channels)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias))
        top, bottom, left, right = nest.shape.padding
        # Only `same` pads one side of a convolution more than the other.
        self._padding: str | tuple[int, ...] = (
            (top, left) if (top, left) == (bottom, right) else "same"
        )

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, nest: LoopNest) -> SiteConv2d:
        """The transformed `conv`, with the weights of the iterations that are kept.

        A nest that only splits domains computes the same function as `conv`. No random number
        is drawn.
        """
        weights = []
        for s in nest.weights:
            rows, columns = (torch.from_numpy(i) for i in weight_indices(nest.shape, s))
            taps = conv.weight.detach()[:, :, s.kh.start : s.kh.stop, s.kw.start : s.kw.stop]
            weights.append(taps[rows, columns])
        module = cls(nest, weights, None if conv.bias is None else conv.bias.detach().clone())
        module._padding = conv.padding
        module.train(conv.training)
        for parameter in module.parameters():
            parameter.requires_grad_(conv.weight.requires_grad)
        return module

    @property
    def in_channels(self) -> int:
        return self.nest.shape.in_channels

    @property
    def out_channels(self) -> int:
        return self.nest.shape.out_channels

    @property
    def kernel_size(self) -> tuple[int, int]:
        """(K_h, K_w)."""
        return self.nest.shape.kernel

    @property
    def stride(self) -> tuple[int, int]:
        """(s_h, s_w)."""
        return self.nest.shape.stride

    @property
    def padding(self) -> str | tuple[int, ...]:
        """(rows, columns) on each side, or `same` / `valid` where the original was made so."""
        return self._padding

    @property
    def dilation(self) -> tuple[int, int]:
        """(d_h, d_w)."""
        return self.nest.shape.dilation

    @property
    def groups(self) -> int:
        return self.nest.shape.groups

    @property
    def padding_mode(self) -> str:
        return self.nest.shape.padding_mode

    def forward(self, x: Tensor) -> Tensor:
        """Convolve; `x` may have any batch size, the other extents are the nest's."""
        shape = self.nest.shape
        if shape.padding_mode != "zeros":
            top, bottom, left, right = shape.padding
            x = functional.pad(x, (left, right, top, bottom), mode=shape.padding_mode)
        boxes = [(s, self._statement(x, s)) for s in self.nest.statements]
        y = _assemble(boxes)
        return y if self.bias is None else y + self.bias.view(1, -1, 1, 1)

    def _statement(self, x: Tensor, s: Statement) -> Tensor:
        """The box of `s`: (N, co, ho, wo) extents of the box."""
        shape = self.nest.shape
        y = _select_channels(x, s.inputs)
        padded = shape.padding_mode != "zeros"
        spans = [
            _input_span(
                s, shape, axis, 0 if padded else shape.padding[2 * axis], y.shape[2 + axis]
            )
            for axis in (0, 1)
        ]
        (rows, top, bottom), (columns, left, right) = spans
        if rows.extent != y.shape[2]:
            y = y[:, :, rows.start : rows.stop]
        if columns.extent != y.shape[3]:
            y = y[:, :, :, columns.start : columns.stop]
        padding: tuple[int, int] = (0, 0)
        if (top, left) == (bottom, right):
            padding = (top, left)
        else:
            y = functional.pad(y, (left, right, top, bottom))
        stride = (shape.stride[0] * s.repeat_ho, shape.stride[1] * s.repeat_wo)
        weight = self.weights[s.weight]
        y = functional.conv2d(y, weight, None, stride, padding, shape.dilation, s.groups)
        return _repeat(y, s)

    def extra_repr(self) -> str:
        """The shapes and the number of statements."""
        return f"{self.nest.shape}, statements={len(self.nest.statements)}"


def _input_span(
    s: Statement, shape: ConvShape, axis: int, before: int, size: int
) -> tuple[Range, int, int]:
    """Input rows (axis 0) or columns (axis 1) that a statement reads, and the zeros around.

    Returns:
        (range of existing input, zeros before it, zeros after it).
    """
    box, taps, repeat = ((s.ho, s.kh, s.repeat_ho), (s.wo, s.kw, s.repeat_wo))[axis]
    computed = box.extent // repeat
    dilation, stride = shape.dilation[axis], shape.stride[axis]
    first = box.start * stride + taps.start * dilation - before
    last = first + (computed - 1) * repeat * stride + (taps.extent - 1) * dilation
    start, stop = min(max(first, 0), size), max(min(last + 1, size), 0)
    if stop <= start:
        # The whole span lies in the padding; one row of the input, shifted out of reach by the
        # zeros around it, keeps the shapes valid.
        return _outside_span(first, last, size)
    return Range(start, stop - start), start - first, last + 1 - stop


def _outside_span(first: int, last: int, size: int) -> tuple[Range, int, int]:
    start = 0 if last < 0 else size
    return Range(start, 0), (last - first + 1), 0


def _select_channels(x: Tensor, a: InputAccess) -> Tensor:
    """The input channels of all groups, group by group: (N, groups * count, H, W)."""
    total = a.groups * a.count
    if a.contiguous:
        return x if total == x.shape[1] else x[:, a.start : a.start + total]
    if a.groups == 1:
        return x[:, a.start : a.channel(0, a.count - 1) + 1 : a.stride]
    if a.stride == a.groups * a.group_stride:
        span = x[:, a.start : a.start + total * a.group_stride : a.group_stride]
        return span.unflatten(1, (a.count, a.groups)).transpose(1, 2).flatten(1, 2)
    channels = [a.channel(g, j) for g in range(a.groups) for j in range(a.count)]
    return x[:, torch.tensor(channels, device=x.device)]


def _repeat(y: Tensor, s: Statement) -> Tensor:
    """Fill the box: nearest rows and columns, channels in turn."""
    if s.repeat_ho > 1:
        y = y.repeat_interleave(s.repeat_ho, dim=2)
    if s.repeat_wo > 1:
        y = y.repeat_interleave(s.repeat_wo, dim=3)
    if s.repeats_channels > 1:
        y = torch.cat([y] * s.repeats_channels, dim=1)
    return y


def _assemble(boxes: Sequence[tuple[Statement, Tensor]]) -> Tensor:
    """Concatenate boxes that partition the output; cuts are found one loop at a time."""
    if len(boxes) == 1:
        return boxes[0][1]
    for dim, loop in ((1, "co"), (2, "ho"), (3, "wo")):
        segments = _segments(boxes, loop)
        if len(segments) > 1:
            return torch.cat([_assemble(segment) for segment in segments], dim=dim)
    raise AssertionError("boxes made by splits always have a cut")


def _segments(
    boxes: Sequence[tuple[Statement, Tensor]], loop: str
) -> list[list[tuple[Statement, Tensor]]]:
    """The boxes in groups between which no box reaches, along one output loop."""
    ordered = sorted(boxes, key=lambda box: box[0].output_range(loop).start)
    segments: list[list[tuple[Statement, Tensor]]] = []
    reach = -1
    for box in ordered:
        extent = box[0].output_range(loop)
        if not segments or extent.start >= reach:
            segments.append([])
        segments[-1].append(box)
        reach = max(reach, extent.stop)
    return segments
