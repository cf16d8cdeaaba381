"""What this machine can do at most: the roofline under which kernels are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from backends.lowering.geometry import statement_forms
from backends.timing.helpers import CHAINS, multiply_adds
from backends.timing.steady import fastest_s
from genomes.nest import LoopNest

STEPS = 50_000
REPEATS = 1000
"""Calls that are timed: some tenths of a second, until two threads have found their cores."""
COPIED_BYTES = 2 << 20
"""More than the first two caches of a core, less than the last one."""


@dataclass(frozen=True)
class Bounds:
    """The roofline.

    Attributes:
        macs_per_s: Multiply-adds per second, all threads.
        bytes_per_s: Bytes read and written per second from the last cache, all threads.
        call_s: Seconds of a call that does next to nothing on all threads; no kernel is faster,
            though that is not part of its bound.
    """

    macs_per_s: float
    bytes_per_s: float
    call_s: float = 0.0

    def seconds(self, nest: LoopNest) -> tuple[float, str]:
        """The least time of a kernel in seconds, and what sets it: arithmetic or bandwidth.

        Multiply-adds with zeros of the padding are not counted: no kernel has to do them.
        """
        shape = nest.shape
        elements = nest.parameters + prod(shape.input_shape) + prod(shape.output_shape)
        macs = sum(form.needed_macs for form in statement_forms(nest))
        computed, moved = macs / self.macs_per_s, 4 * elements / self.bytes_per_s
        return (computed, "arithmetic") if computed >= moved else (moved, "bandwidth")


def measure_bounds(target: Mapping[str, Any], threads: int, lanes: int) -> Bounds:
    """Measure them: multiply-adds of vectors in registers, and the copy of an array.

    Args:
        target: TVM's description of the CPU.
        threads: As many as kernels use; torch must use as many.
        lanes: float32 in a vector register.
    """
    import torch

    run = multiply_adds(target, threads, lanes, STEPS)
    macs = threads * CHAINS * lanes * STEPS
    source = torch.ones(COPIED_BYTES // 4)
    copy = torch.empty_like(source)
    return Bounds(
        macs_per_s=macs / fastest_s(run, REPEATS),
        bytes_per_s=2 * COPIED_BYTES / fastest_s(lambda: copy.copy_(source), REPEATS),
        call_s=fastest_s(multiply_adds(target, threads, lanes, 1), 10 * REPEATS),
    )
