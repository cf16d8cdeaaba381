"""Replay of a statement's genes on its blocks, for a GPU.

Padding is computed where it is read, by the convolution or by what fetches its input: there is
no copy of the input in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tvm import s_tir

from backends.lowering.geometry import StatementForm
from backends.lowering.gpu.stages import bind_root_write, fetch_together, unroll_write_back
from backends.lowering.schedule import LAYOUT, STRUCTURE, Phases, Replay
from genomes.schedule import Loop
from genomes.transformations.mapping import MAX_THREADS


class GpuReplay(Replay):
    """The genes of one statement, applied to its blocks in `sch`, for a GPU."""

    device = "GPU"

    def __init__(self, sch: s_tir.Schedule, form: StatementForm) -> None:
        super().__init__(sch, form)
        source = f"padded_{form.index}" if form.pads else "input"
        self._sources = {"input": source, "weight": f"weight_{form.argument}"}

    def _phases(self) -> Phases:
        return _PHASES

    def _after(self, phase: Mapping[str, Callable[..., None]]) -> None:
        if "bind" in phase:
            self._bind_rest()
        elif "prefetch" in phase and self._pad is not None:
            self._sch.compute_inline(self._pad)

    def _bind(self, loop: str, axis: str) -> None:
        self._sch.bind(self._loops[loop], axis)

    def _bind_rest(self) -> None:
        """Give a statement without blocks and threads some: whatever its first loops are."""
        if any(x.bound.startswith(("blockIdx", "threadIdx")) for x in self._form.schedule.loops):
            return
        free = self._bindable()
        if not free:
            unit = self._sch.add_unit_loop(self._sch.get_loops(self._conv)[0])
            self._sch.bind(unit, "blockIdx.x")
            return
        self._sch.bind(self._loops[free[0].name], "blockIdx.x")
        if free[1:] and free[1].extent <= MAX_THREADS:
            self._sch.bind(self._loops[free[1].name], "threadIdx.x")

    def _bindable(self) -> list[Loop]:
        """The unmarked loops around all stages, reductions and marked loops, outermost first."""
        schedule = self._form.schedule
        free = []
        for loop in schedule.loops:
            here = [role for role, name in schedule.anchors if name == loop.name]
            if loop.reduction or (loop.mark and not loop.bound) or "decompose" in here:
                break
            if not loop.mark and loop.extent > 1:
                free.append(loop)
            if here:
                break
        return free

    def _cache_write(self, loop: str) -> None:
        self._sch.set_scope(self._conv, 0, "local")
        self._sch.reverse_compute_at(self._write, self._loops[loop], preserve_unit_loops=True)
        unroll_write_back(self._sch, self._write, self._form.write_axes)

    def _shared_read(self, operand: str, loop: str) -> None:
        stage, axes = self._fetch(operand, loop, "shared")
        bound = {x.bound: x.extent for x in self._form.schedule.loops}
        fetch_together(self._sch, stage, axes, bound)

    def _prefetch(self, operand: str, loop: str) -> None:
        self._fetch(operand, loop, "local")

    def _fetch(self, operand: str, loop: str, scope: str) -> tuple[Any, int]:
        """Read an operand through a buffer that is filled at a loop: (its block, dimensions)."""
        buffer = self._sources[operand]
        stage = self._sch.cache_read(self._conv, buffer, scope)
        self._sources[operand] = f"{buffer}_{scope}"
        self._sch.compute_at(stage, self._loops[loop], preserve_unit_loops=True)
        return stage, len(self._sch.get(stage).iter_vars)

    def _schedule_root_write(self) -> None:
        bind_root_write(self._sch, self._write)


_PHASES: Phases = (
    STRUCTURE,
    {"bind": GpuReplay._bind},
    {"cache_write": GpuReplay._cache_write},
    {"shared_read": GpuReplay._shared_read},
    {"prefetch": GpuReplay._prefetch},
    {"unroll": GpuReplay._unroll, "vectorize": GpuReplay._vectorize},
    *LAYOUT,
)

LOWERED = frozenset(op for phase in _PHASES for op in phase)
"""Names of the schedule transformations that become part of a GPU kernel."""
