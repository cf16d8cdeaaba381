"""What some tests need that a machine may lack; `make test` runs the others without it."""

from __future__ import annotations

import shutil

import pytest

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")
needs_cross_linker = pytest.mark.skipif(
    shutil.which("aarch64-linux-gnu-ld") is None, reason="needs binutils-aarch64-linux-gnu"
)
