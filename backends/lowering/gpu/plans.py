"""GPU schedules of a statement in outline, ranked by an estimate: integers only, no TVM.

The constants of the estimate are fitted to 130 kernels that were measured on an H200, 108 of which
are recorded: experiments/gpu.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import ceil
from typing import TYPE_CHECKING

from backends.lowering.geometry import StatementForm
from backends.lowering.gpu.limits import FLOAT_BYTES, MAX_THREADS_Z

if TYPE_CHECKING:
    from backends.gpus import GpuFeatures

MOST_THREADS = 256
MOST_COLUMNS = 32
MOST_ROWS = 16
VIRTUAL_ROWS = (1, 2)
VIRTUAL_COLUMNS = (1, 2, 4)
CHANNELS_EACH = (1, 2, 4, 8)
INPUTS = (4, 8, 16)
FEW_INPUTS = (1, 2)
"""Input channels of a fetch; few where the others do not divide them."""

SHARED_SLOTS = 4.0
GLOBAL_SLOTS = 17.0
"""What a load costs, in multiply-adds: from shared memory, or through the caches, or a store."""

SECTOR = 8
"""Neighbouring elements that are loaded together, whether they are needed or not."""

FETCH_SLOTS = 60.0
"""What a thread's fetch of one element into shared memory costs, its address included."""

FETCH_LATENCY = 80.0
"""What the threads of a block wait for a fetch, in cycles, before any of them goes on."""

BRANCH_LATENCY = 440.0
"""What they wait for each element that a thread fetches where not all threads fetch as many: there
is a branch around each then, and the next is not asked for before the last has come."""

READ_LATENCY = 26.0
"""What a thread waits, in cycles, for the operands of one input channel, through the caches."""

READ_AHEAD = 4
"""Input channels that are read at a time where there is only one tap."""

LAUNCH = 4800.0
"""Cycles that a kernel takes whatever it does."""

STALL = 5.0
"""Cycles after which a thread can add to the result of a multiply-add."""

SCHEDULERS = 4
"""Warps of a multiprocessor that can go on in one cycle."""

L2_BYTES = 32
"""Bytes that a multiprocessor gets from the second-level cache in one cycle."""

OTHER_REGISTERS = 32
"""Registers of a thread beside those for what it computes: addresses and counters."""


@dataclass(frozen=True, slots=True)
class GpuPlan:
    """A schedule in outline: what a block and what a thread of it compute.

    Attributes:
        channels, rows, columns: Threads of a block along each.
        channels_each: Neighbouring output channels of one thread, in registers.
        rows_each, columns_each: Rows and columns of one thread: its virtual threads.
        inputs: Input channels between two fetches into shared memory; all of them are read
            where they are when it is 0.
    """

    channels: int
    rows: int
    columns: int
    channels_each: int
    rows_each: int
    columns_each: int
    inputs: int

    @property
    def threads(self) -> int:
        return self.channels * self.rows * self.columns

    @property
    def channels_of_block(self) -> int:
        return self.channels * self.channels_each

    @property
    def rows_of_block(self) -> int:
        return self.rows * self.rows_each

    @property
    def columns_of_block(self) -> int:
        return self.columns * self.columns_each

    @property
    def each(self) -> int:
        """Elements that a thread accumulates."""
        return self.channels_each * self.pixels_each

    @property
    def pixels_each(self) -> int:
        return self.rows_each * self.columns_each


def ranked_plans(form: StatementForm, gpu: GpuFeatures) -> list[GpuPlan]:
    """Plans for a statement that keep the limits of a GPU, the best estimate first."""
    most = gpu.max_shared_bytes
    plans = [plan for plan in _plans(form, gpu) if shared_bytes(form, plan) <= most]
    return sorted(plans, key=lambda plan: (cycles(form, gpu, plan), plan.threads))


def shared_bytes(form: StatementForm, plan: GpuPlan) -> int:
    """Shared memory of a block, in bytes."""
    return FLOAT_BYTES * sum(_fetched(form, plan))


def blocks_of(form: StatementForm, plan: GpuPlan) -> int:
    """Blocks of the kernel."""
    s = form.statement
    channels = s.kept_co // plan.channels_of_block
    pixels = (s.rows // plan.rows_of_block) * (s.columns // plan.columns_of_block)
    return form.batch * channels * pixels


def cycles(form: StatementForm, gpu: GpuFeatures, plan: GpuPlan) -> float:
    """Estimated clock cycles of the kernel."""
    warps = ceil(plan.threads / gpu.warp)
    steps, work, read = _work(form, plan)
    here = ceil(blocks_of(form, plan) / gpu.multiprocessors)
    together = min(here, _resident(form, gpu, plan))
    busy = work * together * warps / SCHEDULERS
    alone = max(work, STALL * steps) + _waits(form, plan)
    traffic = together * read * FLOAT_BYTES / L2_BYTES
    return LAUNCH + ceil(here / together) * max(busy, alone, traffic)


def _waits(form: StatementForm, plan: GpuPlan) -> float:
    """Cycles in which a thread waits for operands."""
    count, kh, kw = form.statement.weight_shape[1:]
    if not plan.inputs:
        return READ_LATENCY * (count if kh * kw > 1 else ceil(count / READ_AHEAD))
    branches = sum(ceil(n / plan.threads) for n in _fetched(form, plan) if n % plan.threads)
    return count // plan.inputs * (FETCH_LATENCY + BRANCH_LATENCY * branches)


def _work(form: StatementForm, plan: GpuPlan) -> tuple[int, float, float]:
    """A thread's steps and slots, and the elements that its block reads."""
    count, kh, kw = form.statement.weight_shape[1:]
    steps = count * kh * kw
    apart = SECTOR / min(SECTOR, _side_by_side(form, plan))
    stores = GLOBAL_SLOTS * apart * plan.each
    if not plan.inputs:
        # What the threads of a block read in common comes from the first-level cache.
        distinct = plan.channels_of_block + plan.rows_of_block * plan.columns_of_block * apart
        loads = GLOBAL_SLOTS * (plan.channels_each + plan.pixels_each * apart)
        return steps, steps * (plan.each + loads) + stores, steps * distinct
    fetches, fetched = count // plan.inputs, sum(_fetched(form, plan))
    work = steps * (plan.each + SHARED_SLOTS * (plan.channels_each + plan.pixels_each)) + stores
    work += fetches * FETCH_SLOTS * ceil(fetched / plan.threads)
    return steps, work, fetches * fetched


def _side_by_side(form: StatementForm, plan: GpuPlan) -> int:
    """Threads that neighbour each other in a row of the output, or in whole rows of it."""
    whole = plan.columns == form.statement.columns
    return plan.columns * (plan.rows if whole else 1)


def _fetched(form: StatementForm, plan: GpuPlan) -> tuple[int, int]:
    """Elements in shared memory: (of the input, of the weights)."""
    if not plan.inputs:
        return 0, 0
    s, (rows, columns) = form.statement, form.spans
    # A copy would hold the channels that are read; the input itself has others between them.
    stride = 1 if form.pads else s.inputs.stride
    height = (plan.rows_of_block - 1) * rows.step + (s.kh.extent - 1) * rows.dilation + 1
    width = (plan.columns_of_block - 1) * columns.step + (s.kw.extent - 1) * columns.dilation + 1
    channels = (plan.inputs - 1) * stride + 1
    weights = plan.channels_of_block * plan.inputs * s.kh.extent * s.kw.extent
    return channels * height * width, weights


def _resident(form: StatementForm, gpu: GpuFeatures, plan: GpuPlan) -> int:
    """Blocks that one multiprocessor holds at a time."""
    registers = plan.each + plan.channels_each + plan.pixels_each + OTHER_REGISTERS
    by_threads = gpu.threads_each // plan.threads
    by_registers = gpu.registers_each // (plan.threads * registers)
    shared = shared_bytes(form, plan)
    by_shared = gpu.shared_each // shared if shared else by_threads
    return max(1, min(by_threads, by_registers, by_shared))


def _plans(form: StatementForm, gpu: GpuFeatures) -> Iterator[GpuPlan]:
    """All plans; blocks of less than a warp only where there are no others."""
    shapes = list(_shapes(form, gpu))
    for shape in [plan for plan in shapes if plan.threads >= gpu.warp] or shapes:
        for inputs in _inputs(form, shape.channels_of_block):
            yield replace(shape, inputs=inputs)


def _shapes(form: StatementForm, gpu: GpuFeatures) -> Iterator[GpuPlan]:
    """What a block and a thread of it can compute, without fetches."""
    s = form.statement
    most = min(MOST_THREADS, gpu.max_threads)
    channels = _channels(form)
    rows = _tiles(s.rows, MOST_ROWS, VIRTUAL_ROWS)
    columns = _tiles(s.columns, MOST_COLUMNS, VIRTUAL_COLUMNS)
    for (x, columns_each), (y, rows_each) in product(columns, rows):
        if rows_each * columns_each > gpu.max_vthreads:
            continue
        for z, channels_each in channels:
            if x * y * z <= most:
                yield GpuPlan(z, y, x, channels_each, rows_each, columns_each, 0)


def _channels(form: StatementForm) -> list[tuple[int, int]]:
    """(threads, channels of each) along the output channels: whole groups, or parts of one."""
    s = form.statement
    group = s.kept_co // s.groups
    return [
        (threads, each)
        for threads, each in _tiles(s.kept_co, MAX_THREADS_Z, CHANNELS_EACH)
        if group % (threads * each) == 0 or (threads * each % group == 0 == group % each)
    ]


def _inputs(form: StatementForm, channels: int) -> list[int]:
    """Input channels of a fetch; 0 where nothing is fetched."""
    s = form.statement
    if channels > s.kept_co // s.groups:
        return [0]
    count = s.inputs.count
    usual, few = (
        [n for n in some if n < count and count % n == 0] for some in (INPUTS, FEW_INPUTS)
    )
    return [0, *(usual or few)]


def _tiles(extent: int, most: int, each: tuple[int, ...]) -> list[tuple[int, int]]:
    """(threads, elements of each) whose product divides `extent`."""
    return [
        (threads, virtual)
        for threads in range(1, min(extent, most) + 1)
        for virtual in each
        if extent % (threads * virtual) == 0
    ]
