from __future__ import annotations

import ctypes
import mmap
import re

import numpy as np
import pytest
import tvm_ffi
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.lowering import build_kernel
from tests.backends.lowering.kernels import (
    TARGET,
    agree,
    check,
    code,
    conv,
    depthwise,
    in_place,
    needs_masks,
)

NO_ACCESS = 0


class Guarded:
    """Puts an array where the memory in front of it, or behind it, cannot be read."""

    def __init__(self, *, in_front: bool) -> None:
        self._in_front = in_front
        self._memory: mmap.mmap | None = None

    def __call__(self, array: np.ndarray) -> tvm_ffi.Tensor:
        page = mmap.PAGESIZE
        used = -(-array.nbytes // page) * page
        self._memory = mmap.mmap(-1, used + page)
        first = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        guard = first if self._in_front else first + used
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(guard), page, NO_ACCESS) == 0
        at = page if self._in_front else used - array.nbytes
        kept = np.frombuffer(self._memory, array.dtype, array.size, at).reshape(array.shape)
        kept[...] = array
        return tvm_ffi.from_dlpack(kept)


@needs_masks
def test_padding_at_a_tap_is_a_load_under_a_mask():
    text = code(in_place(depthwise(8)), "ll")
    assert "call <8 x float> @llvm.masked.load" in text
    # What is outside the mask is zero without another instruction.
    assert "zeroinitializer), " in text
    assert "AllocWorkspace" not in text.split("define", 1)[1]


@needs_masks
def test_every_second_column_is_a_shuffle_of_vectors():
    assembly = code(in_place(depthwise(16, stride=(2, 2))), "asm")
    assert re.search(r"vperm|vcompress|vshufps|vpmov", assembly)
    assert "vgather" not in assembly


@needs_masks
@pytest.mark.parametrize(("columns", "registers"), [(14, 1), (28, 2)])
def test_the_taps_of_a_row_share_its_loads(columns, registers):
    rows = 8
    nest = in_place(conv(16, 16, (rows, columns), groups=16, stride=(2, 2)))
    assembly = code(nest, "asm")
    loads = re.findall(r"vmovups\s+-?\d*\(%r(?!sp).*?, %zmm", assembly)
    # Some are operands of a shuffle.
    assert 0 < len(loads) <= rows * registers


@pytest.mark.parametrize("loop", ["kw", "ci"])
@pytest.mark.parametrize(
    "padding", [(1, 1, 1, 1), (0, 2, 0, 0), (0, 2, 0, 1), (1, 0, 1, 0), (1, 0, 0, 0)]
)
@pytest.mark.parametrize("size", [(4, 7), (4, 8), (7, 17), (4, 32)])
def test_nothing_outside_the_input_is_read(size, padding, loop):
    nest = in_place(conv(32, 32, size, groups=32, padding=padding, stride=(2, 2)), loop)
    kernel = build_kernel(nest, TARGET)
    for in_front in (True, False):
        agree(nest, kernel, placed=Guarded(in_front=in_front))


@pytest.mark.parametrize("loop", ["co", "ci", "kh", "kw"])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_inside_any_loop_computes_the_convolution(loop, mode):
    check(in_place(depthwise((5, 11), padding_mode=mode, stride=(1, 2)), loop))


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
