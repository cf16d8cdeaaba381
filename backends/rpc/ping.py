"""One look at one board: what it is, how far away it is, whether it computes; run in a worker."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backends.base import BackendError, MeasureOptions
from backends.boards import board_target
from backends.kernel_job import difference, operands_of
from backends.rpc.gpus import device_of
from backends.rpc.kernels import built
from backends.rpc.messages import last_line
from backends.rpc.serve import FACTS
from backends.rpc.tracker import Grant
from backends.workers import Stage, WorkerSpec, gpu_runtime
from backends.workers.outcomes import ONE_THREAD
from genomes.nest import ConvShape, LoopNest

KERNEL = LoopNest.fresh(ConvShape(1, 8, 8, (8, 8), (3, 3), padding=(1, 1, 1, 1)))
CALLS = 9
LIMITS_S = {"connect": 15.0, "kernel": 45.0}


@dataclass(frozen=True)
class Ping:
    """A board to look at.

    Attributes:
        grant: The board; None only warms up.
        target: What the kernel is compiled for, as for `board_target`; what the board says of
            its architecture when not given.
    """

    grant: Grant | None
    target: str | Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Pong:
    """What a board has answered.

    Attributes:
        facts: What `serve.py` tells of the board; nothing of another server.
        round_trip_s: Median of some calls that do nothing.
        kernel_s: Sending a kernel, running it once and fetching its result; None without one.
        trouble: Why the board cannot be used, one line; "" when it can.
    """

    facts: Mapping[str, Any]
    round_trip_s: float
    kernel_s: float | None = None
    trouble: str = ""


def worker_spec() -> WorkerSpec:
    """Workers for `run`; what blocks in them is killed."""
    return WorkerSpec(
        function="backends.rpc.ping:run",
        limits_s=LIMITS_S,
        initialise="backends.rpc.ping:initialise",
        environment={**ONE_THREAD, "TVM_NUM_THREADS": "1"},
        repeats_killed=False,  # a board is granted once
    )


@gpu_runtime.left_out()
def initialise() -> None:
    """Import what `run` needs."""
    import torch

    torch.set_num_threads(1)
    from backends.lowering import build_kernel

    build_kernel(KERNEL, board_target("native", 1))


def run(ping: Ping, stage: Stage) -> Pong | None:
    """Ask a board."""
    from tvm import rpc

    grant = ping.grant
    if grant is None:
        return None
    limit_s = sum(LIMITS_S.values())
    session = rpc.connect(grant.host, grant.port, grant.matchkey, session_timeout=limit_s)
    try:
        facts = _told(session)
        pong = Pong(facts, _round_trip_s(session), trouble=_mismatch(facts))
        if pong.trouble:
            return pong
        stage("kernel")
        return _computed(session, pong, ping.target)
    finally:
        # The board is free at once, whatever still refers to something on it.
        with contextlib.suppress(Exception):
            session.get_function("CloseRPCConnection")()


def _told(session: Any) -> dict[str, Any]:
    try:
        tell = session.get_function(FACTS)
    except AttributeError:
        return {}
    facts: dict[str, Any] = json.loads(str(tell()))
    return facts


def _round_trip_s(session: Any) -> float:
    nothing = session.get_function("tvm.rpc.server.workpath")
    seconds = []
    for _ in range(CALLS):
        began = time.perf_counter()
        nothing("")
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _mismatch(facts: Mapping[str, Any]) -> str:
    """Which version differs from this machine's."""
    import tvm
    import tvm_ffi

    ours = {"apache-tvm": ("tvm", tvm.__version__), "apache-tvm-ffi": ("ffi", tvm_ffi.__version__)}
    for package, (name, version) in ours.items():
        theirs = facts.get(name)
        if theirs is not None and theirs != str(version):
            return (
                f"it has {package} {theirs} and this machine {version}: install there what"
                " requirements.txt of the board kit says"
            )
    return ""


def _computed(session: Any, pong: Pong, spec: str | Mapping[str, Any] | None) -> Pong:
    """Run the kernel there and compare its result with PyTorch's."""
    from backends.lowering import LoweringError

    if spec is None and "machine" not in pong.facts:
        return replace(pong, trouble="it does not run serve.py: give --target to try a kernel")
    try:
        target = board_target(spec or _generic(str(pong.facts["machine"])), 1)
        try:
            library = built(KERNEL, target)
        except LoweringError as error:
            return replace(pong, trouble=f"this machine cannot build a kernel for it: {error}")
        began = time.perf_counter()
        wrong = _difference(session, device_of(session, target), library)
        seconds = time.perf_counter() - began
    except BackendError as error:
        return replace(pong, trouble=str(error))
    except Exception as error:  # noqa: BLE001 - TVM raises what the board has raised
        return replace(pong, trouble=f"the kernel does not run there: {last_line(error)}")
    if wrong is not None:
        return replace(pong, trouble=f"it computes something wrong: {wrong}")
    return replace(pong, kernel_s=seconds)


def _generic(machine: str) -> dict[str, Any]:
    return {"mtriple": f"{machine}-linux-gnu", "num-cores": 1}


def _difference(session: Any, device: Any, library: bytes) -> str | None:
    import tvm

    from backends.lowering import kernel_arguments

    operands = operands_of(KERNEL)
    session.upload(bytearray(library), "ping.so")
    arrays = kernel_arguments(KERNEL, operands.x, operands.weights, operands.bias)
    arguments = [tvm.runtime.tensor(np.asarray(a), device) for a in arrays]
    session.load_module("ping.so")["main"](*arguments)
    return difference(arguments[-1].numpy(), operands.expected, MeasureOptions())
