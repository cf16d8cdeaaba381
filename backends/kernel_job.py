"""What runs inside a worker: build a kernel, check its numbers against PyTorch, time it.

`initialise` runs once in the nursery, which stays single-threaded: no kernel runs there.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.base import Failed, FailureKind, Measured, MeasureOptions, Outcome
from backends.cold import lost_s
from backends.workers import Stage
from genomes.nest import ConvShape, LoopNest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from backends.lowering import CompiledKernel

KERNEL_VERSION = 2
"""Raised when a change here or in the lowering makes other kernels from the same genes."""

STAGES = ("build", "check", "measure")
EXCLUSIVE = frozenset({"measure"})


@dataclass(frozen=True)
class KernelJob:
    """One kernel to build, check and time.

    Attributes:
        nest: Scheduled.
        target: For `tvm.target.Target`.
        options: How to check and time it.
        hopeless_s: A kernel whose first timing is longer than that is not timed again.
    """

    nest: LoopNest
    target: Mapping[str, Any]
    options: MeasureOptions
    hopeless_s: float | None = None


@dataclass(frozen=True)
class Operands:
    """Random operands of a nest and PyTorch's result.

    Attributes:
        x: (N, C_in, H, W).
        weights: In the order of `LoopNest.weights`.
        bias: (C_out,) or None.
        expected: (N, C_out, H_out, W_out).
    """

    x: NDArray[np.float32]
    weights: tuple[NDArray[np.float32], ...]
    bias: NDArray[np.float32] | None
    expected: NDArray[np.float32]


def initialise(target: Mapping[str, Any]) -> None:
    """Import and warm up what `run` needs."""
    import torch

    # Threads of PyTorch would go on spinning beside the kernel that is timed.
    torch.set_num_threads(1)
    from backends.lowering import build_kernel

    build_kernel(LoopNest.fresh(ConvShape(1, 8, 8, (4, 4), (3, 3))), dict(target))


def run(job: KernelJob, stage: Stage) -> Outcome:
    """The outcome of a job; stage times are added by who asked for it."""
    import tvm

    from backends.lowering import LoweringError, build_kernel
    from backends.lowering.layout import unpack_channels

    try:
        kernel = build_kernel(job.nest, dict(job.target))
        # Machine code is made at the first look-up.
        kernel.module["main"]
    except LoweringError as error:
        return Failed(FailureKind.BUILD_ERROR, str(error))
    stage("check")
    operands = operands_of(job.nest.unscheduled())
    arrays = kernel.arguments(operands.x, operands.weights, operands.bias)
    arguments = [tvm.runtime.tensor(a) for a in arrays]
    kernel.module["main"](*arguments)
    result = unpack_channels(arguments[-1].numpy())
    wrong = difference(result, operands.expected, job.options)
    if wrong is not None:
        return Failed(FailureKind.WRONG_RESULT, wrong)
    stage("measure")
    with apart():
        return time_kernel(kernel, arguments, job.options, job.hopeless_s)


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


def time_kernel(
    kernel: CompiledKernel,
    arguments: list[Any],
    options: MeasureOptions,
    hopeless_s: float | None = None,
) -> Outcome:
    """Time a kernel on arguments that are on the device.

    Args:
        kernel: The kernel.
        arguments: Input, packed weights, output.
        options: How often, and for how long.
        hopeless_s: The first timing is the only one if it is longer than that.
    """
    import tvm

    def timed(repeats: int) -> tuple[float, ...]:
        evaluator = kernel.module.time_evaluator(
            "main",
            tvm.cpu(0),
            number=1,
            repeat=repeats,
            min_repeat_ms=int(np.ceil(options.min_repeat_ms)),
        )
        return tuple(float(seconds) for seconds in evaluator(*arguments).results)

    times_s = timed(1)
    if options.repeats > 1 and (hopeless_s is None or times_s[0] <= hopeless_s):
        times_s += timed(options.repeats - 1)
    if not all(np.isfinite(seconds) and seconds > 0 for seconds in times_s):
        return Failed(FailureKind.CRASHED, f"the timer returned {times_s}")
    if options.weight_bytes:
        lost = lost_s(kernel.module["main"], arguments, options.weight_bytes)
        times_s = tuple(seconds + lost for seconds in times_s)
    return Measured(times_s)


@functools.lru_cache(maxsize=4)
def operands_of(nest: LoopNest) -> Operands:
    """Operands drawn from a seed that depends on what `nest` computes, and PyTorch's result."""
    import torch

    from genomes.modules import SiteConv2d

    rng = np.random.default_rng(int(nest.structure_key, 16))

    def draw(shape: tuple[int, ...]) -> NDArray[np.float32]:
        # Never near zero, where an error could hide.
        signs = rng.choice(np.array([-1, 1], np.float32), shape)
        return signs * rng.uniform(0.5, 1.5, shape).astype(np.float32)

    x = draw(nest.shape.input_shape)
    weights = tuple(draw(s.weight_shape) for s in nest.weights)
    bias = draw((nest.shape.out_channels,)) if nest.shape.bias else None
    module = SiteConv2d(nest)
    with torch.no_grad():
        for parameter, weight in zip(module.weights, weights, strict=True):
            parameter.copy_(torch.from_numpy(weight))
        if module.bias is not None and bias is not None:
            module.bias.copy_(torch.from_numpy(bias))
        expected = module(torch.from_numpy(x)).numpy()
    return Operands(x, weights, bias, expected)


def difference(
    actual: NDArray[np.float32], expected: NDArray[np.float32], options: MeasureOptions
) -> str | None:
    """How `actual` differs from PyTorch's result by more than the tolerance, or None."""
    if actual.shape != expected.shape:
        return f"the result has shape {actual.shape}, not {expected.shape}"
    unset = int(np.isnan(actual).sum())
    if unset:
        return f"{unset} of {actual.size} elements are NaN"
    allowed = options.atol + options.rtol * float(np.abs(expected).max())
    error = float(np.abs(actual - expected).max())
    if error <= allowed:
        return None
    return f"the largest error is {error:.3g} where at most {allowed:.3g} is allowed"
