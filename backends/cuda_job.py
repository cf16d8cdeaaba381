"""What runs inside a worker of the CUDA backend: build, check on the GPU, time on the GPU.

`initialise` runs once in the nursery, which never touches the GPU: the driver does not survive a
fork, so each worker loads TVM's runtime for it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from backends.base import Failed, FailureKind, Measured, MeasureOptions, Outcome
from backends.gpus import gpu_features
from backends.kernel_job import KernelJob, difference, operands_of
from backends.workers import Stage, gpu_runtime
from genomes.nest import ConvShape, LoopNest

if TYPE_CHECKING:
    from backends.lowering import CompiledKernel

KERNEL_VERSION = 2
"""Raised when a change here or in the lowering makes other kernels from the same genes, or other
times of the same kernels."""

STAGES = ("build", "check", "measure")
EXCLUSIVE = frozenset({"check", "measure"})
"""One kernel runs on the GPU at a time."""


@gpu_runtime.left_out()
def initialise(target: Mapping[str, Any]) -> None:
    """Import and warm up what `run` needs."""
    import torch

    # Threads of PyTorch would make the forks of the nursery unsafe.
    torch.set_num_threads(1)
    from backends.lowering.gpu import cuda_source
    from backends.lowering.gpu.kernel import install_compiler

    cuda_source(LoopNest.fresh(ConvShape(1, 8, 8, (4, 4), (3, 3))), gpu_features(target["arch"]))
    install_compiler(target["arch"])


def run(job: KernelJob, stage: Stage) -> Outcome:
    """The outcome of a job; stage times are added by who asked for it."""
    import tvm

    from backends.lowering import LoweringError
    from backends.lowering.gpu import build_kernel
    from backends.lowering.layout import unpack_channels

    # Before the kernel is built: without it, TVM makes one that cannot run.
    with contextlib.suppress(OSError):  # there is no GPU then, which is said below
        gpu_runtime.load()
    try:
        kernel = build_kernel(job.nest, gpu_features(job.target["arch"]))
    except LoweringError as error:
        return Failed(FailureKind.BUILD_ERROR, str(error))
    stage("check")
    operands = operands_of(job.nest.unscheduled())
    try:
        device = tvm.cuda(0)
        arrays = kernel.arguments(operands.x, operands.weights, operands.bias)
        arguments = [tvm.runtime.tensor(a, device) for a in arrays]
        kernel.module["main"](*arguments)
        result = unpack_channels(arguments[-1].numpy())
        wrong = difference(result, operands.expected, job.options)
        if wrong is not None:
            return Failed(FailureKind.WRONG_RESULT, wrong)
        stage("measure")
        return time_kernel(kernel, arguments, device, job.options, job.hopeless_s)
    except RuntimeError as error:
        _end(error)


def time_kernel(
    kernel: CompiledKernel,
    arguments: list[Any],
    device: Any,
    options: MeasureOptions,
    hopeless_s: float | None = None,
) -> Outcome:
    """Time a kernel on arguments that are on the device, transfers left out.

    Args:
        kernel: The kernel.
        arguments: Input, packed weights, output.
        device: Where they are, as TVM knows it.
        options: How often, and for how long.
        hopeless_s: A kernel that takes longer is given up soon.
    """
    often = {"number": 1, "min_repeat_ms": int(np.ceil(options.min_repeat_ms))}

    def timed(repeats: int) -> tuple[float, ...]:
        evaluator = kernel.module.time_evaluator("main", device, repeat=repeats, **often)
        return tuple(float(seconds) for seconds in evaluator(*arguments).results)

    times_s = timed(1)
    hopeless = hopeless_s is not None and times_s[0] > hopeless_s
    if options.repeats > 1 and not hopeless:
        times_s += timed(options.repeats - 1)
    if not all(np.isfinite(seconds) and seconds > 0 for seconds in times_s):
        return Failed(FailureKind.CRASHED, f"the timer returned {times_s}")
    return Measured(times_s)


def _end(error: RuntimeError) -> NoReturn:
    """End this process: after an error of CUDA, every call in it fails with the same one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    sys.stderr.write(f"{lines[-1] if lines else type(error).__name__}\n")
    sys.stderr.flush()
    os._exit(1)
