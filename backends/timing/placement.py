"""Where the thread that calls kernels runs."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Keep the calling thread off the cores that belong to others of this process.

    TVM binds the threads of its pool, but not the one that calls the kernel.  As long as the
    scheduler leaves that one beside a bound one, a kernel takes twice as long.
    """
    usable = os.sched_getaffinity(0)
    taken: set[int] = set()
    for thread in map(int, os.listdir("/proc/self/task")):
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            cores = os.sched_getaffinity(thread)
            if thread != threading.get_native_id() and cores < usable:
                taken |= cores
    try:
        os.sched_setaffinity(0, usable - taken or usable)
        yield
    finally:
        os.sched_setaffinity(0, usable)
