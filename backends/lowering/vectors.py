"""Vectors where TVM has none: odd numbers of lanes, loaded and stored under masks.

LLVM makes three loads of a vector of 7 elements.  Where the CPU has masks for the lanes of its
vectors, it is one instruction that touches nothing outside the mask.  On other CPUs the pass
changes nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from math import prod
from typing import Any

import tvm_ffi
from tvm import ir, tirx
from tvm.target import Target, codegen

from backends.lowering.blocks import DTYPE, ZERO

STACK_BYTES = 16384
REGISTER_LANES = 16
MASKS = "avx512vl"
_FLOAT_BYTES = 4
_MASKED_LOAD = ir.Op.get("tirx.masked_load")


def has_masks(function: tirx.PrimFunc) -> bool:
    """Whether the target of a function has masks for the lanes of its vectors."""
    target = function.attrs.get("target")
    return target is not None and MASKS in _features(str(target))


@functools.lru_cache(maxsize=16)
def _features(target: str) -> frozenset[str]:
    return frozenset(str(f) for f in codegen.llvm_get_cpu_features(Target(target)))


@tirx.transform.prim_func_pass(opt_level=0)
def masked_lanes(function: tirx.PrimFunc, _mod: Any, _ctx: Any) -> tirx.PrimFunc:
    """Load and store odd numbers of lanes as whole registers under a mask.

    Buffers on the stack are left alone: without masks LLVM keeps them in registers.  What the
    masks of `copies.masked_copies` leave out becomes zero here and not there, since TVM's
    simplifier takes the mask out of a load whose result is selected by the same mask.
    """
    if not has_masks(function):
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
        if lanes == power_of_two(lanes) or any(buffer.same_as(b) for b in stack):
            return None
        return index.base, lanes

    def load(value: Any) -> Any:
        found = odd(value.source, value.indices)
        if found is None:
            return value
        base, lanes = found
        registers = []
        for first, used in _registers(lanes):
            masks = [first_lanes(used, REGISTER_LANES)] if used < REGISTER_LANES else []
            registers.append(
                _or_zero(load_lanes(value.source, base + first, REGISTER_LANES, masks))
            )
        return tirx.Shuffle(registers, list(range(lanes)))

    def store(stmt: tirx.BufferStore) -> tirx.Stmt:
        found = odd(stmt.buffer, stmt.indices)
        if found is None:
            return stmt
        base, lanes = found
        stores = []
        for first, used in _registers(lanes):
            count = power_of_two(used)
            places = [first + min(lane, used - 1) for lane in range(count)]
            # Twice: TVM allows no more places than there are lanes.
            value = tirx.Shuffle([stmt.value, stmt.value], places)
            at = ramp(base + first, count)
            if used == count:
                stores.append(tirx.BufferStore(stmt.buffer, value, [at]))
                continue
            mask = first_lanes(used, count)
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


def load_lanes(buffer: Any, base: Any, count: int, masks: Sequence[Any]) -> Any:
    """`count` neighbouring elements as a vector, where all masks are true."""
    if not masks:
        return tirx.BufferLoad(buffer, [ramp(base, count)])
    mask = functools.reduce(tirx.And, masks)
    return tirx.op.masked_load(f"{DTYPE}x{count}", buffer, ramp(base, count), mask)


def _registers(lanes: int) -> list[tuple[int, int]]:
    """(first, lanes used) of each register of a vector."""
    firsts = range(0, lanes, REGISTER_LANES)
    return [(first, min(REGISTER_LANES, lanes - first)) for first in firsts]


def first_lanes(used: int, count: int) -> Any:
    """A mask for the first `used` of `count` lanes."""
    return tirx.LT(tirx.Ramp(0, 1, count), tirx.Broadcast(used, count))


def ramp(base: Any, count: int) -> Any:
    """The indices of `count` neighbouring elements."""
    return tirx.Ramp(base, 1, count) if count > 1 else base


def power_of_two(lanes: int) -> int:
    """The smallest power of two with room for `lanes`."""
    return 1 << (lanes - 1).bit_length()
