"""CUDA kernels: a scheduled loop nest as CUDA source, machine code and a callable module."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.target import Target

from backends.gpus import GpuFeatures, gpu_target, nvcc_trouble
from backends.lowering.compute import nest_function
from backends.lowering.epilogue import NO_EPILOGUE, Epilogue
from backends.lowering.errors import LoweringError
from backends.lowering.geometry import kernel_packings, statement_forms
from backends.lowering.gpu.limits import broken_limit
from backends.lowering.gpu.replay import GpuReplay
from backends.lowering.gpu.verify import verify
from backends.lowering.kernel import CompiledKernel
from backends.lowering.schedule import TVM_REFUSALS, first_line
from genomes.nest import LoopNest

PIPELINE = "s_tir"
"""TVM's own: it knows where threads have to wait for each other."""

_CALLBACK = "tvm_callback_cuda_compile"

# What the callback raises comes back through TVM as what it is.
tvm_ffi.register_error("LoweringError", LoweringError)


def lower(nest: LoopNest, epilogue: Epilogue = NO_EPILOGUE) -> tvm.IRModule:
    """The scheduled GPU kernel of a nest, as TIR with the entry `main`.

    Raises:
        LoweringError: TVM refuses a gene.
    """
    function = nest_function(nest, epilogue, padded_as_read=True)
    sch = s_tir.Schedule(function, error_render_level="fast")
    for form in statement_forms(nest, epilogue, padded_as_read=True):
        GpuReplay(sch, form).run()
    return sch.mod


def lower_checked(
    nest: LoopNest, gpu: GpuFeatures, epilogue: Epilogue = NO_EPILOGUE
) -> tvm.IRModule:
    """`lower`, checked against the limits of a GPU.

    Raises:
        LoweringError: TVM refuses a gene, or the kernel breaks a limit of the GPU.
    """
    broken = broken_limit(nest, gpu)
    if broken is not None:
        raise LoweringError(broken)
    with _named(nest):
        mod = lower(nest, epilogue)
        verify(mod, Target(gpu_target(gpu.arch)), gpu)
    return mod


@contextlib.contextmanager
def _named(nest: LoopNest) -> Iterator[None]:
    """Turn what TVM raises into a `LoweringError` that names the genes."""
    try:
        yield
    except (*TVM_REFUSALS, tvm.error.InternalError) as error:
        genes = "; ".join(str(g) for s in nest.statements for g in s.schedule_genes)
        raise LoweringError(f"TVM cannot build [{genes}]: {first_line(error)}") from error


def build_kernel(
    nest: LoopNest, gpu: GpuFeatures, host: Mapping[str, Any] | None = None
) -> CompiledKernel:
    """Lower, check and compile a nest for a GPU; nothing of it needs the GPU.

    Args:
        nest: A nest; statements without a schedule run as the fresh loops, one thread for each
            row of an output channel.
        gpu: Architecture and limits.
        host: As for `gpu_target`.

    Raises:
        LoweringError: TVM refuses a gene, the kernel breaks a limit of the GPU, or nvcc does not
            compile it.
    """
    module = generate(nest, gpu, host)
    machine_code(_source_of(module), gpu.arch)
    return CompiledKernel(module, nest.shape, kernel_packings(nest))


def cuda_source(nest: LoopNest, gpu: GpuFeatures) -> str:
    """The CUDA source of a nest's kernels: one for each statement, or two.

    Raises:
        LoweringError: TVM refuses a gene, or the kernel breaks a limit of the GPU.
    """
    return _source_of(generate(nest, gpu))


def compile_source(source: str, arch: str) -> bytes:
    """The cubin that nvcc makes of CUDA source for `arch`.

    Raises:
        LoweringError: There is no nvcc, or it finds an error, which is the message.
    """
    if trouble := nvcc_trouble():
        raise LoweringError(trouble)
    with tempfile.TemporaryDirectory(prefix="loopgene-") as folder:
        code, cubin = Path(folder, "kernel.cu"), Path(folder, "kernel.cubin")
        code.write_text(source)
        command = ["nvcc", "-cubin", "-O3", f"-arch={arch}", "-o", str(cubin), str(code)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = (done.stderr or done.stdout).replace(f"{folder}/", "").splitlines()
            errors = [line for line in lines if "error" in line or "fatal" in line] or lines
            raise LoweringError(f"nvcc for {arch}: {(errors or ['it failed'])[0].strip()}")
        return cubin.read_bytes()


def install_compiler(arch: str) -> None:
    """Let TVM's runtime take the machine code of kernels from here, when it loads them."""
    # TVM would call NVRTC, of a package that it does not depend on, while the kernel is timed.
    tvm_ffi.register_global_func(
        _CALLBACK, lambda source: bytearray(machine_code(source, arch)), override=True
    )


@functools.lru_cache(maxsize=8)
def machine_code(source: str, arch: str) -> bytes:
    """`compile_source`, which is not asked again for what it has compiled a moment ago."""
    return compile_source(source, arch)


def generate(
    nest: LoopNest, gpu: GpuFeatures, host: Mapping[str, Any] | None = None
) -> tvm.runtime.Module:
    """A nest as host code and CUDA source, checked against the limits of a GPU.

    Raises:
        LoweringError: TVM refuses a gene, or the kernel breaks a limit of the GPU.
    """
    mod = lower_checked(nest, gpu)
    # Where TVM has its runtime for CUDA, it has the source compiled at once.
    install_compiler(gpu.arch)
    with _named(nest):
        return tirx.build(mod, target=Target(gpu_target(gpu.arch, host)), pipeline=PIPELINE)


def _source_of(module: tvm.runtime.Module) -> str:
    imports: list[Any] = list(module.imports)
    return "\n".join(str(part.inspect_source()) for part in imports)
