"""Register tiles of a statement and an estimate of what they cost: integers only, no TVM.

A tile is computed by one pass over the reduction loops, with its accumulators in vector
registers.  Either the lanes hold output channels, and weight vectors are multiplied with
broadcast inputs, or they hold neighbouring columns, and input vectors are multiplied with
broadcast weights.

The estimate counts issue slots of fused multiply-adds.  Its constants were fitted to measurements
on AVX-512 (Zen 4) of the layers of ResNet-18 and MobileNetV2 and their grouped variants.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backends.lowering.geometry import StatementForm

if TYPE_CHECKING:
    from backends.devices import CpuFeatures

CHAINS = 8
"""Accumulators needed to hide the latency of a multiply-add: 4 cycles on two pipes."""

MOST_ROWS = 8
MOST_COLUMNS = 28
MOST_CHANNELS = 64
MOST_BROADCAST_CHANNELS = 16
MOST_UNROLLED = 96
"""Multiply-adds in the body of the innermost reduction loop that stays a loop."""

TILE_SLOTS = 30.0
BROADCAST_SLOTS = 0.75
CROSSING_SLOTS = 2.0
"""A load of a whole vector that is not aligned reaches into a second cache line."""
STORE_SLOTS = 1.5
TRANSPOSE_SLOTS = 0.6
SCALAR_SLOTS = 1.0


@dataclass(frozen=True, slots=True)
class Tile:
    """What one pass over the reduction loops computes.

    Attributes:
        by_channel: Whether the lanes hold output channels, else columns.
        channels: Output channels.
        rows: Output rows; 1 when flat.
        columns: Output columns, or elements of the fused rows and columns.
        width: Columns (or channels) in the innermost, vectorized loop.
        flat: Whether rows and columns are fused.
    """

    by_channel: bool
    channels: int
    rows: int
    columns: int
    width: int
    flat: bool

    @property
    def elements(self) -> int:
        return self.channels * self.rows * self.columns


def tiles(form: StatementForm, cpu: CpuFeatures) -> list[Tile]:
    """Every tile whose accumulators fit the registers; at least one."""
    found = [*_channel_tiles(form, cpu), *_column_tiles(form, cpu)]
    return found or [Tile(False, 1, 1, 1, 1, False)]


def can_be_flat(form: StatementForm) -> bool:
    """Whether fused rows and columns read the input contiguously."""
    s, (rows, columns) = form.statement, form.spans
    single = s.kh.extent == s.kw.extent == rows.step == columns.step == 1
    return single and not form.pads and columns.size == s.columns > 1 and s.rows > 1


def vectors(width: int, lanes: int) -> int:
    """Registers of a vector of `width` elements: LLVM rounds up to a power of two."""
    return max(1, (1 << (width - 1).bit_length()) // lanes)


def pieces(width: int, lanes: int) -> tuple[int, int]:
    """Loads of a vector of `width` elements: (whole registers, parts of one)."""
    whole, rest = divmod(width, lanes)
    return whole, rest.bit_count()


def _channel_tiles(form: StatementForm, cpu: CpuFeatures) -> Iterator[Tile]:
    s = form.statement
    shapes = [(r, c, False) for r in _divisors(s.rows, MOST_ROWS) for c in _divisors(s.columns)]
    if can_be_flat(form):
        shapes += [(1, c, True) for c in _divisors(s.rows * s.columns)]
    for channels in _divisors(s.kept_co // s.groups, MOST_CHANNELS)[1:]:
        registers = vectors(channels, cpu.lanes)
        operands = registers + (registers > 1)
        for rows, columns, flat in shapes:
            if rows * columns * registers + operands <= cpu.registers:
                yield Tile(True, channels, rows, columns, channels, flat)


def _column_tiles(form: StatementForm, cpu: CpuFeatures) -> Iterator[Tile]:
    s = form.statement
    lines = [(s.columns, False, _divisors(s.rows, MOST_ROWS))]
    if can_be_flat(form):
        lines.append((s.rows * s.columns, True, [1]))
    channels = _divisors(s.kept_co // s.groups, MOST_BROADCAST_CHANNELS)
    for extent, flat, heights in lines:
        for width in _widths(extent, cpu.lanes):
            for count in _divisors(extent // width, 8):
                for rows in heights:
                    line = rows * count * vectors(width, cpu.lanes)
                    for c in channels:
                        if line * c + min(line, c) + 1 <= cpu.registers:
                            yield Tile(False, c, rows, count * width, width, flat)


def _widths(extent: int, lanes: int) -> list[int]:
    """Vector widths for a loop: whole and half registers, and the two largest divisors."""
    fitting = [d for d in _divisors(extent, 2 * lanes) if d > 1]
    whole = [d for d in fitting if d in (lanes, lanes // 2)]
    return sorted({*whole, *fitting[-2:]})


def _divisors(extent: int, most: int = MOST_COLUMNS) -> list[int]:
    return [d for d in range(1, min(extent, most) + 1) if extent % d == 0]


def tile_slots(form: StatementForm, cpu: CpuFeatures, tile: Tile) -> float:
    """Slots that one tile takes: the reduction and the write-back."""
    s = form.statement
    reduction = s.inputs.count * s.kh.extent * s.kw.extent
    registers = vectors(tile.width, cpu.lanes)
    if tile.by_channel:
        pixels = tile.rows * tile.columns
        accumulators = pixels * registers
        weights = sum(pieces(tile.channels, cpu.lanes))
        loads = BROADCAST_SLOTS * pixels + weights * _weight_load_slots(reduction, cpu, tile)
        written = (TRANSPOSE_SLOTS if tile.columns > 2 else SCALAR_SLOTS) * tile.elements
    else:
        lines = tile.rows * (tile.columns // tile.width)
        accumulators = lines * registers * tile.channels
        loads = BROADCAST_SLOTS * tile.channels + lines * _line_load_slots(form, cpu, tile)
        written = STORE_SLOTS * lines * tile.channels * sum(pieces(tile.width, cpu.lanes))
    return TILE_SLOTS + reduction * max(accumulators, loads, CHAINS) + written


def _weight_load_slots(reduction: int, cpu: CpuFeatures, tile: Tile) -> float:
    size = 4 * tile.channels * reduction
    if size <= cpu.l1_bytes:
        return 1.0
    return 1.5 if size <= cpu.l2_bytes else 3.0


def _line_load_slots(form: StatementForm, cpu: CpuFeatures, tile: Tile) -> float:
    """Loading the columns of one row that a vector holds, for one tap."""
    s = form.statement
    whole, parts = pieces(tile.width, cpu.lanes)
    if s.kw.extent == 1:
        return whole + parts
    slots = CROSSING_SLOTS * whole + parts
    unrolled = s.kh.extent * s.kw.extent * tile.elements // tile.width <= MOST_UNROLLED
    if unrolled and tile.rows > 1 and s.inputs.count == 1:
        # Rows that several taps read are loaded once.
        slots *= (tile.rows + s.kh.extent - 1) / (tile.rows * s.kh.extent)
    return slots
