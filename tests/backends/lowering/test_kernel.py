from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from backends.lowering import build_kernel, default_schedule
from backends.lowering.geometry import kernel_packings
from backends.lowering.kernel import pack
from tests.backends.lowering.kernels import AVX512, TARGET, after, check, conv, gene


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


def test_channels_that_are_lost_have_zeros_for_weights_at_the_end_of_their_group() -> None:
    nest = after(
        conv(4, 6, 4, groups=2, kernel=1),
        gene("round_up", factor=4),
        gene("pack", operand="weight", lanes=4),
    )
    (packing,) = kernel_packings(nest)
    assert (packing.channels, packing.groups, packing.shape) == (8, 2, (2, 2, 1, 1, 4))
    weight = np.arange(1, 13, dtype=np.float32).reshape(6, 2, 1, 1)
    (packed,) = pack(nest, [weight], None)
    assert packed[:, :, 0, 0, :].tolist() == [
        [[1, 3, 5, 0], [2, 4, 6, 0]],
        [[7, 9, 11, 0], [8, 10, 12, 0]],
    ]
    check(nest)


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
