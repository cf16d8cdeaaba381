"""Copies whose columns are dealt out by the stride, of which one tap reads a part only."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from backends.lowering import build_kernel, schedule_candidates
from backends.lowering.geometry import statement_forms
from genomes.nest import ConvShape, LoopNest
from tests.backends.lowering.kernels import AVX512, after, check, gene

TARGET = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "znver4", "num-cores": 2}


PLACES = ((), (gene("compute_at", loop="co"),), (gene("compute_at", loop="kw"),))
"""Where the copy is made."""


def strided(kernel, stride, size=(13, 17), batch=1, **changes):
    return LoopNest.fresh(ConvShape(batch, 8, 16, size, kernel, stride=stride, **changes))


def by_columns(nest, *genes):
    """`nest` with vectors that hold columns."""
    order = gene("interchange", order=("n", "co", "ho", "ci", "kh", "kw", "wo"))
    scheduled = after(nest, order, *genes, gene("vectorize", loop="wo"))
    (form,) = statement_forms(scheduled)
    assert form.by_columns
    return scheduled, form


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("stride", [(2, 2), (1, 2), (3, 2), (2, 3)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 1), (1, 3)])
def test_every_stride_and_kernel(kernel, stride, mode) -> None:
    padded = strided(kernel, stride, padding=(1, 1, 1, 1), padding_mode=mode)
    for nest in (padded, strided(kernel, stride)):
        for place in PLACES:
            scheduled, form = by_columns(nest, *place)
            assert form.phases == stride[1]
            assert form.pads_at_loop is bool(place)
            check(scheduled)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 1), (1, 3)])
@pytest.mark.parametrize("changes", [{"batch": 2}, {"groups": 4}, {"dilation": (2, 2)}], ids=str)
def test_batches_groups_and_dilation(kernel, changes) -> None:
    for place in PLACES:
        check(by_columns(strided(kernel, (2, 2), **changes), *place)[0])


@pytest.mark.parametrize("split", [("co", (6, 10)), ("ho", (3, 4))], ids=str)
def test_statements_with_copies_of_their_own(split) -> None:
    loop, parts = split
    nest = after(strided((1, 1), (2, 2)), gene("split_domain", loop=loop, parts=parts))
    order = ("n", "co", "ho", "ci", "kh", "kw", "wo")
    for places in product(PLACES, repeat=2):
        scheduled = nest
        for index, place in enumerate(places):
            genes = gene("interchange", order=order), *place, gene("vectorize", loop="wo")
            scheduled = after(scheduled, *(replace(g, statement=index) for g in genes))
        assert all(form.by_columns for form in statement_forms(scheduled))
        check(scheduled)


def test_one_tap_copies_only_what_it_reads() -> None:
    _, form = by_columns(strided((1, 1), (2, 2), (32, 32)))
    assert form.padded_shape == (1, 8, 16, 1, 16)
    _, form = by_columns(strided((3, 1), (2, 2), (33, 32)))
    assert form.padded_shape == (1, 8, 33, 1, 16)
    _, form = by_columns(strided((1, 3), (2, 2), (32, 33)))
    assert form.padded_shape == (1, 8, 16, 2, 17)


def test_rows_are_dealt_out_by_shuffles() -> None:
    scheduled, _ = by_columns(strided((1, 1), (2, 2), (32, 32)))
    assembly = build_kernel(scheduled, TARGET).module.inspect_source("asm")
    assert "vpermt2ps" in assembly
    assert "vgather" not in assembly


STRIDED = LoopNest.fresh(ConvShape(1, 64, 128, (32, 32), (1, 1), stride=(2, 2)))
REPEATED = after(
    LoopNest.fresh(ConvShape(1, 64, 128, (32, 32), (1, 1))),
    gene("bottleneck", loop="wo", factor=2),
)
"""A step of two columns from one that is computed to the next, without a stride."""


@pytest.mark.parametrize("nest", [STRIDED, REPEATED])
def test_tasks_that_copy_what_they_read_are_proposed(nest) -> None:
    proposed = [
        scheduled
        for scheduled in schedule_candidates(nest, AVX512)
        if statement_forms(scheduled)[0].pads_at_loop
    ]
    assert proposed
    check(proposed[0])
