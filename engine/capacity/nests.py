"""What a nest computes at initialisation, in the fewest statements.

Splitting a domain and untying weights leave the function of a network at initialisation as it
is; merging what they have cut makes such candidates recognisable as the original, and the
others faster.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import lru_cache

from genomes.nest import InputAccess, LoopNest, Range, Statement


@lru_cache(maxsize=16384)
def merged(nest: LoopNest) -> LoopNest:
    """The nest without schedules, with statements merged that one statement can compute.

    `SiteConv2d.from_conv` makes the same function of it as of `nest`, because weights that
    were untied are still equal at initialisation.
    """
    statements = [
        replace(s, inputs=s.inputs.normalised(), _schedule=None) for s in nest.statements
    ]
    while True:
        for i, first in enumerate(statements):
            found = next(
                (
                    (j, union)
                    for j, second in enumerate(statements)
                    if i != j and (union := _union(first, second)) is not None
                ),
                None,
            )
            if found is not None:
                statements[i] = found[1]
                del statements[found[0]]
                break
        else:
            break
    ordered = sorted(statements, key=lambda s: (s.co.start, s.ho.start, s.wo.start))
    return LoopNest(nest.shape, tuple(replace(s, weight=i) for i, s in enumerate(ordered)))


def is_original(nest: LoopNest) -> bool:
    """Whether a nest computes, at initialisation, what the untransformed convolution does."""
    return merged(nest) == merged(LoopNest.fresh(nest.shape))


def _union(first: Statement, second: Statement) -> Statement | None:
    """One statement for two neighbours, `first` being the lower one; None if there is none."""
    if (first.kh, first.kw) != (second.kh, second.kw):
        return None
    if (first.repeat_ho, first.repeat_wo) != (second.repeat_ho, second.repeat_wo):
        return None
    differing = [n for n in ("co", "ho", "wo") if getattr(first, n) != getattr(second, n)]
    if len(differing) != 1:
        return None
    (loop,) = differing
    low, high = first.output_range(loop), second.output_range(loop)
    if low.stop != high.start:
        return None
    box = Range(low.start, low.extent + high.extent)
    if loop == "co":
        return _channels(first, second, box)
    if (first.kept_co, first.inputs) != (second.kept_co, second.inputs):
        return None
    return replace(first, ho=box) if loop == "ho" else replace(first, wo=box)


def _channels(first: Statement, second: Statement, box: Range) -> Statement | None:
    """The union along co: only where no channel is repeated and the groups are evenly spaced."""
    if first.repeats_channels > 1 or second.repeats_channels > 1:
        return None
    inputs = _inputs(first, second)
    if inputs is None:
        return None
    return replace(first, co=box, kept_co=box.extent, inputs=inputs)


def _inputs(first: Statement, second: Statement) -> InputAccess | None:
    a, b = first.inputs, second.inputs
    if a == b and a.groups == 1:
        return a
    if (a.count, a.stride) != (b.count, b.stride):
        return None
    if first.kept_co // a.groups != second.kept_co // b.groups:
        return None
    starts = [access.channel(g, 0) for access in (a, b) for g in range(access.groups)]
    steps = {after - before for before, after in itertools.pairwise(starts)}
    if len(steps) != 1 or min(steps) <= 0:
        return None
    return replace(a, groups=len(starts), group_stride=steps.pop()).normalised()
