"""TVM's runtime for CUDA, which no process that forks may load.

Loading it starts the driver with threads of its own, and a fork of such a process has neither.
So what prepares a nursery imports TVM without it (`@left_out()`), and a worker that needs a GPU
loads it later.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

_LIBRARY = "tvm_runtime_cuda"


@contextlib.contextmanager
def left_out() -> Iterator[None]:
    """Whoever imports TVM meanwhile imports it without its runtime for CUDA."""
    # TVM asks PyTorch for a GPU, to exchange tensors with it, and that starts the driver, too.
    os.environ["TVM_FFI_DISABLE_TORCH_C_DLPACK"] = "1"
    from tvm_ffi import libinfo

    load = libinfo.load_lib_ctypes

    def others(package: str, target_name: str, *args: Any, **options: Any) -> Any:
        if target_name == _LIBRARY:
            raise FileNotFoundError(f"{target_name} is left out")
        return load(package, target_name, *args, **options)

    libinfo.load_lib_ctypes = others
    try:
        yield
    finally:
        libinfo.load_lib_ctypes = load


def load() -> None:
    """Load it after all, if it is not loaded yet.

    Raises:
        OSError: The driver or libcudart is missing.
    """
    from tvm import libinfo
    from tvm.base import _LOADED_LIBS
    from tvm_ffi.libinfo import load_lib_ctypes

    if _LIBRARY not in _LOADED_LIBS:
        paths = libinfo.package_lib_paths()
        _LOADED_LIBS[_LIBRARY] = load_lib_ctypes(
            "tvm", _LIBRARY, "RTLD_LOCAL", extra_lib_paths=paths
        )
