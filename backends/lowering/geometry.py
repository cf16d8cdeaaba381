"""What a statement reads and how its kernel stores it: integers only, no TVM."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, prod

from backends.lowering.epilogue import NO_EPILOGUE, Epilogue
from genomes.nest import LoopNest, Statement
from genomes.schedule import Loop, Schedule

PARALLEL_ELEMENTS = 16384
"""Smaller copies are not worth waking the other threads for."""


@dataclass(frozen=True)
class Packing:
    """One weight argument of a kernel.

    Attributes:
        weight: Number of the weight tensor in the nest.
        lanes: Output channels stored innermost; 0 for the plain layout.
        groups: Groups of output channels, each of which ends with zeros if there is room.
        shape: (channels, count, kh, kw), or (channels / lanes, count, kh, kw, lanes).
    """

    weight: int
    lanes: int
    groups: int
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        """Output channels of all groups, those of zeros included."""
        return self.shape[0] * (self.lanes or 1)


@dataclass(frozen=True)
class Span:
    """The rows (or columns) of the input that a statement reads.

    Computed row y reads, with its tap k, row `y*step + k*dilation` of the span.

    Attributes:
        first: Position of the span's first row in the input; negative inside the padding.
        step: Distance between the first taps of neighbouring computed rows.
        dilation: Distance between taps.
        span: Rows from the first to the last one read.
        size: Rows that the input has.
    """

    first: int
    step: int
    dilation: int
    span: int
    size: int

    @property
    def inside(self) -> bool:
        """Whether no padding is read."""
        return self.first >= 0 and self.first + self.span <= self.size

    def share_inside(self, computed: int, taps: int) -> float:
        """Share of the pairs of a computed row and a tap that read a row which the input has."""
        start, stop = self.interior
        pairs = 0
        for tap in range(taps):
            after = min(max(ceil((stop - tap * self.dilation) / self.step), 0), computed)
            pairs += after - min(max(ceil((start - tap * self.dilation) / self.step), 0), after)
        return pairs / (computed * taps)

    @property
    def interior(self) -> tuple[int, int]:
        """[start, stop) of the span that lies in the input."""
        start = min(max(-self.first, 0), self.span)
        return start, max(start, min(self.size - self.first, self.span))


@dataclass(frozen=True)
class StatementForm:
    """How one statement of a nest appears in the kernel.

    Attributes:
        index: Number of the statement in the nest.
        statement: The statement.
        schedule: Its schedule, or the fresh loops.
        batch: N.
        spans: Rows and columns of the input that are read.
        packing: Its weight argument.
        argument: The number of that argument among the kernel's weights.
        source: Index of the statement whose padded copy of the input is read.
        zeros: Whether the padding is zeros.
        epilogue: What is done to the result on its way to the output.
        input_lanes, output_lanes: Channels stored innermost in input and output, 0 for NCHW.
        padded_as_read: Whether padding is computed where it is read, as always on a GPU: the copy
            is a stage of the statement that is inlined, and its layout is the input's.
    """

    index: int
    statement: Statement
    schedule: Schedule
    batch: int
    spans: tuple[Span, Span]
    packing: Packing
    argument: int
    source: int
    zeros: bool = True
    epilogue: Epilogue = NO_EPILOGUE
    input_lanes: int = 0
    output_lanes: int = 0
    padded_as_read: bool = False

    @cached_property
    def by_columns(self) -> bool:
        """Whether vectors hold neighbouring columns, for which the copy is laid out."""
        return not self.padded_as_read and "wo" in "".join(
            x.name for x in self.schedule.loops if x.mark == "vectorize"
        )

    @cached_property
    def phases(self) -> int:
        """Into how many parts the columns of the copied input are dealt out, like cards.

        Column `q*phases + p` is element q of part p: with stride s, the columns that one tap
        reads lie side by side, so that a vector of them is loaded at once.
        """
        return self.spans[1].step if self.by_columns else 1

    @cached_property
    def copied_phases(self) -> int:
        """How many of the parts are copied: one tap reads the first only."""
        return 1 if self.statement.kw.extent == 1 else self.phases

    @cached_property
    def row_step(self) -> int:
        """The distance of the rows of the span that are copied: one tap reads no others."""
        dealt = self.phases > 1 and self.statement.kh.extent == 1
        return self.spans[0].step if dealt else 1

    @property
    def pads(self) -> bool:
        """Whether a copy of the input is made: for its padding, or for another layout."""
        unpacks = self.input_lanes > 0 and self.by_columns
        return unpacks or self.phases > 1 or not all(span.inside for span in self.spans)

    @cached_property
    def share_inside(self) -> float:
        """Share of the multiply-adds that are not with zeros of the padding."""
        s, (rows, columns) = self.statement, self.spans
        if not self.zeros:
            return 1.0
        share = rows.share_inside(s.rows, s.kh.extent)
        return share * columns.share_inside(s.columns, s.kw.extent)

    @property
    def taps_share_columns(self) -> bool:
        """Whether one channel is read, without a stride along its rows: what a tap reads of a
        column is read by those above and below it, and nothing else is."""
        return self.statement.inputs.count == self.spans[1].step == 1

    @property
    def needed_macs(self) -> float:
        """Multiply-adds of the statement, but for those with zeros of the padding."""
        s = self.statement
        return self.batch * s.rows * s.columns * prod(s.weight_shape) * self.share_inside

    @cached_property
    def copy_lanes(self) -> int:
        """Channels stored innermost in the copy: those of the input, if whole blocks are read."""
        a, lanes = self.statement.inputs, self.input_lanes
        if not lanes or self.by_columns or not a.contiguous:
            return 0
        return 0 if a.start % lanes or a.groups * a.count % lanes else lanes

    @property
    def pads_at_loop(self) -> bool:
        """Whether the copy is made inside a loop of the statement, else before all statements."""
        anchored = self.schedule.anchor("pad") is not None
        return self.pads and (anchored or self.padded_as_read)

    @property
    def owns_copy(self) -> bool:
        """Whether the copy that the statement reads is its own, made beforehand."""
        return self.pads and not self.pads_at_loop and self.source == self.index

    @property
    def copy(self) -> tuple[object, ...]:
        """What is copied: statements with equal copies made beforehand share one."""
        a = self.statement.inputs
        channels = (a.start, a.groups * a.count) if a.contiguous else a
        parts = (self.phases, self.copied_phases, self.row_step)
        return (channels, self.spans, parts, self.copy_lanes)

    @cached_property
    def padded_shape(self) -> tuple[int, ...]:
        """(N, channels read, rows, phases, columns of one phase), or packed.

        Packed it is (N, channels read / lanes, rows, columns, lanes).
        """
        a, (rows, columns) = self.statement.inputs, self.spans
        channels, lanes = a.groups * a.count, self.copy_lanes
        if lanes:
            return (self.batch, channels // lanes, rows.span, columns.span, lanes)
        parts = (self.copied_phases, ceil(columns.span / self.phases))
        return (self.batch, channels, ceil(rows.span / self.row_step), *parts)

    @cached_property
    def padded_elements(self) -> int:
        """Elements of the copy."""
        return prod(self.padded_shape)

    @property
    def pads_in_parallel(self) -> bool:
        """Whether the padded copy is large enough to wake the other threads for it."""
        return self.padded_elements >= PARALLEL_ELEMENTS

    @property
    def accumulates(self) -> bool:
        """Whether there is an accumulator, written back, beside the output."""
        placed = self.schedule.anchor("cache_write") is not None
        rewritten = self.statement.repeats or self.output_lanes > 0 or self.rounds
        return placed or rewritten or bool(self.epilogue)

    @property
    def fresh_loops(self) -> tuple[Loop, ...]:
        """The loops before any gene, but for channels rounded up: n, co, ho, wo, ci, kh, kw."""
        n, _, *rest = self.statement.with_schedule(None).scheduled(self.batch).loops
        return (n, Loop.fresh("co", self.channels, reduction=False), *rest)

    @cached_property
    def kept_channels(self) -> int:
        """Output channels of a group."""
        return self.statement.kept_co // self.statement.groups

    @cached_property
    def group_channels(self) -> int:
        """Output channels that are computed for a group: more than are kept if rounded up."""
        return self.channels // self.statement.groups

    @cached_property
    def channels(self) -> int:
        """Output channels that are computed."""
        return self.schedule.computed(self.statement.kept_co, self.statement.groups)

    @property
    def rounds(self) -> bool:
        """Whether some of the channels that are computed are lost."""
        return self.group_channels > self.kept_channels

    @cached_property
    def flat(self) -> bool:
        """Whether rows and columns are one dimension of the computation.

        They are when they are fused: a tile of the fused loop may begin in the middle of a row,
        so in two dimensions it is no box.
        """
        return self.schedule.flat

    @property
    def write_axes(self) -> int:
        """Loops of the write-back: n, co, ho, wo (or one for both) and one for each repeat."""
        s = self.statement
        repeats = (s.repeats_channels > 1) + (s.repeat_ho > 1) + (s.repeat_wo > 1)
        return (3 if self.flat else 4) + repeats

    @property
    def written_elements(self) -> int:
        """Elements of the statement's box of the output."""
        s = self.statement
        return self.batch * s.co.extent * s.ho.extent * s.wo.extent

    @property
    def accumulator_shape(self) -> tuple[int, ...]:
        """(N, channels, rows, columns), or (N, channels, rows * columns)."""
        s = self.statement
        sizes = (s.rows * s.columns,) if self.flat else (s.rows, s.columns)
        return (self.batch, self.channels, *sizes)


def statement_forms(
    nest: LoopNest, epilogue: Epilogue = NO_EPILOGUE, *, padded_as_read: bool = False
) -> tuple[StatementForm, ...]:
    """The statements of a nest as they appear in its kernel, on a GPU if `padded_as_read`."""
    batch = nest.shape.batch
    packings = kernel_packings(nest)
    owners: dict[tuple[object, ...], int] = {}
    forms = []
    for index, s in enumerate(nest.statements):
        schedule = s.scheduled(batch)
        packing = _packing(s, schedule)
        form = StatementForm(
            index=index,
            statement=s,
            schedule=schedule,
            batch=batch,
            spans=read_spans(nest, s),
            packing=packing,
            argument=packings.index(packing),
            source=index,
            zeros=nest.shape.padding_mode == "zeros",
            epilogue=epilogue,
            input_lanes=nest.shape.input_lanes,
            output_lanes=nest.shape.output_lanes,
            padded_as_read=padded_as_read or schedule.pads_inline,
        )
        if form.pads and not form.pads_at_loop:
            form = replace(form, source=owners.setdefault(form.copy, index))
        forms.append(form)
    return tuple(forms)


def kernel_packings(nest: LoopNest) -> tuple[Packing, ...]:
    """The weight arguments of a nest's kernel: tied statements share one if packed alike."""
    batch = nest.shape.batch
    return tuple(dict.fromkeys(_packing(s, s.scheduled(batch)) for s in nest.statements))


def read_spans(nest: LoopNest, s: Statement) -> tuple[Span, Span]:
    """Rows and columns of the input that a statement reads."""
    shape = nest.shape
    top, _, left, _ = shape.padding
    boxes = ((s.ho, s.kh, s.repeat_ho, s.rows, top), (s.wo, s.kw, s.repeat_wo, s.columns, left))
    spans = []
    for axis, (box, taps, repeat, computed, before) in enumerate(boxes):
        stride, dilation = shape.stride[axis], shape.dilation[axis]
        first = box.start * stride + taps.start * dilation - before
        span = (computed - 1) * repeat * stride + (taps.extent - 1) * dilation + 1
        spans.append(Span(first, repeat * stride, dilation, span, shape.in_size[axis]))
    return spans[0], spans[1]


def _packing(s: Statement, schedule: Schedule) -> Packing:
    lanes, rest = schedule.lanes("weight"), s.weight_shape[1:]
    channels = schedule.computed(s.kept_co, s.groups)
    shape = (channels // lanes, *rest, lanes) if lanes else (channels, *rest)
    # Those of other groups lie alike where no zeros are between them.
    groups = s.groups if channels > s.kept_co else 1
    return Packing(s.weight, lanes, groups, shape)
