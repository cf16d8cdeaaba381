"""What GPU kernels are compiled for: architectures and their limits."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from backends.base import BackendError


@dataclass(frozen=True)
class GpuFeatures:
    """What a schedule needs to know of a GPU.

    Attributes:
        arch: The architecture, as nvcc calls it: "sm_90".
        multiprocessors: Of the usual product; it decides which schedules are proposed first.
        threads_each: Threads that one multiprocessor holds at a time.
        shared_each: Shared memory of one multiprocessor, in bytes.
        max_threads: Threads of one block.
        max_shared_bytes: Shared memory of one block.
        max_local_bytes: Local memory of one thread, registers included.
        max_vthreads: Virtual threads of one thread, which are copies of its code.
        max_vector_bytes: One load or store.
        warp: Threads that run in step.
        registers_each: Registers of one multiprocessor, of 4 bytes.
    """

    arch: str
    multiprocessors: int
    threads_each: int
    shared_each: int
    max_threads: int = 1024
    max_shared_bytes: int = 48 << 10
    max_local_bytes: int = 4 << 10
    max_vthreads: int = 8
    max_vector_bytes: int = 16
    warp: int = 32
    registers_each: int = 64 << 10

    lanes: ClassVar[int] = 0
    """Channels in a block of an activation: they stay in NCHW."""


# Shared memory beyond 48 KiB in a block would have to be asked for at every launch.
_KNOWN = (
    GpuFeatures("sm_75", 40, 1024, 64 << 10),
    GpuFeatures("sm_80", 108, 2048, 164 << 10),
    GpuFeatures("sm_86", 82, 1536, 100 << 10),
    GpuFeatures("sm_87", 16, 1536, 164 << 10),
    GpuFeatures("sm_89", 128, 1536, 100 << 10),
    GpuFeatures("sm_90", 132, 2048, 228 << 10),
    GpuFeatures("sm_100", 148, 2048, 228 << 10),
    GpuFeatures("sm_103", 160, 2048, 228 << 10),
    GpuFeatures("sm_110", 20, 1536, 228 << 10),
    GpuFeatures("sm_120", 170, 1536, 100 << 10),
    GpuFeatures("sm_121", 48, 1536, 100 << 10),
)

ARCHITECTURES: Mapping[str, GpuFeatures] = {features.arch: features for features in _KNOWN}
"""By name; nvcc 13 compiles for all of them."""


def gpu_features(arch: str) -> GpuFeatures:
    """The limits of an architecture.

    Raises:
        BackendError: It is unknown; TVM itself accepts any name.
    """
    if arch not in ARCHITECTURES:
        raise BackendError(f"unknown arch {arch!r}; known: {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[arch]


def arch_of(device: Any) -> str:
    """The architecture of a GPU, as TVM knows one of this machine or of a board: "sm_90"."""
    return f"sm_{str(device.compute_version).replace('.', '')}"


def gpu_trouble(arch: str) -> str:
    """Why kernels for `arch` cannot be run on this machine, as a sentence; "" where they can."""
    import tvm

    device = tvm.cuda(0)
    if not device.exist:
        return (
            "there is no CUDA device that TVM can use, so nothing can be measured here; run "
            "this on a machine with an NVIDIA GPU, its driver and libcudart.so.13, or search "
            "with backend.name: cpu (kernels for a GPU can be compiled here, by "
            "backends.lowering.gpu.build_kernel)"
        )
    found = arch_of(device)
    if found != arch:
        return (
            f"backend.arch is {arch}, but this GPU ({device.device_name}) is {found}; set "
            f"backend.arch: {found}"
        )
    return nvcc_trouble()


def nvcc_trouble() -> str:
    """Why no kernel for a GPU can be compiled here, one line; "" when it can."""
    if shutil.which("nvcc"):
        return ""
    return "there is no nvcc on the PATH; install the CUDA toolkit, or add its bin folder to PATH"


def target_features(target: Mapping[str, Any]) -> GpuFeatures:
    """The limits of a target of kind "cuda": those of its architecture, or lower ones of its own.

    Raises:
        BackendError: The architecture is unknown.
    """
    known = gpu_features(str(target["arch"]))
    return replace(
        known,
        max_threads=_lower(known.max_threads, target.get("max_threads_per_block")),
        max_shared_bytes=_lower(known.max_shared_bytes, target.get("max_shared_memory_per_block")),
    )


def _lower(known: int, given: Any) -> int:
    return known if given is None else min(known, int(given))


def gpu_target(arch: str, host: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A target for `tvm.target.Target`.

    Args:
        arch: As nvcc calls it: "sm_90".
        host: The target of the code that calls the kernels; this machine's CPU if not given.

    Raises:
        BackendError: The architecture is unknown.
    """
    limits = gpu_features(arch)
    return {
        "kind": "cuda",
        "arch": arch,
        "max_threads_per_block": limits.max_threads,
        "max_shared_memory_per_block": limits.max_shared_bytes,
        "host": dict(host or {"kind": "llvm"}),
    }


def nvcc_version() -> str:
    """The release of the compiler, like "13.0, V13.0.88"; "unknown" without one."""
    if nvcc_trouble():
        return "unknown"
    told = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=False)
    releases = [x.partition("release ")[2] for x in told.stdout.splitlines() if "release " in x]
    return releases[0] if releases else "unknown"
