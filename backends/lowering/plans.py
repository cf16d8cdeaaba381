"""Schedules of a statement in outline, ranked by an estimate: integers only, no TVM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from math import ceil, prod
from typing import TYPE_CHECKING

from backends.lowering.geometry import PARALLEL_ELEMENTS, StatementForm
from backends.lowering.tiles import Tile, leaves_out, reads_in_place, tile_slots, tiles
from backends.lowering.traffic import far_slots

if TYPE_CHECKING:
    from backends.devices import CpuFeatures

PAD_SLOTS = 0.3
PAD_ROW_SLOTS = 5.0
PAD_ROW_INSIDE_SLOTS = 17.0
"""Copying one element, and one row, into the padded input: by rows, or inside a loop."""

FAR_SLOTS = 0.95
"""What an element of the padded input costs more when the copy leaves the first cache, or half
of that when it fills more than half of it."""

DEAL_SLOTS = 0.5
"""What an element costs more when the columns of the copy are dealt out by the stride."""

BLOCK_SLOTS = 0.2
"""Copying an element of a packed input, a vector of channels at a time, or a row of no padding."""

GATHER_ROW_SLOTS = 6.0
"""Copying one row of no padding inside a loop."""

UNPACK_SLOTS = 1.0
"""What an element of a packed input costs more when its channels are taken apart."""

PARALLEL_SLOTS = 4000.0
"""Waking the other threads and waiting for them."""

PIXELS = frozenset({"ho", "wo", "ho+wo"})
"""Loops over tiles of pixels."""

RANKED_TILES = 24


class Pads(Enum):
    """Where the input is copied, for its padding or to lie as a tile reads it.

    `AT_TILES` is the gene `compute_at` where a copy is read anyway, and `prefetch` elsewhere.
    """

    BEFOREHAND = "beforehand"
    AT_TILES = "inside the fused loop over tiles, with all that it reads"
    INLINE = "nowhere: what would be multiplied with it is left out"
    AT_TAPS = "where a tap is read, without a copy in memory"


@dataclass(frozen=True, slots=True)
class Plan:
    """A schedule in outline.

    Attributes:
        tile: What is computed in registers.
        pixels_first: Whether the loops over tiles of pixels are around those over tiles of
            channels, which then share what the input's tile has brought into the first cache.
        fused: How many of the loops over tiles are fused, outermost first.
        pads: Where the input is padded or copied.
        parallel: Whether the fused loop is parallel.
        rounded: `Schedule.rounded`.
    """

    tile: Tile
    pixels_first: bool
    fused: int
    pads: Pads
    parallel: bool
    rounded: int = 0


def ranked_plans(forms: Sequence[StatementForm], cpu: CpuFeatures, sharers: int = 1) -> list[Plan]:
    """Plans for a statement, the one with the best estimate first.

    Args:
        forms: The statement, unscheduled, and with its channels rounded up where that may pay.
        cpu: The CPU.
        sharers: Statements of the nest that can read the same copy.
    """
    estimates = [estimate for form in forms for estimate in _estimates(form, cpu, sharers)]
    estimates.sort(key=lambda estimate: estimate[0])
    return [plan for _, plan in estimates]


def _estimates(
    form: StatementForm, cpu: CpuFeatures, sharers: int
) -> Iterator[tuple[float, Plan]]:
    found = tiles(form, cpu)
    copied = [(tile_slots(form, cpu, tile), tile) for tile in found]
    masked = [
        (tile_slots(form, cpu, tile, in_place=True), tile)
        for tile in found
        if reads_in_place(form, cpu, tile)
    ]
    left_out = [
        (tile_slots(form, cpu, tile, share=form.share_inside), tile)
        for tile in found
        if leaves_out(form, cpu, tile)
    ]
    at_tiles = (Pads.BEFOREHAND, Pads.AT_TILES)
    for costs, pads in ((copied, at_tiles), (masked, (Pads.AT_TAPS,)), (left_out, (Pads.INLINE,))):
        for per_tile, tile in _cheapest(costs):
            for plan in _plans(form, cpu, tile, pads):
                yield _slots(form, cpu, plan, per_tile, sharers), plan


def _cheapest(costs: list[tuple[float, Tile]]) -> list[tuple[float, Tile]]:
    """Tiles of either sort that take the fewest slots for an element.

    What a sort needs beside its tiles, such as a copy of the input, is not known yet.
    """
    costs.sort(key=lambda cost: cost[0] / cost[1].elements)
    sorts = ([c for c in costs if c[1].by_channel is by_channel] for by_channel in (True, False))
    return [cost for sort in sorts for cost in sort[:RANKED_TILES]]


def _trips(form: StatementForm, tile: Tile, pixels_first: bool) -> dict[str, int]:
    """Trip counts of the loops over tiles, outermost first; those of one trip but n left out."""
    s = form.statement
    channels = {"co": form.channels // tile.channels}
    if tile.flat:
        pixels = {"ho+wo": s.rows * s.columns // tile.columns}
    else:
        pixels = {"ho": s.rows // tile.rows, "wo": s.columns // tile.columns}
    loops = pixels | channels if pixels_first else channels | pixels
    return {"n": form.batch} | {name: count for name, count in loops.items() if count > 1}


def _plans(
    form: StatementForm, cpu: CpuFeatures, tile: Tile, paddings: tuple[Pads, ...]
) -> Iterator[Plan]:
    loops = list(_trips(form, tile, pixels_first=True))
    copies, crosses = tile.reads_copy(form), tile.crosses_rows(form)
    for pixels_first in (False, True) if "co" in loops and len(loops) > 2 else (False,):
        most = len(loops) - pixels_first
        for fused in sorted({min(2, most), min(3, most)}):
            for pads in paddings:
                gathers = not crosses and (copies or pixels_first)
                if pads is Pads.AT_TILES and not gathers:
                    continue
                for parallel in (False, True) if cpu.threads > 1 else (False,):
                    rounded = form.schedule.rounded
                    yield Plan(tile, pixels_first, fused, pads, parallel, rounded)


def _slots(
    form: StatementForm, cpu: CpuFeatures, plan: Plan, per_tile: float, sharers: int
) -> float:
    counts = _trips(form, plan.tile, plan.pixels_first)
    tasks = prod(list(counts.values())[: plan.fused])
    at_tiles = plan.pads is Pads.AT_TILES
    in_place = plan.pads in (Pads.AT_TAPS, Pads.INLINE)
    per_tile += far_slots(
        form,
        cpu,
        plan.tile,
        pixels_first=plan.pixels_first,
        # A copy of whole planes lies as one that is made beforehand.
        gathered=at_tiles and not PIXELS.isdisjoint(list(counts)[: plan.fused]),
        in_place=in_place,
    )
    per_task = per_tile * prod(counts.values()) / tasks
    beforehand = 0.0
    rearranging = plan.tile.deals(form) * DEAL_SLOTS + plan.tile.unpacks(form) * UNPACK_SLOTS
    blocks = form.copy_lanes > 0 and not plan.tile.by_columns
    if in_place:
        pass
    elif at_tiles and not plan.tile.reads_copy(form):
        rows, columns = _copied_by_task(form, plan, counts)
        per_task += rows * (GATHER_ROW_SLOTS + columns * BLOCK_SLOTS)
    elif at_tiles:
        rows, columns = _copied_by_task(form, plan, counts)
        crowded = 8 * rows * columns > cpu.l1_bytes
        per_element, per_row = PAD_SLOTS, PAD_ROW_INSIDE_SLOTS if form.pads else GATHER_ROW_SLOTS
        if blocks:
            per_element, per_row = BLOCK_SLOTS, 0.0
        per_element += rearranging + (FAR_SLOTS / 2 if crowded else 0.0)
        per_task += rows * (per_row + columns * per_element)
    elif plan.tile.reads_copy(form):
        height, width = plan.tile.copied_plane(form)
        channels = form.statement.inputs.groups * form.statement.inputs.count
        elements = form.batch * channels * height * width
        beforehand = _copy_slots(cpu, elements, width, blocks) + elements * rearranging
        if elements >= PARALLEL_ELEMENTS and cpu.threads > 1:
            beforehand = PARALLEL_SLOTS + beforehand / cpu.threads
        beforehand /= sharers
    if not plan.parallel:
        return beforehand + tasks * per_task
    return beforehand + PARALLEL_SLOTS + ceil(tasks / cpu.threads) * per_task


def _copy_slots(cpu: CpuFeatures, elements: int, columns: int, blocks: bool) -> float:
    """Copying so many elements, in rows of so many columns, before all tiles."""
    per_element = BLOCK_SLOTS if blocks else PAD_SLOTS + PAD_ROW_SLOTS / columns
    if 4 * elements > cpu.l1_bytes:
        per_element += FAR_SLOTS
    return elements * per_element


def _copied_by_task(form: StatementForm, plan: Plan, counts: dict[str, int]) -> tuple[int, int]:
    """(rows, columns) of the input that one iteration of the fused loop copies."""
    s, tile = form.statement, plan.tile
    inside = list(counts)[: plan.fused]
    groups = s.groups
    if "co" in inside:
        groups = max(1, tile.channels // form.group_channels)
    height, width = tile.copied_plane(form)
    if tile.flat:
        height, width = 1, tile.columns if "ho+wo" in inside else height * width
    if "ho" in inside:
        height = tile.read_plane(form)[0]
    if "wo" in inside:
        width = tile.read_plane(form)[1]
    return groups * s.inputs.count * height, width
