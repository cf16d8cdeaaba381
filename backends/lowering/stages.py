"""Fixed rules for the stages that genes do not describe: padding and write-back."""

from __future__ import annotations

from math import gcd, prod
from typing import Any

from tvm import s_tir, tirx

from backends.lowering.geometry import PARALLEL_ELEMENTS, StatementForm
from genomes.nest import REDUCTION_LOOPS

MAX_VECTOR = 64
MOST_UNROLLED = 512
SHORT_REDUCTION = 64
PAD_AXES = 5
MOST_PADDED_COLUMNS = 256
MOST_PADDED_VECTORS = 64


def schedule_copy(sch: s_tir.Schedule, form: StatementForm) -> None:
    """Pad before the convolution: channels in parallel."""
    pad = sch.get_sblock(f"pad_{form.index}")
    vectorize_copy(sch, pad, form)
    if form.pads_in_parallel:
        n, c, row, *_ = sch.get_loops(pad)
        sch.parallel(sch.fuse(n, c, row) if form.copy_lanes else sch.fuse(n, c))


def vectorize_copy(sch: s_tir.Schedule, pad: Any, form: StatementForm) -> None:
    """Copy a block of channels at a time, unless TVM cannot prove how many of it are read."""
    *_, lane = sch.get_loops(pad)
    if form.copy_lanes and _extents(sch, [lane]):
        sch.vectorize(lane)


def schedule_padding(sch: s_tir.Schedule, pad: Any, form: StatementForm) -> None:
    """Pad inside a loop: rows as vectors; those of one tap as they are read, without a loop.

    LLVM then keeps what is read for one tap in registers.
    """
    if form.copy_lanes:
        vectorize_copy(sch, pad, form)
        return
    *outer, row = sch.get_loops(pad)[-PAD_AXES:]
    (extent,) = _extents(sch, [row]) or (MOST_PADDED_COLUMNS + 1,)
    if form.schedule.anchor("pad") in REDUCTION_LOOPS:
        read = [x.extent for x in form.schedule.loops if x.mark == "vectorize"]
        if read and extent % read[0] == 0:
            vectors, row = sch.split(row, [None, read[0]])
            outer.append(vectors)
        trips = _extents(sch, outer)
        if trips and prod(trips) <= MOST_PADDED_VECTORS:
            for loop in outer:
                sch.unroll(loop)
    if extent <= MOST_PADDED_COLUMNS:
        sch.vectorize(row)


def vectorize_fetch(sch: s_tir.Schedule, stage: Any) -> None:
    """Copy an operand inside a loop: rows as vectors, where TVM knows their length."""
    *_, row = sch.get_loops(stage)
    (extent,) = _extents(sch, [row]) or (1,)
    width = _widest(extent)
    if 1 < width < extent:
        _, row = sch.split(row, [None, width])
    if width > 1:
        sch.vectorize(row)


def _extents(sch: s_tir.Schedule, loops: list[Any]) -> list[int] | None:
    """Trip counts; None where TVM does not find that one is the same in all iterations."""
    extents = [sch.get(loop).extent for loop in loops]
    if not all(isinstance(extent, tirx.IntImm) for extent in extents):
        return None
    return [int(extent) for extent in extents]


def schedule_root_write(sch: s_tir.Schedule, write: Any, form: StatementForm) -> None:
    """Write the output after the convolution: channels in parallel."""
    if form.written_elements >= PARALLEL_ELEMENTS:
        outer = sch.get_loops(write)[: 3 if form.statement.repeats_channels > 1 else 2]
        sch.parallel(sch.fuse(*outer))


def schedule_write_back(sch: s_tir.Schedule, write: Any, form: StatementForm) -> None:
    """Write a tile of the accumulator to the output, row by row as vectors.

    Left alone, LLVM vectorizes over channels and scatters: 20 % of a 3x3 convolution's time.
    A packed accumulator is transposed on the way, best without any loop; that takes longer to
    compile and pays when the reduction is short.
    """
    loops = sch.get_loops(write)[-form.write_axes :]
    extents = [int(sch.get(loop).extent) for loop in loops]
    packed = form.schedule.lanes("accumulator") and not form.output_lanes
    if packed and _transposes_unrolled(form, prod(extents)):
        for loop in loops:
            sch.unroll(loop)
        return
    if form.output_lanes:
        _store_blocks(sch, loops, extents, form)
        return
    row, extent = loops[-1], extents[-1]
    if form.statement.repeat_wo > 1:
        row, extent = sch.fuse(*loops[-2:]), extents[-2] * extents[-1]
    width = _row_width(form, extent)
    if width > 1:
        _, vector = sch.split(row, [None, width])
        sch.vectorize(vector)


def _store_blocks(
    sch: s_tir.Schedule, loops: list[Any], extents: list[int], form: StatementForm
) -> None:
    """Write back to a packed output: whole blocks of channels, innermost."""
    at = 2 if form.statement.repeats_channels > 1 else 1
    width = gcd(extents[at], form.output_lanes)
    if form.rounds:  # what is lost ends with a vector
        width = gcd(width, form.kept_channels, form.statement.co.start)
    outer, lane = sch.split(loops[at], [None, width])
    sch.reorder(outer, *loops[at + 1 :], lane)
    if width > 1:
        sch.vectorize(lane)


def _transposes_unrolled(form: StatementForm, elements: int) -> bool:
    count, kh, kw = form.statement.weight_shape[1:]
    return count * kh * kw <= SHORT_REDUCTION and elements <= MOST_UNROLLED


def _row_width(form: StatementForm, extent: int) -> int:
    """Elements of one vector of the write-back: as computed, or all that divides the row."""
    computed = [x.extent for x in form.schedule.loops if x.mark == "vectorize"]
    if computed and not form.schedule.lanes("accumulator") and extent % computed[0] == 0:
        return computed[0]
    return _widest(extent)


def _widest(extent: int) -> int:
    """The longest vector that divides a row."""
    return max(d for d in range(1, MAX_VECTOR + 1) if extent % d == 0)
