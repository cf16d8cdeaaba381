"""Candidates side by side: each is computed by one thread alone.

One thread for each candidate is faster than all threads for one, and makes a score independent
of how many threads there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

import torch

from engine.capacity.workbench import Workbench

T = TypeVar("T")
R = TypeVar("R")


class Crew:
    """A workbench for each thread.

    Args:
        bench: The first one.
        count: Threads.
    """

    def __init__(self, bench: Workbench, count: int) -> None:
        self._count = count
        self._benches: SimpleQueue[Workbench] = SimpleQueue()
        for each in (bench, *(bench.fork() for _ in range(count - 1))):
            self._benches.put(each)

    def map(self, function: Callable[[Workbench, T], R], items: Sequence[T]) -> list[R]:
        """`function(bench, item)` of every item, in order."""

        def call(item: T) -> R:
            bench = self._benches.get()
            try:
                return function(bench, item)
            finally:
                self._benches.put(bench)

        threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(self._count, "capacity", partial(torch.set_num_threads, 1))
        try:
            with pool:
                return list(pool.map(call, items))
        finally:
            # What a thread sets for itself is also the default of threads made later.
            torch.set_num_threads(threads)
