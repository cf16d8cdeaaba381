from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from backends.lowering import build_kernel, default_schedule
from tests.backends.lowering.kernels import AVX512, TARGET, after, conv, gene


@pytest.fixture(scope="module")
def kernel():
    nest = after(
        conv(4, 8, 6, bias=True),
        gene("split_domain", loop="co", parts=2),
        gene("pack", 1, operand="weight", lanes=2),
    )
    return build_kernel(nest, TARGET)


def test_shapes(kernel):
    assert kernel.shape.input_shape == (1, 4, 6, 6)
    assert kernel.shape.output_shape == (1, 8, 6, 6)


def test_packed_weights_have_the_lanes_innermost(kernel):
    weights = [np.random.default_rng(i).random((4, 4, 3, 3), np.float32) for i in range(2)]
    bias = np.arange(8, dtype=np.float32)
    plain, packed, last = kernel.pack(weights, bias)
    np.testing.assert_array_equal(plain, weights[0])
    assert packed.shape == (2, 4, 3, 3, 2)
    for channel in range(4):
        np.testing.assert_array_equal(packed[channel // 2, ..., channel % 2], weights[1][channel])
    np.testing.assert_array_equal(last, bias)


def test_a_missing_bias_is_an_error(kernel):
    with pytest.raises(ValueError, match="bias"):
        kernel.pack([np.zeros((4, 4, 3, 3), np.float32)] * 2, None)


def test_accumulators_of_a_kilobyte_stay_on_the_stack():
    nest = default_schedule(conv(64, 64, (8, 32), padding_mode="reflect"), AVX512)
    code = build_kernel(nest, TARGET).module.inspect_source("ll")
    # TVM allocates the padded input by a call; LLVM keeps the accumulators in registers.
    assert code.count("load ptr, ptr @__TVMBackendAllocWorkspace") == 1


def test_importing_the_package_does_not_import_tvm():
    code = (
        "import sys, backends.lowering as b; b.default_schedule, b.LoweringError; "
        "sys.exit('tvm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
