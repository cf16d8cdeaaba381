"""Libraries with GPU kernels hold machine code, also those for another machine."""

from __future__ import annotations

import struct
import subprocess
import sys

import pytest
import tvm_ffi

from backends.boards import board_target
from backends.gpus import target_features
from backends.lowering import LoweringError
from backends.lowering.gpu import default_schedule
from backends.lowering.gpu.kernel import install_compiler
from backends.lowering.gpu.libraries import with_machine_code
from backends.network import compile_network
from backends.rpc.kernels import built
from tests.backends.lowering.kernels import conv
from tests.backends.network.networks import SHAPE, Block
from tests.needs import needs_cross_linker, needs_nvcc

ELF = b"\x7fELF"
AARCH64, CUDA = 183, 190
"""Machines of ELF files."""


LOAD = """
import sys
from backends.workers import gpu_runtime

with gpu_runtime.left_out():
    import tvm
import tvm_ffi

def load(content):
    sys.stdout.buffer.write(content)
    return tvm.get_global_func("runtime.SourceModuleCreate")("", "cu")

tvm_ffi.register_global_func("ffi.Module.load_from_bytes.cuda", load)
tvm.runtime.load_module(sys.argv[1])
"""
"""Prints what TVM gives its runtime for CUDA when it loads a library."""


def machine(elf: bytes) -> int:
    assert elf.startswith(ELF)
    return struct.unpack_from("<H", elf, 18)[0]


@needs_nvcc
def test_what_is_loaded_is_machine_code_with_the_names_of_its_kernels(tmp_path) -> None:
    target = board_target({"kind": "cuda", "arch": "sm_90", "host": {"num-cores": 2}})
    library = tmp_path / "kernel.so"
    library.write_bytes(built(default_schedule(conv(8, 8, 6), target_features(target)), target))
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(library)], check=True, stdout=subprocess.PIPE
    )
    length = struct.pack("<Q", 5)
    assert done.stdout.startswith(length + b"cubin")
    names, _, code = done.stdout.partition(ELF)
    assert machine(ELF + code) == CUDA
    assert b"main_kernel" in names
    assert struct.unpack("<Q", names[-8:]) == (len(ELF + code),)


@needs_nvcc
@needs_cross_linker
def test_a_network_for_a_board_holds_no_source(tmp_path) -> None:
    network = compile_network(Block().eval(), SHAPE, board_target("jetson-orin-nano/cuda"))
    network.export_library(tmp_path / "network.so")
    content = (tmp_path / "network.so").read_bytes()
    assert machine(content) == AARCH64
    assert machine(content[content.index(ELF, 1) :]) == CUDA
    assert b"__global__" not in content


def test_another_form_of_what_tvm_writes_is_an_error() -> None:
    source = b"code"
    foreign = struct.pack("<Q", 99) + struct.pack("<Q", len(source)) + source
    for content in (foreign, b"", struct.pack("<Q", 4) + b"cuda" + foreign):
        with pytest.raises(LoweringError, match="needs TVM"):
            with_machine_code(content, ["code"], "sm_90")


@needs_nvcc
def test_what_nvcc_does_not_compile_is_an_error() -> None:
    source = b"no code"
    code = b"".join(
        struct.pack("<Q", len(text)) + text
        for text in (b"cuda", b"", source)  # format, names, code
    )
    content = struct.pack("<Q", 4) + b"cuda" + struct.pack("<Q", len(code)) + code
    content = struct.pack("<Q", len(content)) + content
    with pytest.raises(LoweringError, match="nvcc for sm_90"):
        with_machine_code(content, ["no code"], "sm_90")


@needs_nvcc
def test_what_the_compiler_of_tvms_runtime_says_comes_back_through_tvm() -> None:
    install_compiler("sm_90")
    with pytest.raises(LoweringError, match="nvcc for sm_90"):
        tvm_ffi.get_global_func("tvm_callback_cuda_compile")("no code")
