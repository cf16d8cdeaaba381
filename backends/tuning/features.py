"""What a scheduled nest looks like to a CPU, as numbers: integers of its loops, no TVM.

The first number is an estimate of the time, good enough to begin with; the others are what a
model needs to learn where it errs.  Sizes are logarithms: a model that splits ranges sees
factors, and workloads of different size are alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import ceil, log2, prod
from typing import TYPE_CHECKING

from backends.lowering.geometry import StatementForm, statement_forms
from backends.lowering.tiles import CHAINS, LINE_LANES, Tile
from backends.lowering.traffic import far_slots
from genomes.nest import REDUCTION_LOOPS, LoopNest
from genomes.schedule import Loop

if TYPE_CHECKING:
    from backends.devices import CpuFeatures

NAMES = (
    "macs",
    "reduction",
    "channels",
    "pixels",
    "groups",
    "stride",
    "taps",
    "vector",
    "vector_fill",
    "by_channel",
    "flat",
    "tile_channels",
    "tile_pixels",
    "registers",
    "loads",
    "steps_per_load",
    "pixels_first",
    "far",
    "rolled",
    "unrolled",
    "unrolled_reduction",
    "innermost_trip",
    "channels_outside_taps",
    "reduction_loops",
    "weight_bytes_l1",
    "weight_bytes_l2",
    "parallel",
    "tasks",
    "imbalance",
    "macs_per_task",
    "pads",
    "pads_inside",
    "pads_inline",
    "pad_iterations",
    "pad_bytes_l1",
    "pad_redundancy",
    "input_prefetch",
    "weight_prefetch",
    "transposes",
)
"""Names of the numbers of one statement, in order."""

MOST_UNROLLED = 192
"""Copies of the innermost statement beyond which building takes seconds."""

BROADCAST_SLOTS = 0.75
SPILL_SLOTS = 2.0
"""A register of the tile that is stored and loaded again in every step."""
CROWDED = 0.75
"""With a larger share of the registers in the tile, LLVM spills."""
TILE_SLOTS = 25.0
WRITE_SLOTS = 0.5
PAD_SLOTS = 0.5
PAD_ROW_SLOTS = 10.0
FETCH_SLOTS = 0.2
FETCH_ROW_SLOTS = 6.0
"""Copying one element and one row ahead."""
PARALLEL_SLOTS = 4000.0


def cpu_schedule_features(nest: LoopNest, cpu: CpuFeatures) -> tuple[float, ...] | None:
    """The numbers of a scheduled nest.

    Returns:
        log2 of the estimate in issue slots, one number for each of `NAMES` (the mean over the
        statements, weighted by their arithmetic), and the number of statements; None for a
        schedule that is not worth building: accumulators that do not fit the registers, or too
        many copies.
    """
    looks = [_Look(form, cpu) for form in statement_forms(nest)]
    if any(x.registers > cpu.registers or x.unrolled > MOST_UNROLLED for x in looks):
        return None
    estimate = log2(sum(x.slots for x in looks))
    if len(looks) == 1:
        return (estimate, *looks[0].numbers(), 1.0)
    total = sum(x.macs for x in looks)
    columns = zip(*(x.numbers() for x in looks), strict=True)
    means = (
        sum(x.macs / total * number for x, number in zip(looks, column, strict=True))
        for column in columns
    )
    return (estimate, *means, float(len(looks)))


@dataclass(frozen=True)
class _Look:
    """One scheduled statement, as a CPU sees it.

    The tile is what is accumulated at once: the spatial loops inside the outermost reduction
    loop.
    """

    form: StatementForm
    cpu: CpuFeatures

    @property
    def loops(self) -> tuple[Loop, ...]:
        return self.form.schedule.loops

    @cached_property
    def reduction(self) -> int:
        s = self.form.statement
        return s.inputs.count * s.kh.extent * s.kw.extent

    @cached_property
    def copies(self) -> bool:
        """Whether there is a copy of the input, made beforehand or inside a loop."""
        return self.form.pads and not self.form.padded_as_read

    @cached_property
    def elements(self) -> int:
        s = self.form.statement
        return self.form.batch * self.form.channels * s.rows * s.columns

    @property
    def macs(self) -> int:
        return self.elements * self.reduction

    @cached_property
    def tile(self) -> tuple[Loop, ...]:
        first = next(at for at, loop in enumerate(self.loops) if loop.reduction)
        return tuple(loop for loop in self.loops[first:] if not loop.reduction)

    @cached_property
    def tile_elements(self) -> int:
        return _product(self.tile)

    @cached_property
    def tile_channels(self) -> int:
        return _product(loop for loop in self.tile if loop.name.startswith("co"))

    @property
    def tile_pixels(self) -> int:
        return self.tile_elements // self.tile_channels

    @cached_property
    def vector(self) -> Loop | None:
        return next((loop for loop in self.loops if loop.mark == "vectorize"), None)

    @property
    def width(self) -> int:
        return self.vector.extent if self.vector else 1

    @property
    def by_channel(self) -> bool:
        return self.vector is not None and self.vector.name.startswith("co")

    @property
    def registers(self) -> int:
        """Vector registers that hold the tile."""
        return ceil(self.width / self.cpu.lanes) * self.tile_elements // self.width

    @property
    def _share_of_register(self) -> float:
        """What a multiply-add of a vector of channels takes of that of a whole register."""
        halves = self.by_channel and self.cpu.lanes == LINE_LANES
        return 0.5 if halves and 2 * self.width <= self.cpu.lanes else 1.0

    @property
    def unrolled(self) -> int:
        return _product(loop for loop in self.loops if loop.mark == "unroll")

    @property
    def unrolled_reduction(self) -> int:
        return _product(x for x in self.loops if x.mark == "unroll" and x.reduction)

    @property
    def rolled(self) -> bool:
        """Whether the tile has a loop that stays one, so that it cannot live in registers."""
        return any(not loop.mark and loop.extent > 1 for loop in self.tile)

    @property
    def weight_bytes(self) -> int:
        """Of one tile."""
        return 4 * self.tile_channels * self.reduction

    @cached_property
    def loads(self) -> float:
        """Slots of the loads of one step of the reduction."""
        vectors = ceil(self.width / self.cpu.lanes)
        if not self.by_channel:
            return BROADCAST_SLOTS * self.tile_channels + vectors * self.tile_pixels / self.width
        distance = 1.0 + (self.weight_bytes > self.cpu.l1_bytes) / 2
        distance += 1.5 * (self.weight_bytes > self.cpu.l2_bytes)
        return BROADCAST_SLOTS * self.tile_pixels + distance * (
            ceil(self.tile_channels / self.width) * vectors
        )

    @cached_property
    def pixels_first(self) -> bool:
        """Whether tiles of other channels, of the same pixels, follow each other."""
        first = next(at for at, loop in enumerate(self.loops) if loop.reduction)
        around = [loop.name for loop in self.loops[:first] if loop.extent > 1]
        return bool(around) and "co" in around[-1].split("+")[-1]

    @cached_property
    def far(self) -> float:
        """Slots that a tile waits for what is not in the first cache."""
        tile = Tile(
            by_channel=self.by_channel,
            channels=self.tile_channels,
            rows=_product(x for x in self.tile if x.name.startswith("ho") and not self.form.flat),
            columns=_product(x for x in self.tile if "wo" in x.name),
            width=self.width,
            flat=self.form.flat,
        )
        form, at_tap = self.form, self.form.schedule.anchor("pad") in REDUCTION_LOOPS
        copied = self._around("prefetch:input")
        if form.pads and not at_tap:
            copied = copied or self._around("pad")
        return far_slots(
            form,
            self.cpu,
            tile,
            pixels_first=self.pixels_first,
            gathered=any("ho" in loop.name or "wo" in loop.name for loop in copied),
            in_place=form.pads and (at_tap or form.padded_as_read),
        )

    @property
    def threads(self) -> int:
        return self.cpu.threads if any(x.mark == "parallel" for x in self.loops) else 1

    @property
    def tasks(self) -> int:
        return self.loops[0].extent if self.threads > 1 else 1

    @property
    def imbalance(self) -> float:
        """Time of the slowest thread over the mean."""
        return ceil(self.tasks / self.threads) * self.threads / self.tasks

    def _around(self, role: str) -> tuple[Loop, ...]:
        """The loops down to the one at which a stage is placed; none if it is not."""
        anchor = self.form.schedule.anchor(role)
        names = [loop.name for loop in self.loops]
        return self.loops[: names.index(anchor) + 1] if anchor is not None else ()

    @property
    def pad_iterations(self) -> int:
        """How often a part of the padded input is made."""
        return _product(self._around("pad")) if self.form.pads_at_loop else 1

    @cached_property
    def pad_rows(self) -> float:
        """Rows, of all channels, of the part that is made at once."""
        return self._input(self._around("pad") if self.form.pads_at_loop else ())[0]

    def _input(self, outside: tuple[Loop, ...]) -> tuple[float, int]:
        """Of the input that one iteration of these loops reads: rows, of all channels; columns."""
        s, (rows, columns) = self.form.statement, self.form.spans
        inside = self.loops[len(outside) :]
        around = "+".join(loop.name for loop in outside)
        channels = s.inputs.count * max(1.0, self._channels(outside) / self.form.group_channels)
        computed = {
            axis: _product(x for x in inside if x.name.startswith(axis)) for axis in ("ho", "wo")
        }
        if self.form.flat:
            return channels, computed["ho"] if "ho" in around else rows.span * columns.span
        height, width = rows.span, columns.span
        if "ho" in around:
            height = (computed["ho"] - 1) * rows.step + (s.kh.extent - 1) * rows.dilation + 1
        if "wo" in around:
            width = (computed["wo"] - 1) * columns.step + (s.kw.extent - 1) * columns.dilation + 1
        # What one tap leaves out is not copied where columns are dealt out.
        height = ceil(height / self.form.row_step)
        width = ceil(width / self.form.phases) * self.form.copied_phases
        return channels * height, width

    def _channels(self, outside: tuple[Loop, ...]) -> int:
        """Output channels that one iteration of these loops computes."""
        if not any("co" in loop.name for loop in outside):
            return self.form.channels
        return _product(x for x in self.loops[len(outside) :] if x.name.startswith("co"))

    @property
    def pad_elements(self) -> float:
        if not self.copies:
            return 0.0
        rows, columns = self._input(self._around("pad") if self.form.pads_at_loop else ())
        return rows * columns

    @property
    def fetches(self) -> float:
        """Slots of copying operands ahead."""
        inputs, weights = self._around("prefetch:input"), self._around("prefetch:weight")
        slots = 0.0
        if inputs:
            rows, columns = self._input(inputs)
            slots += _product(inputs) * rows * (FETCH_ROW_SLOTS + FETCH_SLOTS * columns)
        if weights:
            vectors = self._channels(weights) * self.reduction / self.tile_channels
            vector = FETCH_ROW_SLOTS + FETCH_SLOTS * self.tile_channels
            slots += _product(weights) * vectors * vector
        return slots

    @property
    def slots(self) -> float:
        """The estimate: slots of fused multiply-adds on the thread that has the most of them."""
        chains = 0 if self.unrolled_reduction == self.reduction else CHAINS
        step = max(self.registers * self._share_of_register, self.loads, chains)
        crowded = self.registers > CROWDED * self.cpu.registers
        if self.rolled or crowded or self.vector is None:
            step += SPILL_SLOTS * self.registers
        if self.form.padded_as_read and not self.by_channel:
            # A condition in every lane: LLVM makes no vectors of them.
            step *= self.width
        steps = self.reduction * (self.form.share_inside if self.form.padded_as_read else 1.0)
        tiles = self.elements / self.tile_elements
        tile = TILE_SLOTS + steps * step + WRITE_SLOTS * self.tile_elements + self.far
        inside = tiles * tile + self.fetches
        padding = 0.0
        if self.copies:
            padding = self.pad_iterations * (
                PAD_SLOTS * self.pad_elements + PAD_ROW_SLOTS * self.pad_rows
            )
        if self.form.pads_at_loop or not self.copies:
            inside, padding = inside + padding, 0.0
        elif self.form.pads_in_parallel:
            padding = PARALLEL_SLOTS + padding / self.cpu.threads
        if self.threads > 1:
            inside = PARALLEL_SLOTS + self.imbalance * inside / self.threads
        return inside + padding

    def numbers(self) -> tuple[float, ...]:
        """In the order of `NAMES`."""
        s, schedule, cpu = self.form.statement, self.form.schedule, self.cpu
        names = [loop.name for loop in self.loops]
        trips = [loop.extent for loop in self.loops if not loop.mark and loop.extent > 1]
        vectors = ceil(self.width / cpu.lanes)
        made = self.pad_iterations * self.pad_elements
        return (
            log2(self.macs),
            log2(self.reduction),
            log2(self.form.group_channels),
            log2(s.rows * s.columns),
            log2(s.groups),
            float(self.form.spans[1].step),
            float(s.kh.extent * s.kw.extent),
            log2(self.width),
            self.width / (vectors * cpu.lanes),
            float(self.by_channel),
            float(schedule.flat),
            log2(self.tile_channels),
            log2(self.tile_pixels),
            float(self.registers),
            self.loads,
            self.registers / self.loads,
            float(self.pixels_first),
            self.far / self.reduction,
            float(self.rolled),
            log2(self.unrolled),
            log2(self.unrolled_reduction),
            log2(trips[-1]) if trips else 0.0,
            float(_first(names, "ci") < min(_first(names, "kh"), _first(names, "kw"))),
            float(sum(loop.reduction for loop in self.loops)),
            log2(self.weight_bytes / cpu.l1_bytes),
            log2(self.weight_bytes / cpu.l2_bytes),
            float(self.threads > 1),
            log2(self.tasks),
            self.imbalance,
            log2(self.macs / self.tasks),
            float(self.form.pads),
            float(self.form.pads_at_loop),
            float(self.form.padded_as_read),
            log2(self.pad_iterations),
            log2((1 + 4 * self.pad_elements) / cpu.l1_bytes),
            made / self.form.padded_elements if self.copies else 0.0,
            float(schedule.anchor("prefetch:input") is not None),
            float(schedule.anchor("prefetch:weight") is not None),
            float(schedule.lanes("accumulator") > 0),
        )


def _product(loops: Iterable[Loop]) -> int:
    return prod(loop.extent for loop in loops)


def _first(names: list[str], axis: str) -> int:
    """Position of the outermost loop along a reduction axis."""
    return next(at for at, name in enumerate(names) if axis in name.replace("+", ".").split("."))
