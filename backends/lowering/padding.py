"""The stage that copies the input with its padding, in four padding modes.

The copy holds the channels that are read, group by group, and only the rows and columns that
are read: (N, channels, rows, phases, columns of one phase); of a strided 1x1 convolution whose
columns are dealt out, only the rows that are read and the first phase.
"""

from __future__ import annotations

from itertools import product
from math import ceil
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812 - the name that TVM uses

from backends.lowering.blocks import ZERO, block, loops
from backends.lowering.blocks import at as stored_at
from backends.lowering.geometry import Span, StatementForm

MOST_VECTORIZED = 64
"""Longer rows are left to LLVM, which gathers those whose elements are not side by side."""


def emit_copy(form: StatementForm, mode: str, data: Any, padded: Any) -> None:
    """Emit the block that fills the copy which a statement reads.

    Args:
        form: The statement.
        mode: The padding mode.
        data: The input, (N, C_in, H, W).
        padded: The copy, of shape `form.padded_shape`.
    """
    if form.copy_lanes:
        packed_copy(form, mode, data, padded)
        return
    stage = _Copy(form, mode, data, padded)
    if form.pads_at_loop:
        stage.by_elements()
    else:
        stage.by_rows()


class _Copy:
    def __init__(self, form: StatementForm, mode: str, data: Any, padded: Any) -> None:
        self._form = form
        self._mode = mode
        self._data = data
        self._padded = padded
        names = ("n", "c", "row", "phase", "column")
        self._extents = dict(zip(names, form.padded_shape, strict=True))
        self._name = f"pad_{form.index}"

    def by_elements(self) -> None:
        """Element by element: a stage that TVM can place at a loop."""
        rows, columns = self._form.spans
        with block(self._name, self._extents) as v:
            row = v["row"] * self._form.row_step
            column = v["column"] * self._form.phases + v["phase"]
            at = [_source(rows, row, self._mode), _source(columns, column, self._mode)]
            value = self._element(v["n"], self._channel(v["c"]), *at)
            if self._mode == "zeros":
                inside = [_is_inside(rows, row), _is_inside(columns, column)]
                value = tirx.if_then_else(tirx.all(*inside), value, ZERO)
            elif columns.span % self._form.phases:
                value = tirx.if_then_else(column < columns.span, value, ZERO)
            T.buffer_store(self._padded, value, list(v.values()))

    def by_rows(self) -> None:
        """Row by row: the borders of a row are loops of their own, free of conditions."""
        rows, columns = self._form.spans
        with block(self._name, {name: self._extents[name] for name in ("n", "c", "row")}) as v:
            row = v["row"] * self._form.row_step
            target = (v["n"], v["c"], v["row"])
            source = (v["n"], self._channel(v["c"]), _source(rows, row, self._mode))
            lanes = self._form.input_lanes
            region = stored_at(lanes, *source, slice(0, columns.size))
            parts = {name: self._extents[name] for name in ("phase", "column")}
            T.reads(self._data[region])
            T.writes(self._padded[(*target, *(slice(0, extent) for extent in parts.values()))])
            if self._mode != "zeros" or rows.inside:
                self._row(target, source)
                return
            with T.If(_is_inside(rows, row)):
                with T.Then():
                    self._row(target, source)
                with T.Else(), loops(parts) as at:
                    T.buffer_store(self._padded, ZERO, [*target, *at.values()])

    def _row(self, target: tuple[Any, ...], source: tuple[Any, Any, Any]) -> None:
        columns, phases = self._form.spans[1], self._form.phases
        left, right = columns.interior
        edges = {"before": (0, left), "inside": (left, right), "after": (right, columns.span)}
        for phase, (segment, edge) in product(range(self._form.copied_phases), edges.items()):
            start, stop = (ceil((x - phase) / phases) for x in edge)
            if stop <= start:
                continue
            dealt = phases > 1 and segment == "inside" and not self._form.input_lanes
            short = stop - start <= MOST_VECTORIZED
            with (T.vectorized if dealt and short else T.serial)(0, stop - start) as x:
                value: Any = ZERO
                if segment == "inside" or self._mode != "zeros":
                    column = (start + x) * phases + phase
                    value = self._element(*source, _mirrored(columns, column, self._mode, segment))
                T.buffer_store(self._padded, value, [*target, phase, start + x])

    def _element(self, n: Any, channel: Any, y: Any, x: Any) -> Any:
        return self._data[stored_at(self._form.input_lanes, n, channel, y, x)]

    def _channel(self, c: Any) -> Any:
        """The input channel that channel `c` of the copy holds."""
        a = self._form.statement.inputs
        if a.contiguous:
            return a.start + c
        return a.start + c // a.count * a.group_stride + c % a.count * a.stride


def _is_inside(span: Span, position: Any) -> Any:
    start, stop = span.interior
    return tirx.all(position >= start, position < stop)


def _source(span: Span, position: Any, mode: str) -> Any:
    """The input row (or column) that `position` of a span shows; out of range for zeros."""
    start, stop = span.interior
    index = span.first + position
    if mode == "zeros":
        return index
    if start:
        before = _mirrored(span, position, mode, "before")
        index = tirx.if_then_else(position < start, before, index)
    if stop < span.span:
        after = _mirrored(span, position, mode, "after")
        index = tirx.if_then_else(position >= stop, after, index)
    return index


def _mirrored(span: Span, position: Any, mode: str, segment: str) -> Any:
    """The same for positions of one segment: before, inside or after the input."""
    index = span.first + position
    if segment == "inside":
        return index
    if mode == "reflect":
        return -index if segment == "before" else 2 * (span.size - 1) - index
    if mode == "replicate":
        return 0 if segment == "before" else span.size - 1
    return index + span.size if segment == "before" else index - span.size


def packed_copy(form: StatementForm, mode: str, data: Any, padded: Any) -> None:
    """Emit the block that fills a packed copy: element by element, each a vector of channels."""
    rows, columns = form.spans
    first = form.statement.inputs.start // form.copy_lanes
    names = ("n", "c", "row", "column", "lane")
    extents = dict(zip(names, form.padded_shape, strict=True))
    with block(f"pad_{form.index}", extents) as v:
        y, x = _source(rows, v["row"], mode), _source(columns, v["column"], mode)
        value = data[v["n"], first + v["c"], y, x, v["lane"]]
        if mode == "zeros" and not (rows.inside and columns.inside):
            inside = tirx.all(_is_inside(rows, v["row"]), _is_inside(columns, v["column"]))
            value = tirx.if_then_else(inside, value, ZERO)
        T.buffer_store(padded, value, list(v.values()))
