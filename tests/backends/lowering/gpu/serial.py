"""GPU kernels run on the CPU: every block and thread is an iteration of a serial loop.

What is shown: the computation and all indices, the bounds of the fetches into shared memory and
of the accumulators, and the code of virtual threads, which TVM expands for a CPU as for a GPU.
What is not: that threads wait for each other where they must, that what TVM leaves to the
threads fits the GPU, and the code that nvcc makes. A cooperative fetch stands inside the loops
over the threads that would share its work, so here each of them fetches everything.
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import tirx
from tvm.target import Target

from backends.lowering import CompiledKernel
from backends.lowering.epilogue import NO_EPILOGUE, Epilogue
from backends.lowering.geometry import kernel_packings
from backends.lowering.gpu import lower
from genomes.nest import LoopNest
from tests.backends.lowering.kernels import TARGET, agree


def serial(mod: tvm.IRModule) -> tvm.IRModule:
    """`mod` with its blocks and threads as serial loops."""
    return tvm.IRModule({"main": serial_function(mod["main"])})


def serial_function(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """`function` with its blocks and threads as serial loops."""
    return function.with_body(tvm_ffi.structural_map(function.body, (tirx.For, _unbound)))


def _unbound(loop: tirx.For) -> tirx.For:
    if loop.thread_binding is None or str(loop.thread_binding.thread_tag).startswith("vthread"):
        return loop
    kind = tirx.ForKind.SERIAL
    return tirx.For(loop.loop_var, loop.min, loop.extent, kind, loop.body, None, loop.annotations)


def check(nest: LoopNest, seed: int = 0, epilogue: Epilogue = NO_EPILOGUE) -> None:
    """The serial form of the GPU kernel of `nest` agrees with the module."""
    module = tirx.build(serial(lower(nest, epilogue)), target=Target(TARGET), pipeline="s_tir")
    kernel = CompiledKernel(module, nest.shape, kernel_packings(nest))
    agree(nest, kernel, seed, epilogue=epilogue)
