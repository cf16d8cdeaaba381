"""Copies whose columns are dealt out by the stride, of which one tap reads a part only."""

from __future__ import annotations

import pytest

from backends.lowering import build_kernel
from backends.lowering.geometry import statement_forms
from genomes.nest import ConvShape, LoopNest
from tests.backends.lowering.kernels import after, check, gene

TARGET = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "znver4", "num-cores": 2}


def strided(kernel, stride, size=(13, 17), **changes):
    return LoopNest.fresh(ConvShape(1, 8, 16, size, kernel, stride=stride, **changes))


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
    nest = strided(kernel, stride, padding=(1, 1, 1, 1), padding_mode=mode)
    for place in ((), (gene("compute_at", loop="co"),), (gene("compute_at", loop="kw"),)):
        scheduled, form = by_columns(nest, *place)
        assert form.phases == stride[1]
        check(scheduled)
    check(by_columns(strided(kernel, stride))[0])


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
