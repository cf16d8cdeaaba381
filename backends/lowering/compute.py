"""The unscheduled kernel of a loop nest, as TIR: every statement is a block of its own.

    main(input, weight_0, ..., bias, output):
        block statement_0:                  # writes its box of the output
            block pad_0:   padded_0[n, c, y, :] = a row of the input with its padding
            block conv_0:  acc_0[n, co, y, x] += padded_0[...] * weight_0[...]
            block write_0: output[the box] = acc_0[...]

`pad` exists when the statement reads padding; `acc` and `write` exist when the statement has an
accumulator or repeats elements, otherwise `conv` writes the output.  The bias is what the
accumulation starts from.  Statements live in scopes of their own, so the schedule of one never
touches another, and their boxes are never assembled from temporary buffers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T  # noqa: N812 - the name that TVM uses

from backends.lowering.epilogue import NO_EPILOGUE, Epilogue
from backends.lowering.geometry import (
    Span,
    StatementForm,
    kernel_packings,
    statement_forms,
)
from genomes.nest import REDUCTION_LOOPS, LoopNest

DTYPE = "float32"
ZERO = tirx.FloatImm(DTYPE, 0.0)


def nest_function(nest: LoopNest, epilogue: Epilogue = NO_EPILOGUE) -> tirx.PrimFunc:
    """The kernel `main(input, residual if any, *weights, bias if any, output)`, unscheduled.

    `input` is (N, C_in, H, W), `output` (N, C_out, H_out, W_out), `bias` (C_out,); the weights
    are those of `kernel_packings`, in order.
    """
    shape = nest.shape
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        data = _argument("input", shape.input_shape)
        residual = _argument("residual", shape.output_shape) if epilogue.residual else None
        weights = [
            _argument(f"weight_{i}", packing.shape)
            for i, packing in enumerate(kernel_packings(nest))
        ]
        bias = _argument("bias", (shape.out_channels,)) if shape.bias else None
        output = _argument("output", shape.output_shape)
        for form in statement_forms(nest, epilogue):
            weight = weights[form.argument]
            _Emitter(nest, form, data, residual, weight, bias, output).statement()
    return builder.get()


def _argument(name: str, shape: Sequence[int]) -> Any:
    return T.arg(name, T.buffer(tuple(shape), DTYPE, layout=None))


def _buffer(name: str, shape: Sequence[int]) -> Any:
    buffer = T.sblock_alloc_buffer(tuple(shape), DTYPE, layout=None)
    IRBuilder.name(name, buffer)
    return buffer


@contextmanager
def _loops(extents: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Nested loops; yields their variables by name."""
    with T.grid(*extents.values()) as loops:
        IRBuilder.name_many(list(extents), list(loops))
        yield dict(zip(extents, loops, strict=True))


def _axis(name: str, extent: int, binding: Any, *, reduction: bool = False) -> Any:
    """An axis of the block that is open."""
    axis = (T.axis.reduce if reduction else T.axis.spatial)(extent, binding)
    IRBuilder.name(f"v_{name}", axis)
    return axis


@contextmanager
def _block(name: str, extents: dict[str, int]) -> Iterator[dict[str, Any]]:
    """A block inside one loop for each of its axes; yields the axes by name."""
    with _loops(extents) as loops, T.sblock(name):
        yield {axis: _axis(axis, extents[axis], loop) for axis, loop in loops.items()}


@dataclass(frozen=True)
class _Emitter:
    """Writes the blocks of one statement."""

    nest: LoopNest
    form: StatementForm
    data: Any
    residual: Any
    weight: Any
    bias: Any
    output: Any

    def statement(self) -> None:
        with T.sblock(f"statement_{self.form.index}"):
            source = self._pad() if self.form.pads else self.data
            if not self.form.accumulates:
                self._conv(source, self.output)
                return
            accumulator = _buffer(f"acc_{self.form.index}", self.form.accumulator_shape)
            self._conv(source, accumulator)
            self._write(accumulator)

    def _pad(self) -> Any:
        form = self.form
        padded = _buffer(f"padded_{form.index}", form.padded_shape)
        extents = dict(zip(("n", "c", "row", "phase", "column"), form.padded_shape, strict=True))
        if form.schedule.anchor("pad") is None:
            self._pad_rows(padded, {name: extents[name] for name in ("n", "c", "row")})
        else:
            self._pad_elements(padded, extents)
        return padded

    def _source_channel(self, c: Any) -> Any:
        a = self.form.statement.inputs
        if a.contiguous:
            return a.start + c
        return a.start + c // a.count * a.group_stride + c % a.count * a.stride

    def _pad_elements(self, padded: Any, extents: dict[str, int]) -> None:
        """Pad element by element: a stage that can be placed at a loop."""
        mode = self.nest.shape.padding_mode
        rows, columns = self.form.spans
        with _block(f"pad_{self.form.index}", extents) as v:
            column = v["column"] * self.form.phases + v["phase"]
            at = [_source_index(rows, v["row"], mode), _source_index(columns, column, mode)]
            value = self.data[(v["n"], self._source_channel(v["c"]), *at)]
            if mode == "zeros":
                value = tirx.if_then_else(self._is_inside(v["row"], column), value, ZERO)
            elif columns.span % self.form.phases:
                value = tirx.if_then_else(column < columns.span, value, ZERO)
            T.buffer_store(padded, value, list(v.values()))

    def _is_inside(self, row: Any, column: Any) -> Any:
        rows, columns = (span.interior for span in self.form.spans)
        return tirx.all(row >= rows[0], row < rows[1], column >= columns[0], column < columns[1])

    def _pad_rows(self, padded: Any, extents: dict[str, int]) -> None:
        """Pad row by row: the borders of a row are loops of their own, free of conditions."""
        shape = self.nest.shape
        rows, columns = self.form.spans
        with _block(f"pad_{self.form.index}", extents) as v:
            target = (v["n"], v["c"], v["row"])
            source = (v["n"], self._source_channel(v["c"]))
            y = _source_index(rows, v["row"], shape.padding_mode)
            T.reads(self.data[(*source, y, slice(0, columns.size))])
            T.writes(padded[(*target, *(slice(0, size) for size in padded.shape[3:]))])
            if shape.padding_mode != "zeros" or rows.inside:
                self._pad_row(padded, target, (*source, y))
                return
            top, bottom = rows.interior
            with T.If(tirx.all(v["row"] >= top, v["row"] < bottom)):
                with T.Then():
                    self._pad_row(padded, target, (*source, y))
                with (
                    T.Else(),
                    _loops(dict(zip("px", self.form.padded_shape[3:], strict=True))) as at,
                ):
                    T.buffer_store(padded, ZERO, [*target, *at.values()])

    def _pad_row(self, padded: Any, target: tuple[Any, ...], source: tuple[Any, ...]) -> None:
        columns, mode, phases = self.form.spans[1], self.nest.shape.padding_mode, self.form.phases
        left, right = columns.interior
        edges = {"before": (0, left), "inside": (left, right), "after": (right, columns.span)}
        for phase, (segment, edge) in product(range(phases), edges.items()):
            start, stop = (ceil((x - phase) / phases) for x in edge)
            if stop <= start:
                continue
            with T.serial(0, stop - start) as x:
                value: Any = ZERO
                if segment == "inside" or mode != "zeros":
                    column = (start + x) * phases + phase
                    value = self.data[(*source, _segment_index(columns, column, mode, segment))]
                T.buffer_store(padded, value, [*target, phase, start + x])

    def _conv(self, source: Any, result: Any) -> None:
        form, s = self.form, self.form.statement
        extents = {loop.name: loop.extent for loop in form.fresh_loops}
        with _loops(extents) as loops, T.sblock(f"conv_{form.index}"):
            n, co = (_axis(name, extents[name], loops[name]) for name in ("n", "co"))
            if form.flat:
                at = _axis("at", s.rows * s.columns, loops["ho"] * s.columns + loops["wo"])
                y, x, place = at // s.columns, at % s.columns, [n, co, at]
            else:
                y, x = (_axis(name, extents[name], loops[name]) for name in ("ho", "wo"))
                place = [n, co, y, x]
            if not form.accumulates:
                place = [n, s.co.start + co, s.ho.start + y, s.wo.start + x]
            ci, kh, kw = (
                _axis(name, extents[name], loops[name], reduction=True) for name in REDUCTION_LOOPS
            )
            with T.init():
                T.buffer_store(result, self._start(co), place)
            read = source[(n, self._channel(co, ci), *self._taps(y, x, kh, kw))]
            lanes = form.packing.lanes
            packed = (co // lanes, ci, kh, kw, co % lanes) if lanes else (co, ci, kh, kw)
            T.buffer_store(result, result[tuple(place)] + read * self.weight[packed], place)

    def _taps(self, y: Any, x: Any, kh: Any, kw: Any) -> tuple[Any, ...]:
        """Where tap (kh, kw) of the output element (y, x) is read."""
        rows, columns = self.form.spans
        row = y * rows.step + kh * rows.dilation
        tap = kw * columns.dilation
        if not self.form.pads:
            return row + rows.first, x * columns.step + tap + columns.first
        if self.form.phases == 1:
            return row, 0, x * columns.step + tap
        return row, tap % columns.step, x + tap // columns.step

    def _start(self, co: Any) -> Any:
        """What the accumulation starts from: channels that repeat get their bias later."""
        s = self.form.statement
        if self.bias is None or s.repeats_channels > 1:
            return ZERO
        return self.bias[s.co.start + co]

    def _channel(self, co: Any, ci: Any) -> Any:
        """The channel of the input, or of the padded input, that output channel `co` reads."""
        s = self.form.statement
        a = s.inputs
        group = co // (s.kept_co // a.groups) if a.groups > 1 else 0
        if self.form.pads:
            return group * a.count + ci
        return a.start + group * a.group_stride + ci * a.stride

    def _write(self, accumulator: Any) -> None:
        """Copy the accumulator to its place, as often as the statement repeats it."""
        s = self.form.statement
        extents = {"n": self.nest.shape.batch}
        if s.repeats_channels > 1:
            extents["repeat"] = s.repeats_channels
        extents["co"] = s.kept_co
        if self.form.flat:
            extents["at"] = s.rows * s.columns
        else:
            extents["ho"] = s.rows
        if s.repeat_ho > 1:
            extents["repeat_ho"] = s.repeat_ho
        if not self.form.flat:
            extents["wo"] = s.columns
        if s.repeat_wo > 1:
            extents["repeat_wo"] = s.repeat_wo
        with _block(f"write_{self.form.index}", extents) as v:
            channel = s.co.start + v.get("repeat", 0) * s.kept_co + v["co"]
            if self.form.flat:
                y, x = v["at"] // s.columns, v["at"] % s.columns
                value = accumulator[v["n"], v["co"], v["at"]]
            else:
                y, x = v["ho"], v["wo"]
                value = accumulator[v["n"], v["co"], y, x]
            if self.bias is not None and s.repeats_channels > 1:
                value = value + self.bias[channel]
            y = s.ho.start + y * s.repeat_ho + v.get("repeat_ho", 0)
            x = s.wo.start + x * s.repeat_wo + v.get("repeat_wo", 0)
            place = (v["n"], channel, y, x)
            residual = None if self.residual is None else self.residual[place]
            T.buffer_store(self.output, self.form.epilogue.apply(value, residual), list(place))


def _source_index(span: Span, position: Any, mode: str) -> Any:
    """The input row (or column) that row `position` of a span shows; out of range for zeros."""
    start, stop = span.interior
    index = span.first + position
    if mode == "zeros":
        return index
    if start:
        before = _segment_index(span, position, mode, "before")
        index = tirx.if_then_else(position < start, before, index)
    if stop < span.span:
        after = _segment_index(span, position, mode, "after")
        index = tirx.if_then_else(position >= stop, after, index)
    return index


def _segment_index(span: Span, position: Any, mode: str, segment: str) -> Any:
    """`_source_index` for positions of one segment: before, inside or after the input."""
    index = span.first + position
    if segment == "inside":
        return index
    if mode == "reflect":
        return -index if segment == "before" else 2 * (span.size - 1) - index
    if mode == "replicate":
        return 0 if segment == "before" else span.size - 1
    return index + span.size if segment == "before" else index - span.size
