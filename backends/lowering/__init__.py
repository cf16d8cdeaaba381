"""Lowering of scheduled loop nests to CPU kernels, and good schedules made of genes.

Importing this package imports no TVM; `build_kernel`, `kernel_arguments` and `lower` do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backends.lowering.defaults import (
    CPU_TRANSFORMATIONS,
    default_schedule,
    schedule_candidates,
    schedule_space,
)
from backends.lowering.errors import LoweringError

if TYPE_CHECKING:
    from backends.lowering.kernel import CompiledKernel, build_kernel, kernel_arguments, lower

__all__ = [
    "CPU_TRANSFORMATIONS",
    "CompiledKernel",
    "LoweringError",
    "build_kernel",
    "default_schedule",
    "kernel_arguments",
    "lower",
    "schedule_candidates",
    "schedule_space",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from backends.lowering import kernel

        return getattr(kernel, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
