"""Lowering of scheduled loop nests to CUDA kernels, and good schedules made of genes.

Importing this package imports no TVM; `build_kernel` and `lower` do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backends.lowering.gpu.defaults import (
    GPU_TRANSFORMATIONS,
    default_schedule,
    schedule_candidates,
    schedule_space,
)
from backends.lowering.gpu.limits import broken_limit

if TYPE_CHECKING:
    from backends.lowering.gpu.kernel import build_kernel, compile_source, cuda_source, lower

__all__ = [
    "GPU_TRANSFORMATIONS",
    "broken_limit",
    "build_kernel",
    "compile_source",
    "cuda_source",
    "default_schedule",
    "lower",
    "schedule_candidates",
    "schedule_space",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from backends.lowering.gpu import kernel

        return getattr(kernel, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
