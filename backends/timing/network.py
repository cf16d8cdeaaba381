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

ROUNDS = 5
ROUND_S = 0.002
FEWEST_CALLS, MOST_CALLS = 4, 256
_FLOAT_BYTES = 4


def lost_s(
    call: Callable[..., object],
    arguments: Sequence[Any],
    weight_bytes: int,
    fill: Callable[[Any], object],
    once_s: float,
    most_s: float = float("inf"),
) -> float:
    """Seconds per call that are lost between the other kernels of a network.

    Args:
        call: The kernel.
        arguments: Input, weights, output; TVM tensors on the CPU.
        weight_bytes: Weights of the network, which are read in turns.
        fill: As in `Helpers`; writes the input before each call.
        once_s: What a call takes, about.
        most_s: Nothing is measured that would take about that many seconds or more.

    Returns:
        The difference, not below zero, between calls that read the next weights of the network
        and a new input each time and calls that read the same ones; of each the fastest of some
        rounds, and writing the input alone taken off. What it takes to get the lines of the input
        back from those that have read them counts: it is what writing the output takes in a
        network. 0.0 for a kernel that is too slow to be called so often.
    """
    pool = _pool(weight_bytes)
    shapes = [tuple(int(e) for e in a.shape) for a in arguments[1:-1]]
    data, lines = _input(tuple(int(e) for e in arguments[0].shape))
    count = min(max(FEWEST_CALLS, round(ROUND_S / once_s)), MOST_CALLS)
    if 2 * ROUNDS * (count + 1) * once_s > most_s:
        return 0.0
    same = [(data, *pool.take(shapes), arguments[-1])] * count
    lost, kept, filled = [], [], []
    fill(lines)
    for _ in range(ROUNDS):
        fresh = [(data, *pool.take(shapes), arguments[-1]) for _ in range(count)]
        lost.append(_seconds(lambda *a: (fill(lines), call(*a)), fresh))
        filled.append(_seconds(lambda *_: fill(lines), same))
        kept.append(_seconds(call, same))
    return max(0.0, (min(lost) - min(filled) - min(kept)) / count)


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
        self._memory = _aligned(size // _FLOAT_BYTES)
        self._next = 0

    def take(self, shapes: Sequence[tuple[int, ...]]) -> list[Any]:
        """The next tensors of these shapes; the pool grows to hold the largest of them."""
        import tvm

        return [tvm.runtime.from_dlpack(self._part(shape)) for shape in shapes]

    def _part(self, shape: tuple[int, ...]) -> np.ndarray:
        count = int(np.prod(shape))
        if count > self._memory.size:
            self._memory = _aligned(count)
        if self._next + count > self._memory.size:
            self._next = 0
        part = self._memory[self._next : self._next + count]
        step = ALIGNMENT // _FLOAT_BYTES
        self._next += -(-count // step) * step
        return part.reshape(shape)


def _aligned(elements: int) -> np.ndarray:
    memory = np.ones(elements + ALIGNMENT // _FLOAT_BYTES, np.float32)
    first = -memory.ctypes.data % ALIGNMENT // _FLOAT_BYTES
    return memory[first : first + elements]


@functools.lru_cache(maxsize=1)
def _pool(size: int) -> _Pool:
    return _Pool(size)
