"""Pieces of TIR that every stage of a kernel is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T  # noqa: N812 - the name that TVM uses

DTYPE = "float32"
ZERO = tirx.FloatImm(DTYPE, 0.0)


def argument(name: str, shape: Sequence[int]) -> Any:
    """A parameter of the kernel that is being built."""
    return T.arg(name, T.buffer(tuple(shape), DTYPE, layout=None))


def temporary(name: str, shape: Sequence[int]) -> Any:
    """A buffer of the block that is open."""
    buffer = T.sblock_alloc_buffer(tuple(shape), DTYPE, layout=None)
    IRBuilder.name(name, buffer)
    return buffer


@contextmanager
def loops(extents: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Nested loops; yields their variables by name."""
    with T.grid(*extents.values()) as variables:
        IRBuilder.name_many(list(extents), list(variables))
        yield dict(zip(extents, variables, strict=True))


def axis(name: str, extent: int, binding: Any, *, reduction: bool = False) -> Any:
    """An axis of the block that is open."""
    variable = (T.axis.reduce if reduction else T.axis.spatial)(extent, binding)
    IRBuilder.name(f"v_{name}", variable)
    return variable


@contextmanager
def block(name: str, extents: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """A block inside one loop for each of its axes; yields the axes by name."""
    with loops(extents) as variables, T.sblock(name):
        yield {loop: axis(loop, extents[loop], variables[loop]) for loop in extents}


def at(lanes: int, n: Any, channel: Any, y: Any, x: Any) -> tuple[Any, ...]:
    """The place of an element of an activation stored as NCHW, or as NCHW[lanes]c."""
    if not lanes:
        return (n, channel, y, x)
    return (n, channel // lanes, y, x, channel % lanes)
