"""Vectors where TVM has none: loads under a condition or with a stride, and odd numbers of lanes.

TVM makes branches of a vectorized loop that copies under a condition, and LLVM makes three loads
of a vector of 7 elements.  Where the CPU has masks for the lanes of its vectors, either is one
instruction that touches nothing outside the mask: padding is read as zeros where it would be, and
a row of 7 columns is a register.  A load of every second element is two loads and a shuffle.
On other CPUs these passes change nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import tvm_ffi
from tvm import ir, sym, tirx
from tvm.target import Target, codegen

from backends.lowering.blocks import DTYPE, ZERO

STACK_BYTES = 16384
REGISTER_LANES = 16
MASKS = "avx512vl"
_FLOAT_BYTES = 4
_IF_THEN_ELSE = ir.Op.get("prim.if_then_else")
_MASKED_LOAD = ir.Op.get("tirx.masked_load")
_COMPARISONS = (tirx.LT, tirx.LE, tirx.GT, tirx.GE)


def _has_masks(function: tirx.PrimFunc) -> bool:
    target = function.attrs.get("target")
    return target is not None and MASKS in _features(str(target))


@functools.lru_cache(maxsize=16)
def _features(target: str) -> frozenset[str]:
    return frozenset(str(f) for f in codegen.llvm_get_cpu_features(Target(target)))


@tirx.transform.prim_func_pass(opt_level=0)
def masked_copies(function: tirx.PrimFunc, _mod: Any, _ctx: Any) -> tirx.PrimFunc:
    """Vectorize loops that copy elements under a condition, zeros elsewhere, or with a stride.

    rewrite:
        for x in vectorized(L):             B[i : i + L] =
            B[i + x] = I[j + x] if       ->     masked_load(I[j : j + L],
                lo <= k + x < hi else 0             lo <= k : k + L < hi)

    Runs before TVM vectorizes, which would leave such a loop scalar.
    """
    if not _has_masks(function):
        return function

    def visit(loop: tirx.For) -> tirx.Stmt:
        copy = _Copy.of(loop) if loop.kind == tirx.ForKind.VECTORIZED else None
        return loop if copy is None else copy.vectors()

    return function.with_body(tvm_ffi.structural_map(function.body, (tirx.For, visit)))


@dataclass(frozen=True)
class _Linear:
    """`step * x + base`, for the variable of a loop."""

    step: int
    base: Any

    @staticmethod
    def of(expression: Any, variable: Any) -> _Linear | None:
        found = sym.detect_linear_equation(expression, [variable])
        if len(found) != 2 or not isinstance(found[0], tirx.IntImm):
            return None
        return _Linear(int(found[0]), found[1])


@dataclass(frozen=True)
class _Comparison:
    """A condition on the variable of a loop."""

    operator: type
    left: _Linear
    right: _Linear

    @property
    def steps(self) -> tuple[int, int]:
        return self.left.step, self.right.step

    def lanes(self, first: int, count: int, stride: int) -> Any:
        """The condition for x = first, first + 1/stride, ..., as a vector."""
        sides = [side.base + first * side.step // stride for side in (self.left, self.right)]
        if not any(self.steps):
            return tirx.Broadcast(self.operator(*sides), count)
        vectors = (
            tirx.Ramp(side, step // stride, count) if step else tirx.Broadcast(side, count)
            for side, step in zip(sides, self.steps, strict=True)
        )
        return self.operator(*vectors)


@dataclass(frozen=True)
class _Copy:
    """A loop of `lanes` times `target[...] = source[...] if all conditions hold else 0`."""

    lanes: int
    target: Any
    target_at: _Linear
    source: Any
    source_at: _Linear
    conditions: tuple[_Comparison, ...]

    @staticmethod
    def of(loop: tirx.For) -> _Copy | None:
        """The copy that a loop is; None when it is none, or one that TVM vectorizes."""
        store, x = loop.body, loop.loop_var
        guarded = _guarded(store)
        if guarded is None or not isinstance(loop.extent, tirx.IntImm):
            return None
        load, condition = guarded
        target_at, source_at = _Linear.of(store.indices[0], x), _Linear.of(load.indices[0], x)
        conditions = list(_comparisons(condition, x))
        if target_at is None or target_at.step != 1 or source_at is None or None in conditions:
            return None
        known = tuple(c for c in conditions if c is not None)
        stride = source_at.step
        if stride not in (1, 2) or any(step % stride for c in known for step in c.steps):
            return None
        if stride == 1 and not known:
            return None
        return _Copy(int(loop.extent), store.buffer, target_at, load.source, source_at, known)

    def vectors(self) -> tirx.Stmt:
        """The copy, one register after another."""
        stores = []
        for first in range(0, self.lanes, REGISTER_LANES):
            count = min(REGISTER_LANES, self.lanes - first)
            at = _ramp(self.target_at.base + first, count)
            stores.append(tirx.BufferStore(self.target, self._loaded(first, count), [at]))
        return stores[0] if len(stores) == 1 else tirx.SeqStmt(stores)

    def _loaded(self, first: int, count: int) -> Any:
        """Iterations `first` to `first + count` as a vector: of 1 or 2 registers, shuffled."""
        stride = self.source_at.step
        span = stride * (count - 1) + 1
        second = max(span - REGISTER_LANES, 0)
        registers = [self._register(stride * first, min(span, REGISTER_LANES))]
        if second:
            registers.append(self._register(stride * first + second, REGISTER_LANES))
        places = [
            at if at < REGISTER_LANES else at - second + REGISTER_LANES
            for at in range(0, span, stride)
        ]
        return tirx.Shuffle(registers, places)

    def _register(self, first: int, used: int) -> Any:
        """`used` neighbouring elements from the one that is `first` after the source's base."""
        stride, count = self.source_at.step, max(2, _power_of_two(used))
        masks = [c.lanes(first, count, stride) for c in self.conditions]
        if used < count:
            masks.append(_first_lanes(used, count))
        return _load(self.source, self.source_at.base + first, count, masks)


def _guarded(store: Any) -> tuple[Any, Any] | None:
    """(load, condition or None) of a statement `target[i] = load if condition else 0`."""
    if not isinstance(store, tirx.BufferStore) or len(store.indices) != 1:
        return None
    value, condition = store.value, None
    if isinstance(value, ir.Call) and value.op.same_as(_IF_THEN_ELSE):
        condition, value, other = value.args
        if not (isinstance(other, tirx.FloatImm) and other.value == 0.0):
            return None
    if not isinstance(value, ir.TensorLoad) or len(value.indices) != 1:
        return None
    return value, condition


def _comparisons(condition: Any, variable: Any) -> Iterator[_Comparison | None]:
    """The comparisons of a conjunction; None for what is no comparison of linear terms."""
    if condition is None:
        return
    if isinstance(condition, tirx.And):
        yield from _comparisons(condition.a, variable)
        yield from _comparisons(condition.b, variable)
        return
    if not isinstance(condition, _COMPARISONS):
        yield None
        return
    left, right = _Linear.of(condition.a, variable), _Linear.of(condition.b, variable)
    if left is None or right is None:
        yield None
    else:
        yield _Comparison(type(condition), left, right)


@tirx.transform.prim_func_pass(opt_level=0)
def masked_lanes(function: tirx.PrimFunc, _mod: Any, _ctx: Any) -> tirx.PrimFunc:
    """Load and store odd numbers of lanes as whole registers under a mask.

    Buffers on the stack are left alone: without masks LLVM keeps them in registers.  What the
    masks of `masked_copies` leave out becomes zero here and not there, since TVM's simplifier
    takes the mask out of a load whose result is selected by the same mask.
    """
    if not _has_masks(function):
        return function
    stack: list[Any] = []

    def note(stmt: tirx.AllocBuffer) -> None:
        if on_stack(stmt):
            stack.append(stmt.buffer)

    def odd(buffer: Any, indices: Any) -> tuple[Any, int] | None:
        index = indices[0]
        if len(indices) != 1 or not isinstance(index, tirx.Ramp) or int(index.stride) != 1:
            return None
        lanes = int(index.lanes)
        if lanes == _power_of_two(lanes) or any(buffer.same_as(b) for b in stack):
            return None
        return index.base, lanes

    def load(value: Any) -> Any:
        found = odd(value.source, value.indices)
        if found is None:
            return value
        base, lanes = found
        registers = []
        for first, used in _registers(lanes):
            masks = [_first_lanes(used, REGISTER_LANES)] if used < REGISTER_LANES else []
            registers.append(_or_zero(_load(value.source, base + first, REGISTER_LANES, masks)))
        return tirx.Shuffle(registers, list(range(lanes)))

    def store(stmt: tirx.BufferStore) -> tirx.Stmt:
        found = odd(stmt.buffer, stmt.indices)
        if found is None:
            return stmt
        base, lanes = found
        stores = []
        for first, used in _registers(lanes):
            count = _power_of_two(used)
            places = [first + min(lane, used - 1) for lane in range(count)]
            # Twice: TVM allows no more places than there are lanes.
            value = tirx.Shuffle([stmt.value, stmt.value], places)
            at = _ramp(base + first, count)
            if used == count:
                stores.append(tirx.BufferStore(stmt.buffer, value, [at]))
                continue
            mask = _first_lanes(used, count)
            stores.append(tirx.Evaluate(tirx.op.masked_store(stmt.buffer, value, at, mask)))
        return tirx.stmt_seq(*stores)

    tvm_ffi.structural_walk(function.body, (tirx.AllocBuffer, note))
    callbacks = [(ir.TensorLoad, load), (tirx.BufferStore, store), (ir.Call, _or_zero)]
    return function.with_body(tvm_ffi.structural_map(function.body, callbacks))


def on_stack(stmt: tirx.AllocBuffer) -> bool:
    """Whether a buffer is small enough for LLVM's stack."""
    sizes = [int(e) if isinstance(e, tirx.IntImm) else STACK_BYTES for e in stmt.buffer.shape]
    return _FLOAT_BYTES * prod(sizes) <= STACK_BYTES


def _or_zero(load: Any) -> Any:
    """A masked load with zeros for the lanes that it leaves out; TVM's has undefined ones."""
    if not isinstance(load, ir.Call) or not load.op.same_as(_MASKED_LOAD):
        return load
    buffer, index, mask = load.args
    zeros = tirx.Broadcast(ZERO, index.lanes)
    first = tirx.address_of(tirx.BufferLoad(buffer, [index.base]))
    return tirx.call_llvm_pure_intrin(load.ty, "llvm.masked.load", first, mask, zeros)


def _load(buffer: Any, base: Any, count: int, masks: Sequence[Any]) -> Any:
    if not masks:
        return tirx.BufferLoad(buffer, [_ramp(base, count)])
    mask = functools.reduce(tirx.And, masks)
    return tirx.op.masked_load(f"{DTYPE}x{count}", buffer, _ramp(base, count), mask)


def _registers(lanes: int) -> list[tuple[int, int]]:
    """(first, lanes used) of each register of a vector."""
    firsts = range(0, lanes, REGISTER_LANES)
    return [(first, min(REGISTER_LANES, lanes - first)) for first in firsts]


def _first_lanes(used: int, count: int) -> Any:
    return tirx.LT(tirx.Ramp(0, 1, count), tirx.Broadcast(used, count))


def _ramp(base: Any, count: int) -> Any:
    return tirx.Ramp(base, 1, count) if count > 1 else base


def _power_of_two(lanes: int) -> int:
    return 1 << (lanes - 1).bit_length()
