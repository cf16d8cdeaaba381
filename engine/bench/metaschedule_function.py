"""Loop nests as TVM's frontends would write them: what MetaSchedule gets to schedule."""

from __future__ import annotations

from typing import Any

from backends.lowering.geometry import Span, read_spans
from genomes.nest import LoopNest, Statement


def plain_function(nest: LoopNest) -> Any:
    """The PrimFunc `main(input, *weights, bias if any, output)` of a nest, unscheduled.

    Every statement pads the channels that it reads and convolves them in the form of
    `topi.nn.conv2d_nchw`, `group_conv2d_nchw` or `depthwise_conv2d_nchw`; what puts several
    statements together, repeats elements or adds the bias is one elementwise stage behind them.
    The weights, as in `LoopNest.weights`, are layout-free: a schedule may want another layout.

    Raises:
        ValueError: The padding is not of zeros.
    """
    from tvm import te, tirx

    shape = nest.shape
    if shape.padding_mode != "zeros":
        raise ValueError(f"no plain function for padding mode {shape.padding_mode!r}")
    data = te.placeholder(shape.input_shape, name="input")
    weights = [te.placeholder(s.weight_shape, name=f"weight_{s.weight}") for s in nest.weights]
    bias = [te.placeholder((shape.out_channels,), name="bias")] if shape.bias else []
    parts = [
        (s, _convolution(s, read_spans(nest, s), data, weights[s.weight])) for s in nest.statements
    ]

    def element(n: Any, c: Any, y: Any, x: Any) -> Any:
        value = None
        for s, part in reversed(parts):
            row, column = (y - s.ho.start) // s.repeat_ho, (x - s.wo.start) // s.repeat_wo
            own = part[n, (c - s.co.start) % s.kept_co, row, column]
            if value is None:
                value = own
                continue
            boxes = zip((c, y, x), (s.co, s.ho, s.wo), shape.output_shape[1:], strict=True)
            inside = [
                tirx.all(at >= box.start, at < box.stop)
                for at, box, extent in boxes
                if box.extent < extent
            ]
            value = tirx.if_then_else(tirx.all(*inside), own, value)
        return value + bias[0][c] if bias else value

    (first, output), *others = parts
    if others or bias or first.repeats:
        output = te.compute(shape.output_shape, element, name="output")
    function = te.create_prim_func([data, *weights, *bias, output])
    free = list(range(1, 1 + len(weights)))
    return function.with_attr({"global_symbol": "main", "layout_free_buffers": free})


def _convolution(s: Statement, spans: tuple[Span, Span], data: Any, weight: Any) -> Any:
    """(N, kept_co, rows, columns): what a statement computes, before it is repeated."""
    from tvm import te

    a, (rows, columns) = s.inputs, spans
    batch = data.shape[0]
    padded = not (rows.inside and columns.inside)
    source = _padded(s, spans, data) if padded else data
    taps_h = te.reduce_axis((0, s.kh.extent), name="kh")
    taps_w = te.reduce_axis((0, s.kw.extent), name="kw")
    # A depthwise convolution has no loop over input channels.
    channels = [te.reduce_axis((0, a.count), name="ci")] if a.count > 1 else []

    def element(n: Any, co: Any, y: Any, x: Any) -> Any:
        group = co // (s.kept_co // a.groups) if a.groups > 1 else 0
        ci = channels[0] if channels else 0
        row = y * rows.step + taps_h * rows.dilation
        column = x * columns.step + taps_w * columns.dilation
        if padded:
            read = source[n, group * a.count + ci, row, column]
        else:
            channel = a.start + group * a.group_stride + ci * a.stride
            read = source[n, channel, row + rows.first, column + columns.first]
        return te.sum(read * weight[co, ci, taps_h, taps_w], axis=[*channels, taps_h, taps_w])

    return te.compute((batch, s.kept_co, s.rows, s.columns), element, name="conv")


def _padded(s: Statement, spans: tuple[Span, Span], data: Any) -> Any:
    """(N, channels read, rows, columns): the input with its padding."""
    from tvm import te, tirx

    a = s.inputs

    def element(n: Any, c: Any, y: Any, x: Any) -> Any:
        group, channel = (c // a.count, c % a.count) if a.groups > 1 else (0, c)
        place = [n, a.start + c if a.contiguous else a.channel(group, channel)]
        inside = []
        for at, span in zip((y, x), spans, strict=True):
            start, stop = span.interior
            inside += [at >= start] if start else []
            inside += [at < stop] if stop < span.span else []
            place.append(at + span.first)
        return tirx.if_then_else(tirx.all(*inside), data[tuple(place)], tirx.const(0, data.dtype))

    shape = (data.shape[0], a.groups * a.count, *(span.span for span in spans))
    return te.compute(shape, element, name="padded")
