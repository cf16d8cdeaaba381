from __future__ import annotations

import os
import subprocess
import sys
import threading

from backends.timing import apart


def stays_off_the_cores_of_bound_threads() -> None:
    usable = os.sched_getaffinity(0)
    core = max(usable)
    bound, done = threading.Event(), threading.Event()

    def wait_bound() -> None:
        os.sched_setaffinity(0, {core})
        bound.set()
        done.wait()

    thread = threading.Thread(target=wait_bound)
    thread.start()
    try:
        bound.wait()
        with apart():
            assert os.sched_getaffinity(0) == (usable - {core} or usable)
        assert os.sched_getaffinity(0) == usable
    finally:
        done.set()
        thread.join()
    while os.path.exists(f"/proc/self/task/{thread.native_id}"):
        pass  # Python is done with a thread before the system is
    with apart():
        assert os.sched_getaffinity(0) == usable


def test_the_timed_thread_stays_off_the_cores_of_bound_ones():
    """In a process of its own: in this one, threads of other tests are bound as well."""
    here = stays_off_the_cores_of_bound_threads
    script = f"from {__name__} import {here.__name__}; {here.__name__}()"
    subprocess.run([sys.executable, "-c", script], check=True)
