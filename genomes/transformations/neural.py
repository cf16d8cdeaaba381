"""Transformations of the iteration domain: neural ones, and index-set splitting.

Every function takes a nest and the index of a statement and returns the new nest.
"""

from __future__ import annotations

from dataclasses import replace

from genomes.errors import require
from genomes.nest import InputAccess, LoopNest, Range, Statement
from genomes.transformations.arguments import Count, OneOf, Parts
from genomes.transformations.registry import Kind, Phase, transformation

MAX_STATEMENTS = 32


def _require_own_weight(nest: LoopNest, index: int, what: str) -> None:
    others = [i for i in nest.sharing(index) if i != index]
    require(
        not others,
        f"{what} changes the weight of statement {index}, which statement "
        f"{', '.join(map(str, others))} shares: untie it first",
    )


def _divides(factor: int, extent: int, what: str) -> None:
    require(extent % factor == 0, f"{factor} does not divide the {extent} {what}")


@transformation(
    kind=Kind.NEURAL,
    phase=Phase.DOMAIN,
    primitive="smaller extents of the compute; the output reads computed elements repeatedly",
    also_called=("bottleneck (NAS-PTE)", "spatial bottleneck", "input bottleneck", "GhostNet"),
    loop=OneOf(("co", "ci", "ho", "wo", "kh", "kw")),
    factor=Count((1, 2, 4, 8), least=1),
)
def bottleneck(nest: LoopNest, index: int, loop: str, factor: int) -> LoopNest:
    """Keep 1/factor of a loop's iterations; the site keeps its output shape.

    co: the first C_out/factor channels are computed, the others repeat them in order.
    ci: the first C_in/factor of the input channels are read.
    ho, wo: every factor-th row / column is computed, the others repeat the nearest one.
    kh, kw: `factor` is the number of centre taps that are kept.

    rewrite:
        for co in C_out:                    for co in C_out/factor:
            O[co] += W[co, ci] * I[ci]  ->      O'[co] += W[co, ci] * I[ci]
                                            O[co] = O'[co % (C_out/factor)]

    In NAS-PTE (arXiv 2102.06599, section 4): bottlenecking; [interchange, bottleneck,
    interchange] is the spatial bottleneck, here `loop="ho"` and `loop="wo"`.
    """
    s = nest.statements[index]
    require(factor > 1 or loop in ("kh", "kw"), f"bottleneck({loop}) by 1 drops nothing")
    if loop == "co":
        new = _bottleneck_output_channels(nest, index, factor)
    elif loop == "ci":
        _require_own_weight(nest, index, "bottleneck(ci)")
        require(s.groups == 1, "bottleneck(ci) on a grouped statement: reduce before grouping")
        require(s.inputs.count > 1, "there is only one input channel")
        _divides(factor, s.inputs.count, "input channels")
        kept = s.inputs.count // factor
        new = replace(s, inputs=replace(s.inputs, count=kept).normalised())
    elif loop == "ho":
        _divides(factor, s.rows, "output rows")
        new = replace(s, repeat_ho=s.repeat_ho * factor)
    elif loop == "wo":
        _divides(factor, s.columns, "output columns")
        new = replace(s, repeat_wo=s.repeat_wo * factor)
    else:
        _require_own_weight(nest, index, f"bottleneck({loop})")
        if loop == "kh":
            new = replace(s, kh=_centre_taps(s.kh, factor))
        else:
            new = replace(s, kw=_centre_taps(s.kw, factor))
    return nest.replaced(index, new)


def _bottleneck_output_channels(nest: LoopNest, index: int, factor: int) -> Statement:
    s = nest.statements[index]
    _require_own_weight(nest, index, "bottleneck(co)")
    require(s.kept_co > 1, "there is only one output channel")
    _divides(factor, s.kept_co, "output channels")
    kept = s.kept_co // factor
    per_group = s.kept_co // s.groups
    require(
        kept % per_group == 0 or per_group % kept == 0,
        f"the {kept} kept channels are not a whole number of groups of {per_group}",
    )
    inputs = replace(s.inputs, groups=max(1, kept // per_group)).normalised()
    return replace(s, kept_co=kept, inputs=inputs)


def _centre_taps(taps: Range, keep: int) -> Range:
    require(keep < taps.extent, f"{keep} taps kept of {taps.extent}: nothing is dropped")
    dropped = taps.extent - keep
    require(dropped % 2 == 0, f"{keep} of {taps.extent} taps have no common centre")
    return Range(taps.start + dropped // 2, keep)


@transformation(
    kind=Kind.NEURAL,
    phase=Phase.DOMAIN,
    primitive="an offset in the input index",
    also_called=("torch.narrow", "channel slice"),
    start=Count((1, 2, 4, 8, 16), least=1),
)
def narrow(nest: LoopNest, index: int, start: int) -> LoopNest:
    """Read the input channels from `start` on; drop those before.

    The dependent statement of the paper's sequence 2 reads the channels behind the peeled ones.

    rewrite:
        for ci in C_in:                     for ci in C_in - start:
            O[co] += W[co, ci] * I[ci]  ->      O[co] += W[co, ci + start] * I[ci + start]
    """
    s = nest.statements[index]
    _require_own_weight(nest, index, "narrow")
    require(s.groups == 1, "narrow on a grouped statement: narrow before grouping")
    require(start < s.inputs.count, f"only {s.inputs.count} input channels, {start} dropped")
    inputs = replace(
        s.inputs,
        start=s.inputs.start + start * s.inputs.stride,
        count=s.inputs.count - start,
    )
    return nest.replaced(index, replace(s, inputs=inputs.normalised()))


@transformation(
    kind=Kind.NEURAL,
    phase=Phase.DOMAIN,
    primitive="input channel index computed from the output channel's (or row's) group",
    also_called=("grouped convolution", "channel shuffle (layout=interleaved)"),
    over=OneOf(("co", "ho", "wo")),
    groups=Count((2, 4, 8, 16, 32)),
    layout=OneOf(("block", "interleaved")),
)
def group(nest: LoopNest, index: int, over: str, groups: int, layout: str) -> LoopNest:
    """Keep the block diagonal of an output loop x the input channels.

    over=co: a grouped convolution. Group g reads the channels [g*C_in/G, (g+1)*C_in/G)
    (layout block) or g, g+G, g+2G, ... (layout interleaved, a channel shuffle).
    over=ho, wo: slice g of the rows / columns reads its own slice of the input channels; the
    statement becomes G statements with their own weights.

    rewrite:
        for co in C_out:                    for g in G:
            for ci in C_in:             ->      for co in C_out/G:
                O[co] += W[co, ci]*I[ci]            for ci in C_in/G:
                                                        O[g, co] += W[g, co, ci]*I[g, ci]
    """
    s = nest.statements[index]
    _require_own_weight(nest, index, "group")
    a = s.inputs
    require(a.count > 1, "there is only one input channel")
    _divides(groups, a.count, "input channels per group" if s.groups > 1 else "input channels")
    count = a.count // groups
    if over == "co":
        require(s.kept_co > 1, "there is only one output channel")
        _divides(groups, s.kept_co // s.groups, "output channels per group")
    if layout == "interleaved":
        require(s.groups == 1, "interleaved grouping of a grouped statement")
    if over != "co":
        require(s.groups == 1, f"group({over}) on a grouped statement: slice before grouping")
        slices = _sliced(s, over, _equal_parts(s, over, groups))
        _require_room(nest, groups)
        fresh = _fresh_weights(nest, groups)
        parts = []
        for g, part in enumerate(slices):
            if layout == "block":
                inputs = replace(a, start=a.channel(0, g * count), count=count)
            else:
                inputs = replace(a, start=a.channel(0, g), count=count, stride=a.stride * groups)
            parts.append(replace(part, inputs=inputs.normalised(), weight=fresh[g]))
        return nest.replaced(index, *parts)
    if layout == "block":
        require(a.dense, "the groups' channels are not evenly spaced, so they cannot be split")
        stride = a.stride
        inputs = InputAccess(a.start, s.groups * groups, count * stride, count, stride)
    else:
        inputs = InputAccess(a.start, groups, a.stride, count, a.stride * groups)
    return nest.replaced(index, replace(s, inputs=inputs.normalised()))


@transformation(
    kind=Kind.NEURAL,
    phase=Phase.DOMAIN,
    primitive="no reduction over input channels",
    also_called=("depthwise convolution (MobileNet)",),
)
def depthwise(nest: LoopNest, index: int) -> LoopNest:
    """Group with as many groups as input channels: every input channel is filtered alone.

    rewrite:
        for co in C_out:                    for c in C_in, m in C_out/C_in:
            for ci in C_in:             ->      O[c*M + m] += W[c*M + m] * I[c]
                O[co] += W[co, ci]*I[ci]

    One output channel is not depthwise, nor is one input channel; C_out must be a multiple of
    C_in.
    """
    s = nest.statements[index]
    require(s.inputs.count > 1, "the statement reads one input channel per group already")
    require(s.kept_co > 1, "one output channel is a full reduction, not depthwise")
    channels = s.groups * s.inputs.count
    require(
        s.kept_co % channels == 0,
        f"{s.kept_co} output channels are no multiple of the {channels} input channels",
    )
    return group(nest, index, over="co", groups=s.inputs.count, layout="block")


@transformation(
    kind=Kind.PROGRAM,
    phase=Phase.DOMAIN,
    primitive="one compute stage for each part",
    also_called=("index-set splitting", "loop fission of the domain", "peel (sequence 2)"),
    loop=OneOf(("co", "ho", "wo")),
    parts=Parts((2, 4, 8)),
)
def split_domain(nest: LoopNest, index: int, loop: str, parts: int | tuple[int, ...]) -> LoopNest:
    """Split an output loop's range into several statements; nothing is dropped.

    `parts` is a number of equal parts or a tuple of sizes. Statements split over co have their
    own rows of the weight; those split over ho or wo share it until `untie`.

    rewrite:
        for co in C_out:                    for co in [0, k):      S0
            S                           ->      S
                                            for co in [k, C_out):  S1
                                                S
    """
    s = nest.statements[index]
    sizes = parts if isinstance(parts, tuple) else _equal_parts(s, loop, parts)
    _require_room(nest, len(sizes))
    pieces = _sliced(s, loop, sizes)
    if loop == "co":
        _require_own_weight(nest, index, "split_domain(co)")
        fresh = _fresh_weights(nest, len(pieces))
        pieces = [replace(p, weight=w) for p, w in zip(pieces, fresh, strict=True)]
    return nest.replaced(index, *pieces)


@transformation(
    kind=Kind.NEURAL,
    phase=Phase.DOMAIN,
    primitive="one weight buffer for each slice",
    also_called=("sequence 3", "locally connected layer"),
    loop=OneOf(("ho", "wo")),
)
def untie(nest: LoopNest, index: int, loop: str) -> LoopNest:
    """Give the slices of a split output loop their own weights, equal at first.

    Acts on all statements that share the weight of this one; those with the same range along
    `loop` keep sharing.

    rewrite:
        for ho in slice k:                  for ho in slice k:
            O[ho] += W[...] * I[...]    ->      O[ho] += W_k[...] * I[...]
    """
    members = nest.sharing(index)
    ranges = sorted({nest.statements[i].output_range(loop).start for i in members})
    require(len(ranges) > 1, f"no split along {loop}: its statements have nothing to untie")
    spans = {nest.statements[i].output_range(loop) for i in members}
    require(len(spans) == len(ranges), f"the slices along {loop} overlap and cannot be untied")
    fresh = dict(zip(ranges, _fresh_weights(nest, len(ranges)), strict=True))
    new = list(nest.statements)
    for i in members:
        new[i] = replace(new[i], weight=fresh[new[i].output_range(loop).start])
    return LoopNest(nest.shape, tuple(new)).renumbered()


def _require_room(nest: LoopNest, parts: int) -> None:
    total = len(nest.statements) + parts - 1
    require(total <= MAX_STATEMENTS, f"{total} statements; at most {MAX_STATEMENTS}")


def _fresh_weights(nest: LoopNest, count: int) -> list[int]:
    first = 1 + max(s.weight for s in nest.statements)
    return list(range(first, first + count))


def _equal_parts(s: Statement, loop: str, parts: int) -> tuple[int, ...]:
    extent = s.output_range(loop).extent
    _divides(parts, extent, {"co": "output channels", "ho": "output rows"}.get(loop, "columns"))
    return (extent // parts,) * parts


def _sliced(s: Statement, loop: str, sizes: tuple[int, ...]) -> list[Statement]:
    """The statement cut along an output loop into consecutive boxes of the given sizes."""
    box = s.output_range(loop)
    require(
        sum(sizes) == box.extent, f"the sizes {sizes} do not add up to the {box.extent} of {loop}"
    )
    repeat = {"co": s.repeats_channels, "ho": s.repeat_ho, "wo": s.repeat_wo}[loop]
    if loop == "co":
        require(repeat == 1, "the output channels repeat: split before the bottleneck")
    require(
        all(size % repeat == 0 for size in sizes),
        f"the sizes {sizes} are no multiples of the {repeat}-fold repeat along {loop}",
    )
    pieces = []
    start = box.start
    for size in sizes:
        piece = s.cut(loop, start, size)
        if loop == "co":
            piece = replace(piece, kept_co=size, inputs=_channel_slice(s, start - box.start, size))
        pieces.append(piece)
        start += size
    return pieces


def _channel_slice(s: Statement, first: int, size: int) -> InputAccess:
    """The input access of the output channels [first, first + size) of a statement."""
    a = s.inputs
    per_group = s.kept_co // s.groups
    begin, end = divmod(first, per_group), divmod(first + size - 1, per_group)
    groups = end[0] - begin[0] + 1
    whole = begin[1] == 0 and end[1] == per_group - 1
    require(
        groups == 1 or whole,
        f"the part [{first}, {first + size}) cuts through groups of {per_group} channels",
    )
    return replace(a, start=a.channel(begin[0], 0), groups=groups).normalised()
