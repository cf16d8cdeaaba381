"""Schedules: how the iterations of one statement are ordered and mapped."""

from __future__ import annotations

from dataclasses import dataclass, field

from genomes.gene import Gene
from genomes.steps import ROWS_AND_COLUMNS, Step, fresh_steps

BOUND = "bind:"
"""How the mark of a loop bound to an axis of a GPU begins."""


@dataclass(frozen=True, slots=True)
class Loop:
    """One loop of a statement's schedule.

    Attributes:
        name: `co`; `co.0` and `co.1` after a split; `n+co.0` after a fusion.
        extent: Trip count.
        reduction: Whether iterations accumulate into the same output.
        mark: "", "parallel", "vectorize", "unroll" or "bind:<thread axis>".
        steps: Which elements the iterations reach, outermost step first.
    """

    name: str
    extent: int
    reduction: bool
    mark: str = ""
    # The genes of a schedule decide them: comparing them again only costs time.
    steps: tuple[Step, ...] = field(default=(), compare=False, repr=False)

    @property
    def bound(self) -> str:
        """The axis of a GPU that the loop is bound to, like "threadIdx.x"; "" if to none."""
        return self.mark.removeprefix(BOUND) if self.mark.startswith(BOUND) else ""

    @classmethod
    def fresh(cls, name: str, extent: int, *, reduction: bool) -> Loop:
        """The loop over a whole axis."""
        return cls(name, extent, reduction, steps=fresh_steps(name, extent))


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a statement's iterations are ordered and mapped.

    Attributes:
        loops: Outermost first.
        anchors: (role, loop name) of stages placed at a loop: `cache_write`, `pad`,
            `prefetch:<operand>`, `shared:<operand>`, `decompose`.
        packs: (operand, lanes) of packed layouts.
        pads_inline: Whether padding is computed where it is read.
        rounded: The channels that a group computes are a multiple of so many; 0 for those kept.
        genes: The program and mapping genes applied so far, for the backends to replay.
    """

    loops: tuple[Loop, ...]
    anchors: tuple[tuple[str, str], ...] = ()
    packs: tuple[tuple[str, int], ...] = ()
    pads_inline: bool = False
    rounded: int = 0
    genes: tuple[Gene, ...] = ()

    def anchor(self, role: str) -> str | None:
        """The loop at which the stage `role` is placed, if any."""
        return dict(self.anchors).get(role)

    def lanes(self, operand: str) -> int:
        """Lanes of the packed layout of `operand`, 0 when it is not packed."""
        return dict(self.packs).get(operand, 0)

    def computed(self, kept: int, groups: int) -> int:
        """Output channels that are computed where so many are kept, in so many groups."""
        lost = -(kept // groups) % self.rounded if self.rounded else 0
        return kept + groups * lost

    @property
    def flat(self) -> bool:
        """Whether all rows and columns were fused into one dimension."""
        return any(step.along(ROWS_AND_COLUMNS) for loop in self.loops for step in loop.steps)
