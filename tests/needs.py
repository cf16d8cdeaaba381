"""What some tests need that a machine may lack; `make test` runs the others without it."""

from __future__ import annotations

import shutil

import pytest


def has_gpu() -> bool:
    """Whether there is a GPU that TVM can use; asked when a test runs, since it imports TVM."""
    import tvm

    return bool(tvm.cuda(0).exist)


needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")
needs_cross_linker = pytest.mark.skipif(
    shutil.which("aarch64-linux-gnu-ld") is None, reason="needs binutils-aarch64-linux-gnu"
)
