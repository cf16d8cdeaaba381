"""The unscheduled kernel of a loop nest, as TIR: every statement is a block of its own.

    main(input, residual, weight_0, ..., bias, output):
        block copy_0:
            block pad_0:   padded_0[n, c, y, ...] = a row of the input with its padding
        block statement_0:                  # writes its box of the output
            block conv_0:  acc_0[n, co, y, x] += padded_0[...] * weight_0[...]
            block write_0: output[the box] = acc_0[...]

`pad` exists when a statement reads padding; it is shared by the statements that read the same,
or belongs to the statement that computes it at a loop.  `acc` and `write` exist when the
statement has an accumulator, an epilogue, repeated elements or channels rounded up; otherwise
`conv` writes the output.  The bias is what the accumulation starts from, unless channels are
repeated or rounded up.  Statements live in scopes of their own,
so the schedule of one never touches another, and their boxes are never assembled from temporary
buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T  # noqa: N812 - the name that TVM uses

from backends.lowering.blocks import ZERO, argument, at, axis, block, loops, temporary
from backends.lowering.epilogue import NO_EPILOGUE, Epilogue
from backends.lowering.geometry import StatementForm, kernel_packings, statement_forms
from backends.lowering.layout import stored
from backends.lowering.padding import emit_copy
from genomes.nest import REDUCTION_LOOPS, LoopNest


def nest_function(
    nest: LoopNest, epilogue: Epilogue = NO_EPILOGUE, *, padded_as_read: bool = False
) -> tirx.PrimFunc:
    """The kernel `main(input, residual if any, *weights, bias if any, output)`, unscheduled.

    `input` is (N, C_in, H, W), `output` (N, C_out, H_out, W_out), both in the layouts of the
    nest's shape, `bias` (C_out,); the weights are those of `kernel_packings`, in order.
    """
    shape = nest.shape
    forms = statement_forms(nest, epilogue, padded_as_read=padded_as_read)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        data = argument("input", stored(shape.input_shape, shape.input_lanes))
        result_shape = stored(shape.output_shape, shape.output_lanes)
        residual = argument("residual", result_shape) if epilogue.residual else None
        weights = [
            argument(f"weight_{i}", packing.shape)
            for i, packing in enumerate(kernel_packings(nest))
        ]
        bias = argument("bias", (shape.out_channels,)) if shape.bias else None
        output = argument("output", result_shape)
        copies = _copies_beforehand(forms, shape.padding_mode, data)
        for form in forms:
            source = copies.get(form.source, data)
            weight = weights[form.argument]
            _Emitter(nest, form, source, residual, weight, bias, output).statement()
    return builder.get()


def _copies_beforehand(forms: Sequence[StatementForm], mode: str, data: Any) -> dict[int, Any]:
    """The padded copies that are made before all statements, by the index of their owner."""
    copies = {}
    for form in forms:
        if form.owns_copy:
            copies[form.index] = padded = temporary(f"padded_{form.index}", form.padded_shape)
            with T.sblock(f"copy_{form.index}"):
                emit_copy(form, mode, data, padded)
    return copies


@dataclass(frozen=True)
class _Emitter:
    """Writes the blocks of one statement, which reads the input or a copy made beforehand."""

    nest: LoopNest
    form: StatementForm
    data: Any
    residual: Any
    weight: Any
    bias: Any
    output: Any

    def statement(self) -> None:
        with T.sblock(f"statement_{self.form.index}"):
            source = self.data
            if self.form.pads_at_loop:
                source = temporary(f"padded_{self.form.index}", self.form.padded_shape)
                emit_copy(self.form, self.nest.shape.padding_mode, self.data, source)
            if not self.form.accumulates:
                self._conv(source, self.output)
                return
            accumulator = temporary(f"acc_{self.form.index}", self.form.accumulator_shape)
            self._conv(source, accumulator)
            self._write(accumulator)

    def _conv(self, source: Any, result: Any) -> None:
        form, s = self.form, self.form.statement
        extents = {loop.name: loop.extent for loop in form.fresh_loops}
        with loops(extents) as i, T.sblock(f"conv_{form.index}"):
            n, co = (axis(name, extents[name], i[name]) for name in ("n", "co"))
            if form.flat:
                both = axis("at", s.rows * s.columns, i["ho"] * s.columns + i["wo"])
                y, x, place = both // s.columns, both % s.columns, [n, co, both]
            else:
                y, x = (axis(name, extents[name], i[name]) for name in ("ho", "wo"))
                place = [n, co, y, x]
            if not form.accumulates:
                box = (s.co.start + co, s.ho.start + y, s.wo.start + x)
                place = list(at(form.output_lanes, n, *box))
            ci, kh, kw = (
                axis(name, extents[name], i[name], reduction=True) for name in REDUCTION_LOOPS
            )
            with T.init():
                T.buffer_store(result, self._start(co), place)
            read = source[self._read(n, self._channel(co, ci), y, x, (kh, kw))]
            lanes = form.packing.lanes
            packed = (co // lanes, ci, kh, kw, co % lanes) if lanes else (co, ci, kh, kw)
            T.buffer_store(result, result[tuple(place)] + read * self.weight[packed], place)

    def _read(self, n: Any, channel: Any, y: Any, x: Any, taps: tuple[Any, Any]) -> Any:
        """Where tap (kh, kw) of the output element (y, x) is stored, in the input or its copy."""
        form = self.form
        (rows, columns), (kh, kw) = form.spans, taps
        row, tap = y * rows.step + kh * rows.dilation, kw * columns.dilation
        if not form.pads:
            column = x * columns.step + tap + columns.first
            return at(form.input_lanes, n, channel, row + rows.first, column)
        if form.phases > 1:
            row = y if form.row_step > 1 else row
            return (n, channel, row, tap % columns.step, x + tap // columns.step)
        column = x * columns.step + tap
        if form.copy_lanes:
            return at(form.copy_lanes, n, channel, row, column)
        return (n, channel, row, 0, column)

    def _start(self, co: Any) -> Any:
        """What the accumulation starts from: the bias, unless it is added in the end."""
        if self.bias is None or self._adds_bias_last:
            return ZERO
        return self.bias[self.form.statement.co.start + co]

    @property
    def _adds_bias_last(self) -> bool:
        """Whether a channel that is computed is not one channel of the output."""
        return self.form.statement.repeats_channels > 1 or self.form.rounds

    def _channel(self, co: Any, ci: Any) -> Any:
        """The channel of the input, or of the padded input, that output channel `co` reads."""
        s = self.form.statement
        a = s.inputs
        group = co // self.form.group_channels if a.groups > 1 else 0
        if self.form.pads:
            return group * a.count + ci
        return a.start + group * a.group_stride + ci * a.stride

    def _write(self, accumulator: Any) -> None:
        """Copy what is kept of the accumulator to its place, as often as it is repeated."""
        s = self.form.statement
        extents = {"n": self.nest.shape.batch}
        if s.repeats_channels > 1:
            extents["repeat"] = s.repeats_channels
        extents["co"] = self.form.channels
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
        with block(f"write_{self.form.index}", extents) as v:
            group, of_group = self._of_group(v["co"])
            kept = group * self.form.kept_channels + of_group
            channel = s.co.start + v.get("repeat", 0) * s.kept_co + kept
            if self.form.flat:
                y, x = v["at"] // s.columns, v["at"] % s.columns
                value = accumulator[v["n"], v["co"], v["at"]]
            else:
                y, x = v["ho"], v["wo"]
                value = accumulator[v["n"], v["co"], y, x]
            if self.bias is not None and self._adds_bias_last:
                value = value + self.bias[channel]
            y = s.ho.start + y * s.repeat_ho + v.get("repeat_ho", 0)
            x = s.wo.start + x * s.repeat_wo + v.get("repeat_wo", 0)
            place = at(self.form.output_lanes, v["n"], channel, y, x)
            residual = None if self.residual is None else self.residual[place]
            result = self.form.epilogue.apply(value, residual)
            if not self.form.rounds:
                T.buffer_store(self.output, result, list(place))
                return
            with T.If(of_group < self.form.kept_channels), T.Then():
                T.buffer_store(self.output, result, list(place))

    def _of_group(self, co: Any) -> tuple[Any, Any]:
        """The group of a channel that is computed, and its number in the group."""
        if self.form.statement.groups == 1 or not self.form.rounds:
            return 0, co
        return co // self.form.group_channels, co % self.form.group_channels
