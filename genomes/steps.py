"""Which elements the iterations of loops reach: steps along the axes of a computation.

A fresh loop takes steps of one along its own axis. Splits and fusions rearrange steps and keep
count of them, so that it can be told whether the loops of a tile reach a box of the output.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

ROWS_AND_COLUMNS = "ho+wo"
"""The axis of all rows and columns, once they are fused."""


@dataclass(frozen=True, slots=True)
class Axis:
    """What steps are counted along.

    Attributes:
        name: `co`; `ho+wo`; `n x co` once a loop fused of both was split.
        extent: Elements.
        of: The fused steps, outermost first, of an axis made by such a split. Part of it is taken
            for no box, even where it is one: TVM often cannot tell.
    """

    name: str
    extent: int
    of: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """`extent` steps of `stride` elements along an axis."""

    axis: Axis
    stride: int
    extent: int

    @property
    def whole(self) -> bool:
        """Whether every element of the axis is reached."""
        return self.extent == self.axis.extent

    def along(self, name: str) -> bool:
        """Whether the axis `name` is stepped along, be it inside of a split fusion."""
        return self.axis.name == name or any(step.along(name) for step in self.axis.of)


def fresh_steps(name: str, extent: int) -> tuple[Step, ...]:
    """The steps of a fresh loop; a single iteration takes none."""
    return (Step(Axis(name, extent), 1, extent),) if extent > 1 else ()


def split_steps(steps: Sequence[Step], factor: int) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """The steps of the outer and the inner half of a loop, the inner one of `factor` iterations.

    Args:
        steps: Of the loop, outermost first.
        factor: Divides the number of iterations.
    """
    count = prod(step.extent for step in steps)
    axis, stride = Axis(" x ".join(step.axis.name for step in steps), count, tuple(steps)), 1
    if len(steps) == 1:
        axis, stride = steps[0].axis, steps[0].stride
    return (Step(axis, stride * factor, count // factor),), (Step(axis, stride, factor),)


def fuse_steps(steps: Iterable[Step]) -> tuple[Step, ...]:
    """The steps of a loop fused from loops that take `steps`, outermost first."""
    fused: list[Step] = []
    for step in steps:
        joined = _joined(fused[-1], step) if fused else None
        if joined is None:
            fused.append(step)
        else:
            fused[-1] = joined
    return tuple(fused)


def _joined(outer: Step, inner: Step) -> Step | None:
    """One step for two that follow each other along one axis, or along rows and columns."""
    count = outer.extent * inner.extent
    if outer.axis == inner.axis and outer.stride == inner.stride * inner.extent:
        return Step(inner.axis, inner.stride, count)
    if (outer.axis.name, inner.axis.name) == ("ho", "wo") and outer.whole and inner.whole:
        return Step(Axis(ROWS_AND_COLUMNS, count), 1, count)
    return None


def gap(steps: Iterable[Step]) -> Step | None:
    """A step that leaves elements out; None when the steps, all taken, reach exactly a box."""
    by_axis: dict[Axis, list[Step]] = defaultdict(list)
    for step in steps:
        by_axis[step.axis].append(step)
    while fusion := next((axis for axis in by_axis if axis.of), None):
        along = by_axis.pop(fusion)
        if prod(step.extent for step in along) < fusion.extent:
            return along[0]
        for step in fusion.of:
            by_axis[step.axis].append(step)
    for along in by_axis.values():
        reached = 1
        for step in sorted(along, key=lambda step: step.stride):
            if step.stride != reached:
                return step
            reached *= step.extent
    return None
