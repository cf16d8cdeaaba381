"""Replay of a statement's schedule genes on its blocks, as `s_tir.Schedule` primitives.

Genes may come in any order that respects the loops they name; TVM's primitives may not (a split
drops a vectorization, a decomposed reduction cannot be marked).  So the replay has phases:
structure in gene order, then the stages placed at loops, then marks, then layouts, and the
decomposition of the reduction last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tvm import s_tir

from backends.lowering import stages
from backends.lowering.errors import LoweringError
from backends.lowering.geometry import StatementForm
from genomes.gene import Gene
from genomes.nest import REDUCTION_LOOPS, SPATIAL_LOOPS

TVM_REFUSALS = (s_tir.ScheduleError, ValueError, TypeError, IndexError)
"""What primitives raise when they do not apply."""

Phases = Sequence[Mapping[str, Callable[..., None]]]
"""Methods of a replay by the gene that they apply, phase by phase."""


class Replay:
    """The genes of one statement, applied to its blocks in `sch`, for a CPU."""

    device = "CPU"

    def __init__(self, sch: s_tir.Schedule, form: StatementForm) -> None:
        self._sch = sch
        self._form = form
        self._conv = sch.get_sblock(f"conv_{form.index}")
        self._write = sch.get_sblock(f"write_{form.index}") if form.accumulates else None
        self._pad = sch.get_sblock(f"pad_{form.index}") if form.pads_at_loop else None
        names = (*SPATIAL_LOOPS, *REDUCTION_LOOPS)
        self._loops: dict[str, Any] = dict(zip(names, sch.get_loops(self._conv), strict=True))
        self._pad_is_placed = False

    def run(self) -> None:
        """Apply every gene, and the fixed rule for a write-back that no gene places.

        Raises:
            LoweringError: TVM refuses a gene.
        """
        phases, genes = self._phases(), self._form.schedule.genes
        lowered = frozenset(op for phase in phases for op in phase)
        for gene in genes:
            if gene.op not in lowered:
                known = ", ".join(sorted(lowered))
                raise LoweringError(f"{gene} does not lower to a {self.device} kernel; {known} do")
        for phase in phases:
            for gene in genes:
                if gene.op in phase:
                    self._apply(gene, phase[gene.op])
            self._after(phase)
        if self._write is not None and self._form.schedule.anchor("cache_write") is None:
            self._schedule_root_write()

    def _phases(self) -> Phases:
        return _PHASES

    def _after(self, phase: Mapping[str, Callable[..., None]]) -> None:
        """What follows the genes of a phase, whatever they are."""

    def _schedule_root_write(self) -> None:
        stages.schedule_root_write(self._sch, self._write, self._form)

    def _apply(self, gene: Gene, step: Callable[..., None]) -> None:
        try:
            step(self, **gene.arguments)
        except TVM_REFUSALS as error:
            # The gene's own index is from before later genes split other statements.
            named = replace(gene, statement=self._form.index)
            raise LoweringError(f"{named} does not lower: {first_line(error)}") from error

    def _round_up(self, factor: int) -> None:
        """Nothing is left to do: the blocks were emitted with so many channels."""

    def _split(self, loop: str, factor: int) -> None:
        outer, inner = self._sch.split(self._loops.pop(loop), [None, factor])
        self._loops[f"{loop}.0"], self._loops[f"{loop}.1"] = outer, inner

    def _tile(self, loops: tuple[str, str], rows: int, columns: int) -> None:
        for loop, factor in zip(loops, (rows, columns), strict=True):
            self._split(loop, factor)
        self._interchange(tuple(f"{loop}.{half}" for half in (0, 1) for loop in loops))

    def _interchange(self, order: tuple[str, ...]) -> None:
        self._sch.reorder(*(self._loops[name] for name in order))

    def _fuse(self, loops: tuple[str, ...]) -> None:
        self._loops["+".join(loops)] = self._sch.fuse(*(self._loops.pop(name) for name in loops))

    def _cache_write(self, loop: str) -> None:
        self._sch.reverse_compute_at(self._write, self._loops[loop], preserve_unit_loops=True)
        stages.schedule_write_back(self._sch, self._write, self._form)

    def _prefetch(self, operand: str, loop: str) -> None:
        reader, buffer = self._conv, "input"
        if operand == "weight":
            buffer = f"weight_{self._form.argument}"
        elif self._pads_inside(loop):
            self._place_pad()
            reader = self._pad
        elif self._form.pads:
            buffer = f"padded_{self._form.source}"
        stage = self._sch.cache_read(reader, buffer, "global")
        self._sch.compute_at(stage, self._loops[loop], preserve_unit_loops=True)
        if reader is not self._pad:
            # What is to be padded is fetched under conditions: it may lie outside of the input.
            stages.vectorize_fetch(self._sch, stage)

    def _pads_inside(self, loop: str) -> bool:
        """Whether the padding is computed inside `loop`, so that the raw input is fetched."""
        names = [x.name for x in self._form.schedule.loops]
        pad = self._form.schedule.anchor("pad")
        return self._pad is not None and names.index(pad or loop) > names.index(loop)

    def _compute_at(self, loop: str) -> None:
        self._place_pad()

    def _compute_inline(self) -> None:
        if self._pad is not None:
            self._sch.compute_inline(self._pad)

    def _place_pad(self) -> None:
        anchor = self._form.schedule.anchor("pad")
        if self._pad is not None and anchor is not None and not self._pad_is_placed:
            self._sch.compute_at(self._pad, self._loops[anchor], preserve_unit_loops=True)
            stages.schedule_padding(self._sch, self._pad, self._form)
            self._pad_is_placed = True

    def _parallel(self, loop: str) -> None:
        self._sch.parallel(self._loops[loop])

    def _unroll(self, loop: str) -> None:
        self._sch.unroll(self._loops[loop])

    def _vectorize(self, loop: str) -> None:
        self._sch.vectorize(self._loops[loop])

    def _pack(self, operand: str, lanes: int) -> None:
        if operand == "weight":
            return

        def layout(n: Any, co: Any, *at: Any) -> list[Any]:
            return [n, co // lanes, *at, co % lanes]

        self._sch.transform_layout(self._conv, ("write", 0), layout)

    def _decompose_reduction(self, loop: str) -> None:
        self._sch.decompose_reduction(self._conv, self._loops[loop])


STRUCTURE: dict[str, Callable[..., None]] = {
    "split": Replay._split,
    "tile": Replay._tile,
    "interchange": Replay._interchange,
    "fuse": Replay._fuse,
}
"""The first phase, on any device."""

LAYOUT: Phases = ({"pack": Replay._pack}, {"decompose_reduction": Replay._decompose_reduction})
"""The last phases, on any device."""

_PHASES: Phases = (
    STRUCTURE | {"round_up": Replay._round_up},
    {"cache_write": Replay._cache_write},
    {"prefetch": Replay._prefetch},
    {"compute_at": Replay._compute_at, "compute_inline": Replay._compute_inline},
    {
        "parallel": Replay._parallel,
        "unroll": Replay._unroll,
        "vectorize": Replay._vectorize,
    },
    *LAYOUT,
)


def first_line(error: BaseException) -> str:
    """The sentence of a TVM error that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
