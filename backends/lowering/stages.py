"""Fixed rules for the stages that genes do not describe: padding and write-back."""

from __future__ import annotations

from typing import Any

from tvm import s_tir

from backends.lowering.geometry import PARALLEL_ELEMENTS, StatementForm

MAX_VECTOR = 64


def schedule_root_pad(sch: s_tir.Schedule, pad: Any, form: StatementForm) -> None:
    """Pad before the convolution: channels in parallel."""
    if form.pads_in_parallel:
        n, c, _ = sch.get_loops(pad)
        sch.parallel(sch.fuse(n, c))


def schedule_root_write(sch: s_tir.Schedule, write: Any, form: StatementForm) -> None:
    """Write the repeated elements after the convolution: channels in parallel."""
    s = form.statement
    elements = form.batch * s.co.extent * s.ho.extent * s.wo.extent
    if elements >= PARALLEL_ELEMENTS:
        outer = sch.get_loops(write)[: 3 if s.repeats_channels > 1 else 2]
        sch.parallel(sch.fuse(*outer))


def schedule_write_back(sch: s_tir.Schedule, write: Any, form: StatementForm) -> None:
    """Write a tile of the accumulator to the output: one row of the tile is one vector.

    Left alone, LLVM vectorizes over channels and scatters, 20 % of a 3x3 convolution's time.
    """
    row = sch.get_loops(write)[-1]
    if 2 <= int(sch.get(row).extent) <= MAX_VECTOR:
        sch.vectorize(row)
