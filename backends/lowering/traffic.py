"""What a tile waits for data that is not in the first cache: integers only, no TVM.

Tiles that follow each other share weights where the loops over channels are outside, and the input
where those over pixels are.  What they do not share comes from a cache further away, and so does
what lies so that few sets of the first cache have to hold all of it: rows of channels that are a
multiple of 4096 bytes apart, as those of 32 x 32 pixels are.

The estimate counts issue slots of fused multiply-adds, as that of the registers does.  Its
constants were fitted to measurements on AVX-512 (Zen 5) of 1x1 convolutions.
"""

from __future__ import annotations

from math import ceil, prod
from typing import TYPE_CHECKING

from backends.lowering.geometry import StatementForm

if TYPE_CHECKING:
    from backends.devices import CpuFeatures
    from backends.lowering.tiles import Tile

LINE_ELEMENTS = 16
WAY_LINES = 64
"""Lines of one way of the first cache: it is indexed by the offset in a page of 4096 bytes."""
OTHER_WAYS = 2
"""Ways of the first cache in which weights and results pass through."""

LINE_SLOTS = 2.0
"""Loading a line from the second cache..."""
HIDDEN = 0.25
"""...of which so much of the arithmetic hides."""
CONFLICT_SLOTS = 3.0
"""The same for lines that displace each other, which nothing hides."""
AGAIN_SLOTS = 1.0
"""The same for those that the tile before has loaded, too, where vectors hold columns."""
CONFLICT_STORE_SLOTS = 12.0
"""Storing a part of a line that other stores have displaced since another part was stored."""


def weight_load_slots(elements: int, cpu: CpuFeatures) -> float:
    """Loading a vector of weights, of so many that are used again and again."""
    if 4 * elements <= cpu.l1_bytes:
        return 1.0
    return 1.5 if 4 * elements <= cpu.l2_bytes else 3.0


def far_slots(
    form: StatementForm,
    cpu: CpuFeatures,
    tile: Tile,
    *,
    pixels_first: bool,
    gathered: bool = False,
    in_place: bool = False,
) -> float:
    """Slots that a tile takes longer than with all its data in the first cache.

    Args:
        form: The statement.
        cpu: The CPU.
        tile: What is computed at once.
        pixels_first: Whether tiles of other channels, of the same pixels, follow each other.
        gathered: Whether what these tiles read was copied, to lie side by side.
        in_place: Whether padding is read without a copy.
    """
    s = form.statement
    slots = _store_slots(form, cpu, tile)
    if tile.channels == form.group_channels:
        return slots
    # Where several taps read what lines hold that displace each other, they hide what that costs:
    # none was measured for 3x3 on pages.
    hidden = in_place and s.kh.extent * s.kw.extent > 1
    displaced = not (gathered or hidden) and _displace(form, cpu, tile, in_place)
    lines, whole = _lines(form, tile, in_place)
    if pixels_first:
        slots += _weight_slots(form, cpu, tile)
        if displaced:
            return slots + whole * (CONFLICT_SLOTS if tile.by_channel else AGAIN_SLOTS)
        again = lines if gathered else whole
        return slots + (AGAIN_SLOTS * again if again > WAY_LINES * _ways(cpu) else 0.0)
    if displaced:
        return slots + CONFLICT_SLOTS * whole
    reduction = s.inputs.count * s.kh.extent * s.kw.extent
    arithmetic = reduction * tile.elements / cpu.lanes
    return slots + max(0.0, LINE_SLOTS * lines - HIDDEN * arithmetic)


def _weight_slots(form: StatementForm, cpu: CpuFeatures, tile: Tile) -> float:
    """Loading weights of all tiles in turn, beyond what those of one take."""
    each = prod(form.statement.weight_shape[1:])
    one = tile.channels * each
    more = weight_load_slots(form.channels * each, cpu) - weight_load_slots(one, cpu)
    return more * one / LINE_ELEMENTS


def _store_slots(form: StatementForm, cpu: CpuFeatures, tile: Tile) -> float:
    """Storing parts of lines of which the next tile stores the rest, when they are gone."""
    s = form.statement
    whole = tile.columns % LINE_ELEMENTS == 0
    if form.output_lanes or whole or not tile.by_channel:
        return 0.0
    if not _in_one_set(s.ho.extent * s.wo.extent):
        return 0.0
    return CONFLICT_STORE_SLOTS * tile.rows * max(0, tile.channels - _ways(cpu))


def _lines(form: StatementForm, tile: Tile, in_place: bool) -> tuple[float, int]:
    """Cache lines of the input that a tile reads: in elements of them, and whole ones."""
    count = form.statement.inputs.count
    alone = prod(tile.read_plane(form, in_place)) / LINE_ELEMENTS
    return count * alone, count * ceil(alone)


def _displace(form: StatementForm, cpu: CpuFeatures, tile: Tile, in_place: bool) -> bool:
    """Whether lines that a tile reads of several channels displace each other.

    Channels of less than a page are loaded ahead by the CPU, whatever set they belong to.
    """
    copied = tile.reads_copy(form) and not in_place
    if form.input_lanes and (not copied or (form.copy_lanes and not tile.by_columns)):
        return False
    rows, columns = form.spans
    plane = tile.copied_plane(form) if copied else (rows.size, columns.size)
    return _in_one_set(prod(plane)) and form.statement.inputs.count > _ways(cpu)


def _in_one_set(plane: int) -> bool:
    """Whether the same element of all channels belongs to one set of the first cache."""
    return plane % (WAY_LINES * LINE_ELEMENTS) == 0


def _ways(cpu: CpuFeatures) -> int:
    """Lines of the input that a set of the first cache holds beside others."""
    return max(1, cpu.l1_bytes // (4 * LINE_ELEMENTS * WAY_LINES) - OTHER_WAYS)
