"""Vectorized loops that copy under a condition or with a stride.

TVM makes branches of a vectorized loop that copies under a condition.  Where the CPU has masks
for the lanes of its vectors, padding is read as zeros where it would be.  A load of every second
element is two loads and a shuffle; the taps of one row, whose elements are between each other's,
share the loads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import tvm_ffi
from tvm import ir, sym, tirx

from backends.lowering.vectors import (
    REGISTER_LANES,
    first_lanes,
    has_masks,
    load_lanes,
    power_of_two,
    ramp,
)

_IF_THEN_ELSE = ir.Op.get("prim.if_then_else")
_COMPARISONS = (tirx.LT, tirx.LE, tirx.GT, tirx.GE)


@tirx.transform.prim_func_pass(opt_level=0)
def masked_copies(function: tirx.PrimFunc, _mod: Any, _ctx: Any) -> tirx.PrimFunc:
    """Vectorize loops that copy elements under a condition, zeros elsewhere, or with a stride.

    rewrite:
        for x in vectorized(L):             B[i : i + L] =
            B[i + x] = I[j + x] if       ->     masked_load(I[j : j + L],
                lo <= k + x < hi else 0             lo <= k : k + L < hi)

    Runs before TVM vectorizes, which would leave such a loop scalar.
    """
    if not has_masks(function):
        return function
    around = _Loops.of(function.body)

    def visit(loop: tirx.For) -> tirx.Stmt:
        copy = _Copy.of(loop, around) if loop.kind == tirx.ForKind.VECTORIZED else None
        return loop if copy is None else copy.vectors()

    return function.with_body(tvm_ffi.structural_map(function.body, (tirx.For, visit)))


@dataclass(frozen=True)
class _Loops:
    """The loops of a function.

    Attributes:
        bounds: An analyzer that knows the range of the variable of each.
        copied: How many copies of the body unrolling makes, by variable, which starts at 0.
    """

    bounds: sym.Analyzer
    copied: Mapping[Any, int]

    @staticmethod
    def of(body: tirx.Stmt) -> _Loops:
        bounds, copied = sym.Analyzer(), dict[Any, int]()

        def note(loop: tirx.For) -> None:
            bounds.bind(loop.loop_var, ir.Range.from_min_extent(loop.min, loop.extent))
            unrolled = loop.kind == tirx.ForKind.UNROLLED and isinstance(loop.extent, tirx.IntImm)
            if unrolled and isinstance(loop.min, tirx.IntImm) and int(loop.min) == 0:
                copied[loop.loop_var] = int(loop.extent)

        tvm_ffi.structural_walk(body, (tirx.For, note))
        return _Loops(bounds, copied)

    def are_within(self, first: Any, last: Any, size: int) -> tuple[bool, bool]:
        """Whether `first` is never negative, and whether `last` is always below `size`."""
        least, most = self.bounds.const_int_bound(first), self.bounds.const_int_bound(last)
        return int(least.min_value) >= 0, int(most.max_value) < size


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

    @property
    def bounds(self) -> str:
        """Where it ends what is read, for a growing variable: "below", "above" or nowhere."""
        step = self.left.step - self.right.step
        if self.operator in (tirx.GT, tirx.GE):
            step = -step
        return "above" if step > 0 else "below" if step < 0 else ""

    def follows(self, variable: Any, step: int, stride: int) -> bool:
        """Whether `variable` moves the condition along a row, by `step` elements of it.

        Args:
            variable: Of another loop.
            step: Elements of the source from one of its iterations to the next.
            stride: The same for the variable of this loop.
        """
        moves = (_Linear.of(side.base, variable) for side in (self.left, self.right))
        return all(
            at is not None and at.step * stride == of_this * step
            for at, of_this in zip(moves, self.steps, strict=True)
        )

    def lanes(self, first: Any, count: int, stride: int) -> Any:
        """The condition for x = first/stride, (first + 1)/stride, ..., as a vector."""
        sides = [side.base + first * (side.step // stride) for side in (self.left, self.right)]
        if not any(self.steps):
            return tirx.Broadcast(self.operator(*sides), count)
        vectors = (
            tirx.Ramp(side, step // stride, count) if step else tirx.Broadcast(side, count)
            for side, step in zip(sides, self.steps, strict=True)
        )
        return self.operator(*vectors)


@dataclass(frozen=True)
class _Copy:
    """A loop of `lanes` times `target[...] = source[...] if all conditions hold else 0`.

    Attributes:
        offset: By how many elements the first one that is read is behind the first one of
            `shared`.
        shared: The offsets of the copies that unrolling makes of the loop, which read elements of
            one row and load them together.
    """

    lanes: int
    target: Any
    target_at: _Linear
    source: Any
    source_at: _Linear
    conditions: tuple[_Comparison, ...]
    offset: Any = 0
    shared: tuple[int, ...] = (0,)

    @staticmethod
    def of(loop: tirx.For, around: _Loops) -> _Copy | None:
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
        copy = _Copy(int(loop.extent), store.buffer, target_at, load.source, source_at, known)
        return copy._sharing(around) if stride == 2 else copy

    def _sharing(self, around: _Loops) -> _Copy:
        """The copy with the loop around it whose copies read neighbours in one row, if any."""
        found = [self]
        for variable, count in around.copied.items():
            at = _Linear.of(self.source_at.base, variable)
            if at is None or at.step < 1 or count < 2:
                continue
            if all(c.follows(variable, at.step, self.source_at.step) for c in self.conditions):
                shared = tuple(range(0, count * at.step, at.step))
                together = replace(self, offset=variable * at.step, shared=shared)
                if together._may_load(at.base, around):
                    found.append(together)
        return min(found[1:] or found, key=lambda copy: copy.shared[-1])

    def _may_load(self, first: Any, around: _Loops) -> bool:
        """Whether all that is shared, from `first` on, fits two registers and can be read.

        Of whole registers of every second element, three neighbouring taps are one too many.
        """
        if not all(isinstance(extent, tirx.IntImm) for extent in self.source.shape):
            return False
        size = prod(int(extent) for extent in self.source.shape)
        last = first + self.source_at.step * (self.lanes - 1) + self.shared[-1]
        bounded = {c.bounds for c in self.conditions}
        below, above = around.are_within(first, last, size)
        fits = self._span(min(self.lanes, REGISTER_LANES)) <= 2 * REGISTER_LANES
        return fits and (below or "below" in bounded) and (above or "above" in bounded)

    def _span(self, count: int) -> int:
        """Elements from the first to the last that are loaded for so many iterations."""
        return self.source_at.step * (count - 1) + 1 + self.shared[-1]

    def vectors(self) -> tirx.Stmt:
        """The copy, one register after another."""
        stores = []
        for first in range(0, self.lanes, REGISTER_LANES):
            count = min(REGISTER_LANES, self.lanes - first)
            at = ramp(self.target_at.base + first, count)
            stores.append(tirx.BufferStore(self.target, self._loaded(first, count), [at]))
        return stores[0] if len(stores) == 1 else tirx.SeqStmt(stores)

    def _loaded(self, first: int, count: int) -> Any:
        """Iterations `first` to `first + count` as a vector: of 1 or 2 registers, shuffled."""
        stride, span = self.source_at.step, self._span(count)
        start = stride * first - self.offset
        second = max(span - REGISTER_LANES, 0)
        registers = [self._register(start, min(span, REGISTER_LANES))]
        if second:
            registers.append(self._register(start + second, REGISTER_LANES))
        places = [
            at if at < REGISTER_LANES else at - second + REGISTER_LANES for at in range(span)
        ]
        *others, value = (
            tirx.Shuffle(registers, places[offset::stride][:count]) for offset in self.shared
        )
        for offset, other in zip(self.shared, others, strict=False):
            value = tirx.Select(self.offset == offset, other, value)
        return value

    def _register(self, first: Any, used: int) -> Any:
        """`used` neighbouring elements from the one that is `first` after the source's base."""
        stride, count = self.source_at.step, max(2, power_of_two(used))
        masks = [c.lanes(first, count, stride) for c in self.conditions]
        if used < count:
            masks.append(first_lanes(used, count))
        return load_lanes(self.source, self.source_at.base + first, count, masks)


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
