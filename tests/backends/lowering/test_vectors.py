from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.devices import cpu_features, cpu_target
from backends.lowering import build_kernel
from genomes.nest import LoopNest
from tests.backends.lowering.kernels import TARGET, after, check, conv, gene

HAS_MASKS = cpu_features(TARGET, 1).lanes == 16
needs_masks = pytest.mark.skipif(not HAS_MASKS, reason="this CPU has no masks for vector lanes")


def in_place(nest: LoopNest, loop: str = "kw") -> LoopNest:
    """The rows of the output as vectors; the padding is computed inside `loop`."""
    return after(
        nest,
        gene("interchange", order=("n", "co", "ci", "kh", "kw", "ho", "wo")),
        gene("cache_write", loop="co"),
        gene("compute_at", loop=loop),
        gene("vectorize", loop="wo"),
        gene("unroll", loop="ho"),
        gene("unroll", loop="kw"),
        gene("unroll", loop="kh"),
        gene("decompose_reduction", loop="ci"),
    )


def depthwise(size: int | tuple[int, int], **changes: Any) -> LoopNest:
    return conv(2, 2, size, groups=2, **changes)


def code(nest: LoopNest, kind: str) -> str:
    return str(build_kernel(nest, TARGET).module.inspect_source(kind))


@needs_masks
def test_padding_at_a_tap_is_a_load_under_a_mask():
    text = code(in_place(depthwise(8)), "ll")
    assert "call <8 x float> @llvm.masked.load" in text
    # What is outside the mask is zero without another instruction.
    assert "zeroinitializer), " in text
    assert "AllocWorkspace" not in text.split("define", 1)[1]


@needs_masks
@pytest.mark.parametrize("columns", [7, 14, 28])
def test_odd_rows_are_stored_under_a_mask(columns):
    assert "call void @llvm.masked.store" in code(in_place(depthwise((3, columns))), "ll")


@needs_masks
def test_every_second_column_is_a_shuffle_of_vectors():
    assembly = code(in_place(depthwise(16, stride=(2, 2))), "asm")
    assert re.search(r"vperm|vcompress|vshufps|vpmov", assembly)
    assert "vgather" not in assembly


@pytest.mark.parametrize("loop", ["co", "ci", "kh", "kw"])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_inside_any_loop_computes_the_convolution(loop, mode):
    check(in_place(depthwise((5, 11), padding_mode=mode, stride=(1, 2)), loop))


def test_without_masks_the_kernel_is_the_same_function():
    target = cpu_target(1, None, ("-avx512vl",)) if HAS_MASKS else TARGET
    check(in_place(depthwise((6, 7), stride=(2, 2))), target=target)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(4, 40),
    st.sampled_from([1, 3, 5]),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 2]),
    st.tuples(*[st.integers(0, 3)] * 4).filter(any),
)
def test_rows_of_any_length_are_read_in_place(rows, columns, kernel, stride, dilation, padding):
    reach = dilation * (kernel - 1)
    size = (rows + reach, columns + reach)
    fields = {"stride": (1, stride), "dilation": (1, dilation), "padding": padding}
    check(in_place(depthwise(size, kernel=kernel, **fields)))
