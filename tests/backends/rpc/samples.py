"""Options for the tests of the RPC backend."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from backends.base import LibraryTarget
from backends.network import compile_network
from backends.rpc.backend import RpcOptions
from tests.backends.network.networks import SHAPE, Block


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


def checked_network(there: LibraryTarget, folder: Path, rounds: int) -> tuple[float, ...]:
    """Seconds of a network that computes on a board what PyTorch computes here."""
    model, library = Block().eval(), folder / "network.so"
    compile_network(model, SHAPE, dict(there.target)).export_library(library, there.link)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(x).numpy()
    (found,) = there.run({"net": library}, x.numpy(), rounds).values()
    np.testing.assert_allclose(found.output, expected, rtol=1e-3, atol=1e-4)
    return found.times_s
