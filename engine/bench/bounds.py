"""What this machine can do at most: the roofline under which kernels are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from backends.lowering.geometry import statement_forms
from backends.timing.helpers import CHAINS, multiply_adds
from genomes.nest import LoopNest

STEPS = 50_000
COPIED_BYTES = 2 << 20
"""More than the first two caches of a core, less than the last one."""
MULTIPLY_ADDS, COPY, CALL = "multiply_adds", "copy", "call"


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

    @classmethod
    def of(cls, least_s: Mapping[str, float], threads: int, lanes: int) -> Bounds:
        """Those that follow from the least seconds of a call of each of the `limits`."""
        return cls(
            macs_per_s=threads * CHAINS * lanes * STEPS / least_s[MULTIPLY_ADDS],
            bytes_per_s=2 * COPIED_BYTES / least_s[COPY],
            call_s=least_s[CALL],
        )

    def seconds(self, nest: LoopNest) -> tuple[float, str]:
        """The least time of a kernel in seconds, and what sets it: arithmetic or bandwidth.

        Multiply-adds with zeros of the padding are not counted: no kernel has to do them.
        """
        shape = nest.shape
        elements = nest.parameters + prod(shape.input_shape) + prod(shape.output_shape)
        macs = sum(form.needed_macs for form in statement_forms(nest))
        computed, moved = macs / self.macs_per_s, 4 * elements / self.bytes_per_s
        return (computed, "arithmetic") if computed >= moved else (moved, "bandwidth")


def limits(target: Mapping[str, Any], threads: int, lanes: int) -> dict[str, Callable[[], object]]:
    """What is timed for them: multiply-adds of vectors in registers, the copy of an array, and
    a call on all threads.

    Args:
        target: TVM's description of the CPU.
        threads: As many as kernels use; torch must use as many.
        lanes: float32 in a vector register.
    """
    import torch

    source = torch.ones(COPIED_BYTES // 4)
    copy = torch.empty_like(source)
    return {
        MULTIPLY_ADDS: multiply_adds(target, threads, lanes, STEPS),
        COPY: lambda: copy.copy_(source),
        CALL: multiply_adds(target, threads, lanes, 1),
    }
