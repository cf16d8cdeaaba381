"""What runs inside a worker: build a kernel, check its numbers against PyTorch, time it.

`initialise` runs once in the nursery, which stays single-threaded: no kernel runs there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.base import (
    NOTHING_LOST,
    Failed,
    FailureKind,
    Losses,
    Measured,
    MeasureOptions,
    Outcome,
)
from backends.lowering.epilogue import NO_EPILOGUE, Epilogue
from backends.timing import (
    Helpers,
    apart,
    helpers,
    losing,
    losing_takes_s,
    steady,
    steady_difference,
)
from backends.workers import Stage, gpu_runtime
from genomes.nest import ConvShape, LoopNest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from backends.lowering import CompiledKernel

KERNEL_VERSION = 11
"""Raised when a change here or in the lowering makes other kernels from the same genes, or other
times of the same kernels."""

STAGES = ("build", "check", "measure")
EXCLUSIVE = frozenset({"measure"})

_FLOAT_BYTES = 4
_ROUNDS = 5
"""Measurements of what a kernel loses."""


@dataclass(frozen=True)
class KernelJob:
    """One kernel to build, check and time.

    Attributes:
        nest: Scheduled.
        target: For `tvm.target.Target`.
        options: How to check and time it.
        hopeless_s: A kernel that takes longer on its own is given up soon.
        lost: What such a kernel is taken to lose between the other kernels of a network.
    """

    nest: LoopNest
    target: Mapping[str, Any]
    options: MeasureOptions
    hopeless_s: float | None = None
    lost: Losses = NOTHING_LOST


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


@gpu_runtime.left_out()
def initialise(target: Mapping[str, Any]) -> None:
    """Import and warm up what `run` needs."""
    import torch

    # Threads of PyTorch would go on spinning beside the kernel that is timed.
    torch.set_num_threads(1)
    from backends.lowering import build_kernel

    build_kernel(LoopNest.fresh(ConvShape(1, 8, 8, (4, 4), (3, 3))), dict(target))
    helpers(target)


def run(job: KernelJob, stage: Stage) -> Outcome:
    """The outcome of a job; stage times are added by who asked for it."""
    import tvm

    from backends.lowering import LoweringError, build_kernel
    from backends.lowering.layout import unpack_channels

    as_in_network = job.options.weight_bytes > 0
    nest, epilogue = _in_network(job.nest) if as_in_network else (job.nest, NO_EPILOGUE)
    try:
        kernel = build_kernel(nest, dict(job.target), epilogue)
        # Machine code is made at the first look-up.
        kernel.module["main"]
    except LoweringError as error:
        return Failed(FailureKind.BUILD_ERROR, str(error))
    stage("check")
    operands = operands_of(job.nest.unscheduled())
    bias, lift = operands.bias, np.float32(0)
    if as_in_network:
        # So large that the activation changes nothing that is right, and what it makes zero is
        # far from right.
        lift = 2 * np.abs(operands.expected).max() + 1
        bias = np.full(nest.shape.out_channels, lift) + np.float32(0 if bias is None else bias)
    arrays = kernel.arguments(operands.x, operands.weights, bias)
    arguments = [tvm.runtime.tensor(a) for a in arrays]
    kernel.module["main"](*arguments)
    result = unpack_channels(arguments[-1].numpy()) - lift
    wrong = difference(result, operands.expected, job.options)
    if wrong is not None:
        return Failed(FailureKind.WRONG_RESULT, wrong)
    stage("measure")
    with apart():
        beside = helpers(job.target)
        return time_kernel(kernel, arguments, job, beside)


def _in_network(nest: LoopNest) -> tuple[LoopNest, Epilogue]:
    """A kernel as most stand in a network: the bias is a BatchNorm's, and an activation follows.

    Where registers are short, that is other machine code: kernels take up to 1.4 times as long.
    """
    shape = replace(nest.shape, bias=True)
    return LoopNest(shape, nest.statements), Epilogue(activation="relu")


def time_kernel(
    kernel: CompiledKernel,
    arguments: list[Any],
    job: KernelJob,
    beside: Helpers,
) -> Outcome:
    """Time a kernel on arguments that are on the device.

    Args:
        kernel: The kernel.
        arguments: Input, packed weights, output.
        job: How often, for how long, and when it is given up.
        beside: Kernels of the same target that are run beside it.
    """
    import tvm

    options = job.options
    least_s = float("inf")

    def timed() -> float:
        nonlocal least_s
        if least_s == float("inf"):  # TVM finds out how often it has to be called
            often = {"number": 1, "min_repeat_ms": int(np.ceil(options.min_repeat_ms))}
        else:
            often = {"number": int(np.ceil(options.min_repeat_ms / 1e3 / least_s))}
        evaluator = kernel.module.time_evaluator("main", tvm.cpu(0), repeat=1, **often)
        seconds = float(evaluator(*arguments).results[0])
        if seconds > 0:
            least_s = min(least_s, seconds)
        return seconds

    # Half of the deadline is left for what cannot be foreseen.
    most_s = options.run_timeout_s / 4
    taken = steady(timed, beside.probe.look, options.repeats, job.hopeless_s, most_s)
    if not all(np.isfinite(seconds) and seconds > 0 for seconds in taken.times_s):
        return Failed(FailureKind.CRASHED, f"the timer returned {taken.times_s}")
    calm = taken.calm
    if not options.weight_bytes:
        return Measured(taken.times_s, disturbed=not calm)
    lost = job.lost
    if not taken.hopeless:
        lost, undisturbed = _losses(kernel, arguments, options, beside, min(taken.times_s))
        calm = calm and undisturbed
    times_s = tuple(seconds + lost.far_s for seconds in taken.times_s)
    weight_bytes = _FLOAT_BYTES * sum(math.prod(map(int, a.shape)) for a in arguments[1:-1])
    return Measured(times_s, lost=lost, weight_bytes=weight_bytes, disturbed=not calm)


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


def _losses(
    kernel: CompiledKernel,
    arguments: list[Any],
    options: MeasureOptions,
    beside: Helpers,
    once_s: float,
) -> tuple[Losses, bool]:
    """What a kernel loses among the weights of a network, and whether nothing disturbed it."""
    call, most_s = kernel.module["main"], options.run_timeout_s / 8
    if losing_takes_s(once_s) > most_s:  # as much as it takes, it loses next to nothing
        return NOTHING_LOST, True

    def lost_s(weight_bytes: int) -> tuple[float, bool]:
        measured = losing(call, arguments, weight_bytes, beside.fill, once_s)
        seconds, calm = steady_difference(measured, beside.probe.look, _ROUNDS, most_s)
        return max(0.0, seconds), calm

    far_s, calm = lost_s(options.weight_bytes)
    if not options.knows_caches:
        return Losses(far_s, far_s), calm
    near_s, also_calm = lost_s(options.cached_bytes)
    return Losses(far_s, min(near_s, far_s)), calm and also_calm


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
