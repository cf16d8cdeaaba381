"""GPU kernels in shared libraries as machine code, for machines without nvcc.

Where TVM has no runtime for CUDA, which is where there is no driver, it writes the CUDA source of
kernels into a library, and whoever loads that would have to compile it.  Here the source in what
TVM would write is replaced by its machine code.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import tvm_ffi

from backends.base import BackendError
from backends.lowering.errors import LoweringError
from backends.lowering.gpu.kernel import machine_code

PackImports = Callable[[Any, bool, str, str], str]

_SYMBOL = "__tvm_ffi__library_bin"
_RUNTIME = "ffi.Module.create.cuda"
"""Where TVM has its runtime for CUDA, it has sources compiled by `install_compiler`'s."""
_LENGTH = 8
_UNKNOWN_FORM = "TVM writes GPU kernels in a form that is not known; LoopGene needs TVM 0.27"


def pack_imports(linker: str, arch: str) -> PackImports:
    """The `fpack_imports` of TVM's `export_library`.

    Args:
        linker: The command of the linker that will link the library.
        arch: The GPU's architecture.
    """

    def pack(module: Any, is_system_lib: bool, prefix: str, folder: str) -> str:
        if is_system_lib:
            raise LoweringError("GPU kernels cannot be part of a system library")
        content = tvm_ffi.get_global_func("runtime.ModulePackImportsToTensor")(module)
        code = with_machine_code(content.numpy().tobytes(), _sources(module), arch)
        Path(folder, "imports.bin").write_bytes(code)
        symbol = f"--defsym={prefix}{_SYMBOL}=_binary_imports_bin_start"
        command = [linker, "-r", "-b", "binary", "imports.bin", "-o", "imports.o", symbol]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[0]
            raise BackendError(f"Cannot pack the kernels of a GPU: {reason}")
        return str(Path(folder, "imports.o"))

    return pack


def with_machine_code(content: bytes, sources: Iterable[str], arch: str) -> bytes:
    """What TVM writes of a module's imports, with machine code where there is CUDA source.

    Args:
        content: The length of the rest; which module imports which; then of each module its kind
            and what is in it: of kernels, their format, names and code.  A text stands after its
            length, and lengths have 8 bytes, the lowest first.
        sources: Of the modules with kernels.
        arch: The GPU's architecture.

    Raises:
        LoweringError: nvcc does not compile a source, or `content` has another form.
    """
    for source in sources:
        written = _text(source.encode())
        end = content.find(written) + len(written)
        if end < len(written):
            raise LoweringError(_UNKNOWN_FORM)
        start = _start(content, end)
        names = content[start + 2 * len(_CUDA) + _LENGTH : end - len(written)]
        packed = _text(b"cubin") + names + _text(machine_code(source, arch))
        content = content[:start] + _CUDA + _text(packed) + content[end:]
    return struct.pack("<Q", len(content) - _LENGTH) + content[_LENGTH:]


def _start(content: bytes, end: int) -> int:
    """Where the module of CUDA source begins that ends there."""
    start = content.find(_CUDA)
    while 0 <= start < end:
        size = end - start - len(_CUDA) - _LENGTH
        if content.startswith(_CUDA + struct.pack("<Q", max(0, size)) + _CUDA, start):
            return start
        start = content.find(_CUDA, start + 1)
    raise LoweringError(_UNKNOWN_FORM)


def _sources(module: Any) -> list[str]:
    """The CUDA source of all modules that are imported and are not compiled yet."""
    if tvm_ffi.get_global_func(_RUNTIME, allow_missing=True) is not None:
        return []
    found = [str(module.inspect_source())] if module.kind == "cuda" else []
    return found + [source for part in module.imports for source in _sources(part)]


def _text(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


_CUDA = _text(b"cuda")
