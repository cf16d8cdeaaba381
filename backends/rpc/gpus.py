"""The processor of a board that kernels run on: its CPU, or its GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.base import BackendError
from backends.gpus import arch_of
from backends.rpc.messages import last_line
from backends.rpc.serve import USE_GPU


def device_of(session: Any, target: Mapping[str, Any]) -> Any:
    """The device of a session that a target of `board_target` is for.

    Raises:
        BackendError: The board has no GPU of this architecture, or cannot use it.
    """
    if target["kind"] != "cuda":
        return session.cpu(0)
    trouble = _trouble(session)
    device = session.cuda(0)
    if trouble or not device.exist:
        why = trouble or "its server does not know any"
        raise BackendError(
            f"it has no GPU that TVM can use: {why}; it needs NVIDIA's driver, libcudart.so.13 and"
            " the server of a board kit for a GPU"
        )
    found = arch_of(device)
    if found != target["arch"]:
        raise BackendError(
            f"its GPU ({device.device_name}) is {found}, and the target is for {target['arch']}"
        )
    return device


def _trouble(session: Any) -> str:
    """Why the session cannot have TVM's runtime for CUDA, in one line; "" when it has."""
    import tvm

    try:
        use_gpu = session.get_function(USE_GPU)
    except AttributeError:  # another server, which may have it from the beginning
        return ""
    try:
        use_gpu()
    except tvm.error.RPCSessionTimeoutError:
        raise
    except tvm.error.RPCError as error:
        return last_line(error)
    return ""


def gpu_facts(device: Any) -> dict[str, Any]:
    """What a board's GPU tells of itself."""
    return {
        "gpu": str(device.device_name),
        "multiprocessors": int(device.multi_processor_count),
        "clock_khz": int(device.max_clock_rate),
    }
