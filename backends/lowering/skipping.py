"""Multiply-adds with padding left out: a condition around them, not a zero to multiply with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from typing import Any

import tvm_ffi
from tvm import ir, tirx

_IF_THEN_ELSE = ir.Op.get("prim.if_then_else")


@tirx.transform.prim_func_pass(opt_level=0)
def skipped_padding(function: tirx.PrimFunc, _mod: Any, _ctx: Any) -> tirx.PrimFunc:
    """Do not accumulate what is zero, and ask as far outside as the answer is known.

    rewrite:
        for k in K:                                 for k in K:
            for x in N:                         ->      if inside(k):
                A[x] += w * (I[k, x] if                     for x in N:
                    inside(k) else 0)                           A[x] += w * I[k, x]

    Where rows and columns are unrolled, the conditions are constants, and what is left out costs
    nothing.
    """
    callbacks = [(tirx.BufferStore, _guarded), (tirx.For, _lifted)]
    return function.with_body(tvm_ffi.structural_map(function.body, callbacks))


def _guarded(store: tirx.BufferStore) -> tirx.Stmt:
    """`B[i] = B[i] + w * (x if c else 0)` as `if c: B[i] = B[i] + w * x`."""
    total = store.value
    if not isinstance(total, tirx.Add) or not isinstance(total.b, tirx.Mul):
        return store
    read = total.a
    if not isinstance(read, ir.TensorLoad) or not read.source.same_as(store.buffer):
        return store
    if not all(map(tvm_ffi.structural_equal, read.indices, store.indices)):
        return store
    x, weight = total.b.a, total.b.b
    if not isinstance(x, ir.Call) or not x.op.same_as(_IF_THEN_ELSE):
        return store
    condition, value, other = x.args
    if not isinstance(other, tirx.FloatImm) or other.value != 0.0:
        return store
    kept = tirx.BufferStore(store.buffer, read + value * weight, store.indices)
    return tirx.IfThenElse(condition, kept, None)


def _lifted(loop: tirx.For) -> tirx.Stmt:
    """A loop over a conditional statement, with the conditions outside that it does not change."""
    guarded = loop.body
    if not isinstance(guarded, tirx.IfThenElse) or guarded.else_case is not None:
        return loop
    parts = list(_conjunction(guarded.condition))
    outside = [part for part in parts if _stays_the_same(part, loop.loop_var)]
    inside = [part for part in parts if not _stays_the_same(part, loop.loop_var)]
    if not outside:
        return loop
    body = tirx.IfThenElse(_all(inside), guarded.then_case, None) if inside else guarded.then_case
    fields = (loop.thread_binding, loop.annotations, loop.step)
    rest = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, *fields)
    return tirx.IfThenElse(_all(outside), rest, None)


def _stays_the_same(condition: Any, variable: Any) -> bool:
    """Whether a condition is the same in all iterations: of other variables, not of memory."""
    loads: list[Any] = []
    tvm_ffi.structural_walk(condition, (ir.TensorLoad, loads.append))
    return not loads and not any(
        v.same_as(variable) for v in tirx.analysis.undefined_vars(condition)
    )


def _conjunction(condition: Any) -> Iterator[Any]:
    if isinstance(condition, tirx.And):
        yield from _conjunction(condition.a)
        yield from _conjunction(condition.b)
    else:
        yield condition


def _all(conditions: Iterable[Any]) -> Any:
    return reduce(tirx.And, conditions)
