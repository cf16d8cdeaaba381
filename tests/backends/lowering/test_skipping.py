from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import tirx
from tvm.ir.transform import Sequential
from tvm.s_tir.transform import StmtSimplify
from tvm.script import tirx as T  # noqa: N812 - the name that TVM uses

from backends.lowering import build_kernel, lower
from backends.lowering.pipeline import _to_loops
from backends.lowering.skipping import skipped_padding
from genomes.nest import LoopNest
from tests.backends.lowering.kernels import TARGET, after, check, conv, gene


def left_out(nest: LoopNest, *unrolled: str) -> LoopNest:
    """Lanes hold channels; the padding is computed where it is read."""
    return after(
        nest,
        gene("interchange", order=("n", "ci", "kh", "kw", "ho", "wo", "co")),
        gene("cache_write", loop="n"),
        gene("compute_inline"),
        gene("vectorize", loop="co"),
        *(gene("unroll", loop=loop) for loop in unrolled),
        gene("decompose_reduction", loop="ci"),
    )


def loops_of(nest: LoopNest) -> Any:
    """The kernel as plain loops, before they are vectorized and unrolled."""
    function = lower(nest)["main"].with_attr("target", tvm.target.Target(TARGET))
    return Sequential(_to_loops())(tvm.IRModule({"main": function}))


def accumulations(mod: tvm.IRModule) -> int:
    """Stores that add to what they overwrite."""
    found = []

    def note(store: tirx.BufferStore) -> None:
        if isinstance(store.value, tirx.Add):
            found.append(store)

    tvm_ffi.structural_walk(mod["main"].body, (tirx.BufferStore, note))
    return len(found)


def test_taps_on_padding_cost_nothing_where_all_is_unrolled():
    mod = loops_of(left_out(conv(4, 8, 4), "wo", "ho", "kw", "kh"))
    unrolled = Sequential([tirx.transform.UnrollLoop(), StmtSimplify()])(mod)
    # Of 4 rows times 3 taps, 10 read a row of the input; columns alike.
    assert accumulations(unrolled) == 10 * 10
    assert not [line for line in unrolled.script().splitlines() if " if " in line]


def test_conditions_stand_as_far_outside_as_they_can():
    lines = [line.strip() for line in loops_of(left_out(conv(4, 8, 8))).script().splitlines()]
    (row,) = [at for at, line in enumerate(lines) if line.startswith("if") and "ho" in line]
    (column,) = [at for at, line in enumerate(lines) if line.startswith("if") and "wo" in line]
    assert lines[row - 1].startswith("for ci, kh, kw, ho in")
    assert lines[row + 1].startswith("for wo in")
    assert lines[column - 1] == lines[row + 1]
    assert lines[column + 1].startswith("for co in T.vectorized")


def test_what_is_padding_is_not_multiplied():
    nest = left_out(conv(4, 8, 5))
    kernel = build_kernel(nest, TARGET)
    x = np.ones(nest.shape.input_shape, np.float32)
    weight = np.ones((8, 4, 3, 3), np.float32)
    weight[:, :, 0] = np.nan
    arguments = [tvm.runtime.tensor(a) for a in kernel.arguments(x, [weight], None)]
    kernel.module["main"](*arguments)
    result = arguments[-1].numpy()
    # The first row of taps reads padding for the first row of the output, and only for that.
    assert np.isfinite(result[:, :, 0]).all()
    assert np.isnan(result[:, :, 1:]).all()


@pytest.mark.parametrize("unrolled", [(), ("wo",), ("wo", "ho"), ("wo", "ho", "kw", "kh")])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_every_mode_of_padding_computes_the_convolution(mode, unrolled):
    check(left_out(conv(4, 8, (4, 5), padding=(1, 2, 0, 1), padding_mode=mode), *unrolled))


@pytest.mark.parametrize("loop", ["n", "ci", "kh"])
def test_an_input_fetched_ahead_is_fetched_with_its_padding(loop):
    check(after(left_out(conv(4, 8, 6)), gene("prefetch", operand="input", loop=loop)))


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from([1, 2, 3, 5]),
    st.tuples(*[st.sampled_from([1, 2, 3])] * 4),
    st.tuples(*[st.integers(0, 4)] * 4).filter(any),
    st.sampled_from([(1, 0), (1, 8), (2, 8), (4, 4)]),
    st.booleans(),
)
def test_any_padding_is_left_out(size, kernel, steps, padding, packed, bias):
    groups, lanes = packed
    reach = max(steps[2:]) * (kernel - 1)
    nest = conv(
        8,
        16,
        (size[0] + reach, size[1] + reach),
        kernel,
        stride=steps[:2],
        dilation=steps[2:],
        padding=padding,
        groups=groups,
        bias=bias,
        input_lanes=lanes,
    )
    check(left_out(nest, "wo"))


def test_a_condition_on_memory_stays_where_it_is():
    @T.prim_func(s_tir=True)
    def counts(flag: T.Buffer((1,), "int32"), limit: T.int32):
        for _ in range(4):
            if flag[0] < limit:
                flag[0] = flag[0] + 1

    mod = tvm.IRModule({"main": counts})
    tvm.ir.assert_structural_equal(skipped_padding(mod), mod)
