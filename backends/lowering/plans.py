"""Schedules of a statement in outline, ranked by an estimate: integers only, no TVM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from math import ceil, prod
from typing import TYPE_CHECKING

from backends.lowering.geometry import StatementForm
from backends.lowering.tiles import Tile, leaves_out, reads_in_place, tile_slots, tiles

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
"""Copying an element of a packed input, a vector of channels at a time."""

UNPACK_SLOTS = 1.0
"""What an element of a packed input costs more when its channels are taken apart."""

PARALLEL_SLOTS = 4000.0
"""Waking the other threads and waiting for them."""

RANKED_TILES = 24


class Pads(Enum):
    """Where the input gets its padding, if it has any."""

    BEFOREHAND = "beforehand"
    AT_TILES = "inside the fused loop over tiles"
    INLINE = "nowhere: what would be multiplied with it is left out"
    AT_TAPS = "where a tap is read, without a copy in memory"


@dataclass(frozen=True, slots=True)
class Plan:
    """A schedule in outline.

    Attributes:
        tile: What is computed in registers.
        fused: How many of the loops over tiles are fused, outermost first.
        pads: Where the input is padded.
        parallel: Whether the fused loop is parallel.
    """

    tile: Tile
    fused: int
    pads: Pads
    parallel: bool


def ranked_plans(form: StatementForm, cpu: CpuFeatures, sharers: int = 1) -> list[Plan]:
    """Plans for a statement, the one with the best estimate first.

    Args:
        form: The statement, unscheduled.
        cpu: The CPU.
        sharers: Statements of the nest that can read the same padded copy.
    """
    estimates = []
    found = tiles(form, cpu)
    copied = [(tile_slots(form, cpu, tile), tile) for tile in found]
    paddings = (Pads.BEFOREHAND, Pads.AT_TILES) if form.pads else (Pads.BEFOREHAND,)
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
    for costs, pads in ((copied, paddings), (masked, (Pads.AT_TAPS,)), (left_out, (Pads.INLINE,))):
        for per_tile, tile in _cheapest(costs):
            counts = trips(form, tile)
            for plan in _plans(cpu, tile, len(counts), pads):
                slots = _slots(form, cpu, plan, counts, per_tile, sharers)
                estimates.append((slots, plan))
    estimates.sort(key=lambda estimate: estimate[0])
    return [plan for _, plan in estimates]


def _cheapest(costs: list[tuple[float, Tile]]) -> list[tuple[float, Tile]]:
    """Tiles of either sort that take the fewest slots for an element.

    What a sort needs beside its tiles, such as a copy of the input, is not known yet.
    """
    costs.sort(key=lambda cost: cost[0] / cost[1].elements)
    sorts = ([c for c in costs if c[1].by_channel is by_channel] for by_channel in (True, False))
    return [cost for sort in sorts for cost in sort[:RANKED_TILES]]


def trips(form: StatementForm, tile: Tile) -> dict[str, int]:
    """Trip counts of the loops over tiles, outermost first; those of one trip but n left out."""
    s = form.statement
    counts = {"n": form.batch, "co": s.kept_co // tile.channels}
    if tile.flat:
        counts["ho+wo"] = s.rows * s.columns // tile.columns
    else:
        counts |= {"ho": s.rows // tile.rows, "wo": s.columns // tile.columns}
    return {name: count for name, count in counts.items() if count > 1 or name == "n"}


def _plans(cpu: CpuFeatures, tile: Tile, loops: int, paddings: tuple[Pads, ...]) -> Iterator[Plan]:
    for fused in sorted({min(2, loops), min(3, loops)}):
        for pads in paddings:
            for parallel in (False, True) if cpu.threads > 1 else (False,):
                yield Plan(tile, fused, pads, parallel)


def _slots(
    form: StatementForm,
    cpu: CpuFeatures,
    plan: Plan,
    counts: dict[str, int],
    per_tile: float,
    sharers: int,
) -> float:
    tasks = prod(list(counts.values())[: plan.fused])
    per_task = per_tile * prod(counts.values()) / tasks
    beforehand = 0.0
    by_columns = not plan.tile.by_channel and plan.tile.width > 1
    deals = by_columns and form.spans[1].step > 1
    unpacks = by_columns and form.input_lanes > 0
    rearranging = deals * DEAL_SLOTS + unpacks * UNPACK_SLOTS
    blocks = form.copy_lanes > 0 and not by_columns
    if plan.pads in (Pads.AT_TAPS, Pads.INLINE):
        pass
    elif plan.pads is Pads.AT_TILES:
        rows, columns = _padded_by_task(form, plan, counts)
        crowded = 8 * rows * columns > cpu.l1_bytes
        per_element = BLOCK_SLOTS if blocks else PAD_SLOTS
        per_element += rearranging + (FAR_SLOTS / 2 if crowded else 0.0)
        per_row = 0.0 if blocks else PAD_ROW_INSIDE_SLOTS
        per_task += rows * (per_row + columns * per_element)
    elif form.pads or deals or unpacks:
        beforehand = _copy_slots(form, cpu, blocks) + form.padded_elements * rearranging
        if form.pads_in_parallel and cpu.threads > 1:
            beforehand = PARALLEL_SLOTS + beforehand / cpu.threads
        beforehand /= sharers
    if not plan.parallel:
        return beforehand + tasks * per_task
    return beforehand + PARALLEL_SLOTS + ceil(tasks / cpu.threads) * per_task


def _copy_slots(form: StatementForm, cpu: CpuFeatures, blocks: bool) -> float:
    elements, columns = form.padded_elements, form.spans[1].span
    per_element = BLOCK_SLOTS if blocks else PAD_SLOTS + PAD_ROW_SLOTS / columns
    if 4 * elements > cpu.l1_bytes:
        per_element += FAR_SLOTS
    return elements * per_element


def _padded_by_task(form: StatementForm, plan: Plan, counts: dict[str, int]) -> tuple[int, int]:
    """(rows, columns) of the padded input that one iteration of the fused loop computes."""
    s, tile = form.statement, plan.tile
    inside = list(counts)[: plan.fused]
    groups = s.groups
    if "co" in counts and "co" in inside:
        groups = max(1, tile.channels * s.groups // s.kept_co)
    rows, columns = form.spans
    height = rows.span
    if "ho" in inside:
        height = (tile.rows - 1) * rows.step + (s.kh.extent - 1) * rows.dilation + 1
    return groups * s.inputs.count * height, columns.span
