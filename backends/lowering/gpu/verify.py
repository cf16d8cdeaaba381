"""The limits of a GPU that only the lowered kernel tells: its memory, checked by TVM."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir.transform import Sequential
from tvm.target import Target

from backends.gpus import GpuFeatures
from backends.lowering.errors import LoweringError
from backends.lowering.gpu.limits import MAX_THREADS_Z

_TO_BUFFERS = (
    s_tir.transform.LowerInitBlock,
    s_tir.transform.PlanAndUpdateBufferAllocationLocation,
    s_tir.transform.ConvertBlocksToOpaque,
    s_tir.transform.LiftThreadBinding,
    s_tir.transform.CompactBufferAllocation,
    s_tir.transform.UnifyThreadBinding,
    s_tir.transform.LowerMatchBuffer,
    s_tir.transform.StmtSimplify,
    s_tir.transform.LowerOpaqueBlock,
    tirx.transform.FlattenBuffer,
    tirx.transform.VectorizeLoop,
    s_tir.transform.InjectVirtualThread,
    tirx.transform.StorageRewrite,
    s_tir.transform.MergeSharedMemoryAllocations,
)
"""The part of TVM's pipeline after which buffers have the sizes that they have on the GPU."""


def verify(mod: tvm.IRModule, target: Target, gpu: GpuFeatures) -> None:
    """Check a scheduled kernel against the limits of a GPU, before anything is built.

    Raises:
        LoweringError: It breaks one; the message says which.
    """
    with target:
        bound = tirx.transform.BindTarget(target)(mod)
        lowered = Sequential([step() for step in _TO_BUFFERS])(bound)
        try:
            check = tvm.get_global_func("s_tir.transform.VerifyGPUCode")
            check(_constraints(gpu))(lowered)
        except RuntimeError as error:
            raise LoweringError(f"{_reason(error)} on {gpu.arch}") from error


def _constraints(gpu: GpuFeatures) -> dict[str, Any]:
    limits = {
        "max_threads_per_block": gpu.max_threads,
        "max_thread_z": MAX_THREADS_Z,
        "max_shared_memory_per_block": gpu.max_shared_bytes,
        "max_local_memory_per_block": gpu.max_local_bytes,
        "max_vector_bytes": gpu.max_vector_bytes,
    }
    return {name: tirx.IntImm("int32", limit) for name, limit in limits.items()}


def _reason(error: RuntimeError) -> str:
    """The first of the limits that TVM's message lists, before it prints the whole kernel."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "greater than" in line), lines[0])
