"""What a kernel loses when it finds its operands where a network leaves them.

A kernel that is timed again and again has its operands in the nearest cache that holds them.  In
a network, the weights of all other kernels are read between two calls: those of a large network
come from memory each time, and kernels with little arithmetic then wait for them.  Its input has
just been written by the kernel before, of which each thread leaves a share in its own cache.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from backends.timing.helpers import LINE

ALIGNMENT = 256
"""Bytes; kernels take their arguments for aligned."""

ROUND_S = 0.0015
FEWEST_CALLS, MOST_CALLS = 4, 64
_FLOAT_BYTES = 4


def losing(
    call: Callable[..., object],
    arguments: Sequence[Any],
    weight_bytes: int,
    fill: Callable[[Any], object],
    once_s: float,
) -> Callable[[], float]:
    """A measurement of the seconds per call that are lost between other kernels of a network.

    Args:
        call: The kernel.
        arguments: Input, weights, output; TVM tensors on the CPU.
        weight_bytes: Weights of the network, which are read in turns.
        fill: As in `Helpers`; writes the input before each call.
        once_s: What a call takes, about.

    Returns:
        Each time, the difference between calls that read the next weights of the network and a
        new input each and calls that read the same ones, writing the input taken off; less than
        nothing by chance.  What it takes to get the lines of the input back from those that have
        read them counts: it is what writing the output takes in a network.
    """
    pool = _pool(weight_bytes)
    shapes = [tuple(int(e) for e in a.shape) for a in arguments[1:-1]]
    data, lines = _input(tuple(int(e) for e in arguments[0].shape))
    count = _calls(once_s)
    pool.begin(shapes)
    same = [(data, *pool.take(shapes), arguments[-1])] * count
    fill(lines)

    def lost_s() -> float:
        fresh = [(data, *pool.take(shapes), arguments[-1]) for _ in range(count)]
        all_s = _seconds(lambda *a: (fill(lines), call(*a)), fresh)
        filling_s = _seconds(lambda *_: fill(lines), same)
        return (all_s - filling_s - _seconds(call, same)) / count

    return lost_s


def losing_takes_s(once_s: float) -> float:
    """Seconds of one measurement of `losing`, about."""
    return 2 * (_calls(once_s) + 1) * once_s


def _calls(once_s: float) -> int:
    return min(max(FEWEST_CALLS, round(ROUND_S / once_s)), MOST_CALLS)


def _input(shape: tuple[int, ...]) -> tuple[Any, Any]:
    """A new input, and the same memory as lines of a cache."""
    import tvm

    elements = int(np.prod(shape))
    memory = _aligned(-(-elements // LINE) * LINE)
    data = tvm.runtime.from_dlpack(memory[:elements].reshape(shape))
    return data, tvm.runtime.from_dlpack(memory.reshape(-1, LINE))


def _seconds(call: Callable[..., object], calls: Sequence[tuple[Any, ...]]) -> float:
    call(*calls[-1])
    start = time.perf_counter()
    for arguments in calls:
        call(*arguments)
    return time.perf_counter() - start


class _Pool:
    """Weights of a network, of which kernels read one part after the other."""

    def __init__(self, size: int) -> None:
        self._size = size // _FLOAT_BYTES
        self._memory = _aligned(self._size)
        self._next = 0

    def begin(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Make room for tensors of these shapes, and read the pool: caches have what fits in them.

        As many of a large tensor are read in turns as come closest to the size of the pool, so
        the last one may go beyond it by its half.
        """
        largest = max((int(np.prod(shape)) for shape in shapes), default=0)
        needed = max(self._size + largest - largest // 2, largest)
        if needed > self._memory.size:
            self._memory = _aligned(needed)
        self._memory[: self._size].max()
        self._next = 0

    def take(self, shapes: Sequence[tuple[int, ...]]) -> list[Any]:
        """The next tensors of these shapes."""
        import tvm

        return [tvm.runtime.from_dlpack(self._part(shape)) for shape in shapes]

    def _part(self, shape: tuple[int, ...]) -> np.ndarray:
        count = int(np.prod(shape))
        if self._next + count // 2 > self._size:
            self._next = 0
        part = self._memory[self._next : self._next + count]
        step = ALIGNMENT // _FLOAT_BYTES
        self._next += -(-count // step) * step
        return part.reshape(shape)


def _aligned(elements: int) -> np.ndarray:
    memory = np.ones(elements + ALIGNMENT // _FLOAT_BYTES, np.float32)
    first = -memory.ctypes.data % ALIGNMENT // _FLOAT_BYTES
    return memory[first : first + elements]


@functools.lru_cache(maxsize=2)
def _pool(size: int) -> _Pool:
    return _Pool(size)
