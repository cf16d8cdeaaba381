from __future__ import annotations

import pytest

from backends.devices import cpu_target
from tests.backends.lowering.kernels import (
    HAS_MASKS,
    TARGET,
    check,
    code,
    depthwise,
    in_place,
    needs_masks,
)


@needs_masks
@pytest.mark.parametrize("columns", [7, 14, 28])
def test_odd_rows_are_stored_under_a_mask(columns):
    assert "call void @llvm.masked.store" in code(in_place(depthwise((3, columns))), "ll")


def test_without_masks_the_kernel_is_the_same_function():
    target = cpu_target(1, None, ("-avx512vl",)) if HAS_MASKS else TARGET
    check(in_place(depthwise((6, 7), stride=(2, 2))), target=target)
