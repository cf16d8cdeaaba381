"""Loops of elementwise stages that read one of several parts: concatenations and what follows.

A concatenation is one expression that chooses a part by the position along an axis:

    out[c, x] = f(if_then_else(32 <= c, second[c - 32, x], first[c, x]), c)

Its loops stand for one part each, where nothing is left to choose:

    parallel for chunk:
        for c in the chunk's share of 0..32:  for x:  out[c, x] = f(first[c, x], c)
        for c in the chunk's share of 32..:   for x:  out[c, x] = f(second[c - 32, x], c)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import gcd, prod
from typing import Any

import tvm_ffi
from tvm import ir, sym, tirx

CHUNKS = 8
"""Shares of every part that threads take, at most."""


@dataclass(frozen=True)
class Cuts:
    """Where a stage begins to read another part.

    Attributes:
        axis: Number of the block variable.
        segments: (start, stop) of every part along it.
    """

    axis: int
    segments: tuple[tuple[int, int], ...]


def find_cuts(stage: Any) -> Cuts | None:
    """The cuts of a block; None where it is no elementwise stage that chooses along one axis."""
    if not isinstance(stage.body, tirx.BufferStore):
        return None
    variables = [v.var for v in stage.iter_vars]
    found: dict[int, set[int]] = {}

    def visit(call: Any) -> None:
        if call.op.name != "prim.if_then_else":
            return
        condition = call.args[0]
        if isinstance(condition, tirx.LE) and isinstance(condition.a, tirx.IntImm):
            for axis, variable in enumerate(variables):
                if condition.b.same_as(variable):
                    found.setdefault(axis, set()).add(int(condition.a))

    tvm_ffi.structural_walk(stage.body.value, (ir.Call, visit))
    if len(found) != 1:
        return None
    ((axis, starts),) = found.items()
    ends = [0, *sorted(starts), int(stage.iter_vars[axis].dom.extent)]
    return Cuts(axis, tuple(pairwise(ends)))


def by_parts(stage: Any, cuts: Cuts, lanes: int, parallel_from: int) -> tirx.Stmt:
    """The loops of a stage, one after the other for each part.

    Every thread takes its share of each part, so that there is one parallel region.

    Args:
        stage: The block; its variables stand for the dimensions of what it writes, in order.
        cuts: Of this block.
        lanes: float32 lanes of a vector register.
        parallel_from: Elements from which several threads pay.
    """
    variables = [v.var for v in stage.iter_vars]
    extents = [int(v.dom.extent) for v in stage.iter_vars]
    chunks = 1
    if prod(extents) >= parallel_from:
        sizes = (stop - start for start, stop in cuts.segments)
        chunks = greatest_divisor(gcd(*sizes), CHUNKS)
    chunk = _variable("chunk")
    inner = dict(zip(variables[cuts.axis + 1 :], extents[cuts.axis + 1 :], strict=True))
    parts = []
    for start, stop in cuts.segments:
        analyzer = sym.Analyzer()
        analyzer.bind(variables[cuts.axis], ir.Range(start, stop))
        value = analyzer.simplify(stage.body.value)
        store = tirx.BufferStore(stage.body.buffer, value, stage.body.indices)
        share = (stop - start) // chunks
        offset = _variable("offset")
        at = {variables[cuts.axis]: start + chunk * share + offset}
        parts.append(_loop(offset, share, _rows(store, at, inner, lanes)))
    kind = tirx.ForKind.PARALLEL if chunks > 1 else tirx.ForKind.SERIAL
    body = _loop(chunk, chunks, tirx.SeqStmt(parts), kind)
    for variable, extent in zip(variables[: cuts.axis], extents[: cuts.axis], strict=True):
        body = _loop(variable, extent, body)
    return body


def _rows(store: Any, at: dict[Any, Any], inner: dict[Any, int], lanes: int) -> tirx.Stmt:
    """The loop over all inner dimensions at once, by vectors where they fit."""
    place, lane = _variable("place"), _variable("lane")
    elements = prod(inner.values())
    width = lanes if elements % lanes == 0 else 1
    flat, below = place * width + lane, elements
    for variable, extent in inner.items():
        below //= extent
        at[variable] = flat // below % extent
    body = _substituted(store, at)
    vector = _loop(lane, width, body, tirx.ForKind.VECTORIZED if width > 1 else None)
    return _loop(place, elements // width, vector)


def _substituted(store: Any, at: dict[Any, Any]) -> Any:
    def replacement(variable: Any) -> Any:
        return next((new for old, new in at.items() if old.same_as(variable)), variable)

    return tvm_ffi.structural_map(store, (tirx.Var, replacement))


def _variable(name: str) -> Any:
    return tirx.Var(name, "int64")


def _loop(variable: Any, extent: int, body: Any, kind: Any = None) -> tirx.Stmt:
    return tirx.For(variable, 0, extent, tirx.ForKind.SERIAL if kind is None else kind, body)


def greatest_divisor(number: int, most: int) -> int:
    """The greatest divisor of `number` that is not above `most`."""
    return max(d for d in range(1, most + 1) if number % d == 0)
