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
from math import ceil
from typing import TYPE_CHECKING

from backends.lowering.geometry import StatementForm
from backends.lowering.traffic import weight_load_slots

if TYPE_CHECKING:
    from backends.devices import CpuFeatures

CHAINS = 8.5
"""Accumulators needed to hide the latency of a multiply-add: 4 cycles on two pipes, and a little
more, as with exactly eight every delay of one of them delays all."""

MOST_ROWS = 8
MOST_COLUMNS = 28
MOST_CHANNELS = 64
MOST_WIDE = 4
"""Registers of a vector that is a whole row of a depthwise convolution."""
MOST_BROADCAST_CHANNELS = 16
TRIPLE = 3
"""Registers of channels that are loops of their own: 48 channels are no vector that LLVM likes.
With 16 lanes also halves of registers, where the channels are no multiple of a whole one: 24."""
MOST_UNROLLED = 96
"""Multiply-adds in the body of the innermost reduction loop that stays a loop."""

MOST_READ_IN_PLACE = 8
"""Input channels of a group for which no padded copy is made: every tap of each is masked."""

TILE_SLOTS = 25.0
PRESSURE = 0.02
"""Loads cost a little even where multiply-adds decide."""
BROADCAST_SLOTS = 0.75
LINE_LANES = 16
CROSSING_SLOTS = 2.0
"""A load of a whole cache line that is not aligned reaches into a second one; shorter loads do so
less often."""
DEALT_SLOTS = 1.2
"""The same with columns dealt out by the stride: only every other tap is shifted."""
FRESH_SLOTS = 3.0
"""The same when the line was written just before, by the padding of a depthwise convolution."""
IN_PLACE_SLOTS = 1.6
"""The same where padding is read in place: nothing was just written, every third is aligned."""
STRIDED_SLOTS = 1.75
"""Loading a register of which every second element is kept, and shuffling."""
IN_PLACE_TILE_SLOTS = 4.0
MASK_SLOTS = 1.6
"""What a step of a dense convolution costs more when all its rows may be padding; half of that
when there are four or more, of which only the first and the last may be."""
STORE_SLOTS = 1.5
TRANSPOSE_SLOTS = 0.6
SCALAR_SLOTS = 1.0
ODD_WIDTH = 1.3
"""Vectors of, say, 12 elements cost more than one register does."""


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

    @property
    def by_columns(self) -> bool:
        """Whether the lanes hold columns."""
        return not self.by_channel and self.width > 1

    def deals(self, form: StatementForm) -> bool:
        """Whether it reads a copy whose columns are dealt out by the stride."""
        return self.by_columns and form.spans[1].step > 1

    def unpacks(self, form: StatementForm) -> bool:
        """Whether it reads a copy in which the channels of a block are taken apart."""
        return self.by_columns and form.input_lanes > 0

    def reads_copy(self, form: StatementForm) -> bool:
        """Whether it reads a copy of the input, with its padding or in another layout."""
        return form.pads or self.deals(form) or self.unpacks(form)

    def copied_plane(self, form: StatementForm) -> tuple[int, int]:
        """Rows and columns of a channel of that copy: those between what one tap reads are left
        out where columns are dealt out."""
        s, (rows, columns), deals = form.statement, form.spans, self.deals(form)
        return (
            s.rows if deals and s.kh.extent == 1 else rows.span,
            s.columns if deals and s.kw.extent == 1 else columns.span,
        )

    def read_plane(self, form: StatementForm, in_place: bool = False) -> tuple[int, int]:
        """Rows and columns of a channel, of that copy or of the input, that one tile reads."""
        s, (rows, columns) = form.statement, form.spans
        deals = self.deals(form) and not in_place
        height = (self.rows - 1) * rows.step + (s.kh.extent - 1) * rows.dilation + 1
        width = (self.columns - 1) * columns.step + (s.kw.extent - 1) * columns.dilation + 1
        return (
            self.rows if deals and s.kh.extent == 1 else height,
            self.columns if deals and s.kw.extent == 1 else width,
        )

    def crosses_rows(self, form: StatementForm) -> bool:
        """Whether it is no part of a row nor several rows."""
        columns = form.statement.columns
        return self.flat and self.columns % columns > 0 and columns % self.columns > 0


def tiles(form: StatementForm, cpu: CpuFeatures) -> list[Tile]:
    """Every tile whose accumulators fit the registers; at least one."""
    found = [*_channel_tiles(form, cpu), *_column_tiles(form, cpu)]
    return found or [Tile(False, 1, 1, 1, 1, False)]


def can_be_flat(form: StatementForm) -> bool:
    """Whether fused rows and columns read the input contiguously."""
    s, (rows, columns) = form.statement, form.spans
    single = s.kh.extent == s.kw.extent == rows.step == columns.step == 1
    return single and not form.pads and columns.size == s.columns > 1 and s.rows > 1


def reads_in_place(form: StatementForm, cpu: CpuFeatures, tile: Tile) -> bool:
    """Whether vectors of columns are loaded with their padding, under masks."""
    columns = form.spans[1]
    masked = cpu.lanes >= LINE_LANES and form.pads and form.zeros and columns.step <= 2
    if form.input_lanes or form.statement.inputs.count > MOST_READ_IN_PLACE:
        return False
    return masked and not tile.by_channel and tile.width > 1


def leaves_out(form: StatementForm, cpu: CpuFeatures, tile: Tile) -> bool:
    """Whether a tile reads its input in place and leaves out the multiply-adds with padding.

    With conditions LLVM begins to spill where more than half of the registers accumulate, where
    those on rows and on columns cross, with some rows of many, and where the input that the taps
    of a row share does not fit beside the accumulators.
    """
    s = form.statement
    accumulators = tile.elements // tile.width * ceil(tile.width / cpu.lanes)
    if 2 * accumulators > cpu.registers or tile.rows not in (1, s.rows):
        return False
    shared = tile.columns + s.kw.extent - 1
    if tile.columns < s.columns and accumulators + shared > cpu.registers:
        return False
    return form.pads and form.zeros and tile.by_channel


def pieces(width: int, lanes: int) -> tuple[int, int]:
    """Loads of a vector of `width` elements: (whole registers, parts of one)."""
    whole, rest = divmod(width, lanes)
    return whole, rest.bit_count()


def _most_accumulators(cpu: CpuFeatures) -> int:
    """With more of them LLVM begins to spill, though they would fit."""
    return cpu.registers * 3 // 4


def _channel_tiles(form: StatementForm, cpu: CpuFeatures) -> Iterator[Tile]:
    s = form.statement
    most = _most_accumulators(cpu)
    shapes = [(r, c, False) for r in _divisors(s.rows, MOST_ROWS) for c in _divisors(s.columns)]
    if can_be_flat(form):
        shapes += [(1, c, True) for c in _divisors(s.rows * s.columns)]
    for channels, width in _channel_widths(form, cpu):
        registers = channels // width * ceil(width / cpu.lanes)
        operands = registers + (registers > 1)
        for rows, columns, flat in shapes:
            accumulators = rows * columns * registers
            if accumulators <= most and accumulators + operands <= cpu.registers:
                yield Tile(True, channels, rows, columns, width, flat)


def _channel_widths(form: StatementForm, cpu: CpuFeatures) -> list[tuple[int, int]]:
    """(channels, vector width): channels that read the same inputs, or a depthwise block."""
    s = form.statement
    per_group = form.group_channels
    if s.groups > 1 and per_group == s.inputs.count == 1 and form.copy_lanes:
        return [(form.copy_lanes, form.copy_lanes)]
    found = [(channels, channels) for channels in _widths(per_group, MOST_CHANNELS, cpu)]
    widths = (cpu.lanes, cpu.lanes // 2) if cpu.lanes == LINE_LANES else (cpu.lanes,)
    width = next((w for w in widths if per_group % w == 0), 0)
    if width and per_group % (TRIPLE * width) == 0:
        found.append((TRIPLE * width, width))
    return found


def _column_tiles(form: StatementForm, cpu: CpuFeatures) -> Iterator[Tile]:
    s = form.statement
    most = _most_accumulators(cpu)
    lines = [(s.columns, False, _divisors(s.rows, MOST_ROWS))]
    if can_be_flat(form):
        lines.append((s.rows * s.columns, True, [1]))
    channels = _divisors(form.group_channels, MOST_BROADCAST_CHANNELS)
    for extent, flat, heights in lines:
        widths = _widths(extent, 2 * cpu.lanes, cpu)
        if not flat and _reads_whole_rows(form, cpu):
            widths = sorted({*widths, extent})
        for width in widths:
            for count in _divisors(extent // width, 8):
                for rows in heights:
                    line = rows * count * ceil(width / cpu.lanes)
                    for c in channels:
                        operands = (line if c > 1 else 0) + 1
                        if line * c <= most and line * c + operands <= cpu.registers:
                            yield Tile(False, c, rows, count * width, width, flat)


def _reads_whole_rows(form: StatementForm, cpu: CpuFeatures) -> bool:
    """Whether a row of a depthwise convolution may be one vector of several registers.

    Fewer of its loads reach into a second line than of parts of a register.  Not measured where
    lanes have no masks, with strides, and for rows that leave less than a quarter of a register.
    """
    columns, lanes = form.statement.columns, cpu.lanes
    if not form.taps_share_columns or lanes != LINE_LANES:
        return False
    return lanes < columns <= MOST_WIDE * lanes and columns % (lanes // 4) == 0


def _widths(extent: int, most: int, cpu: CpuFeatures) -> list[int]:
    """Vector widths for a loop: powers of two, and the largest divisor below one register.

    LLVM splits other vectors of more than one register badly.
    """
    fitting = [d for d in _divisors(extent, most) if d > 1]
    powers = [d for d in fitting if d.bit_count() == 1 and 4 * d >= cpu.lanes]
    return sorted({*powers, *[d for d in fitting if d <= cpu.lanes][-1:]})


def _divisors(extent: int, most: int = MOST_COLUMNS) -> list[int]:
    return [d for d in range(1, min(extent, most) + 1) if extent % d == 0]


def tile_slots(
    form: StatementForm,
    cpu: CpuFeatures,
    tile: Tile,
    *,
    in_place: bool = False,
    share: float = 1.0,
) -> float:
    """Slots that one tile takes: the reduction and the write-back.

    Args:
        form: The statement.
        cpu: The CPU.
        tile: The tile.
        in_place: Whether vectors of columns are read with their padding, not from a copy.
        share: Of the multiply-adds, those that are not left out.
    """
    s = form.statement
    reduction = s.inputs.count * s.kh.extent * s.kw.extent
    width = float(ceil(tile.width / cpu.lanes))
    if cpu.lanes == LINE_LANES and (tile.by_channel or s.inputs.count == 1):
        # Of halves of such a register, two are computed at once. The constants for columns of
        # several input channels were fitted without that.
        width = ceil(2 * tile.width / cpu.lanes) / 2
    if tile.width.bit_count() > 1 and s.inputs.count > 1:
        width *= ODD_WIDTH
    chains = CHAINS
    if tile.by_channel:
        pixels = tile.rows * tile.columns
        accumulators = pixels * width * (tile.channels // tile.width)
        weights = tile.channels // tile.width * sum(pieces(tile.width, cpu.lanes))
        loads = BROADCAST_SLOTS * pixels + weights * weight_load_slots(
            tile.channels * reduction, cpu
        )
        if form.output_lanes:
            written = STORE_SLOTS * pixels * weights
        else:
            written = (TRANSPOSE_SLOTS if tile.columns > 2 else SCALAR_SLOTS) * tile.elements
    else:
        lines = tile.rows * (tile.columns // tile.width)
        accumulators = lines * width * tile.channels
        lines_loaded = lines * _line_load_slots(form, cpu, tile, in_place)
        loads = BROADCAST_SLOTS * tile.channels + lines_loaded
        if form.output_lanes:
            written = SCALAR_SLOTS * tile.elements
        else:
            written = STORE_SLOTS * lines * tile.channels * sum(pieces(tile.width, cpu.lanes))
        if _unrolls_reduction(form, tile):
            # Tiles follow each other without a loop in between, so their chains overlap.
            chains = 0
            if in_place:
                step = max(accumulators, loads)
                return IN_PLACE_TILE_SLOTS + reduction * step + written / 2
    step = max(accumulators, loads, chains) + PRESSURE * loads
    if in_place:
        step += MASK_SLOTS * max(0.5, min(1.0, 2 / tile.rows))
    return TILE_SLOTS + share * reduction * step + written


def _unrolls_reduction(form: StatementForm, tile: Tile) -> bool:
    s = form.statement
    copies = s.kh.extent * s.kw.extent * tile.elements // tile.width
    return s.inputs.count == 1 and copies <= MOST_UNROLLED


def _line_load_slots(form: StatementForm, cpu: CpuFeatures, tile: Tile, in_place: bool) -> float:
    """Loading the columns of one row that a vector holds, for one tap."""
    s, (rows, columns) = form.statement, form.spans
    whole, parts = map(float, pieces(tile.width, cpu.lanes))
    if s.kw.extent == 1 and not in_place:
        return whole + parts
    # Rows that several taps read are loaded once.
    reused = 1.0
    if _unrolls_reduction(form, tile):
        reused = ((tile.rows - 1) * rows.step + s.kh.extent) / (tile.rows * s.kh.extent)
    if in_place:
        if columns.step > 1:
            return STRIDED_SLOTS * ceil((2 * tile.width - 1) / cpu.lanes) * reused
        registers = ceil(tile.width / cpu.lanes)
        halves = 0.5 if 2 * tile.width <= cpu.lanes else 1.0
        return IN_PLACE_SLOTS * registers * halves * reused
    slots = FRESH_SLOTS if s.inputs.count == 1 else CROSSING_SLOTS
    if s.inputs.count > 1 and columns.step > 1:
        slots = DEALT_SLOTS
    return (1.0 + (slots - 1.0) * cpu.lanes / LINE_LANES) * whole + parts * min(1.0, reused)
