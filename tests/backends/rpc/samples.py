"""Options for the tests of the RPC backend."""

from __future__ import annotations

import time

from backends.rpc.backend import RpcOptions


def options(farm, **changes) -> RpcOptions:
    quick = {
        "target": "native",
        "threads": 1,
        "repeats": 3,
        "min_repeat_ms": 1.0,
        "run_timeout_s": 5.0,
        "connect_timeout_s": 8.0,
        "builders": 2,
    }
    return RpcOptions(**{"tracker": farm.tracker, "key": farm.key, **quick, **changes})


def until(condition, timeout_s=5.0) -> bool:
    """Whether `condition` comes true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
