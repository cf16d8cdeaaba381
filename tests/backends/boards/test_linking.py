from __future__ import annotations

import pickle

import numpy as np
import pytest

from backends.base import BackendError
from backends.boards import board_target, link_shared
from backends.boards import linking as module
from backends.lowering import build_kernel
from tests.backends.lowering.kernels import conv
from tests.needs import needs_cross_linker


def test_a_library_for_this_machine_loads_and_computes(tmp_path):
    import tvm

    target = board_target("native", 1)
    kernel = build_kernel(conv(4, 4, 6), target)
    file = tmp_path / "kernel.so"
    linker = pickle.loads(pickle.dumps(link_shared(target)))
    kernel.module.export_library(str(file), fcompile=linker)
    x = np.ones((1, 4, 6, 6), np.float32)
    arguments = kernel.arguments(x, [np.ones((4, 4, 3, 3), np.float32)], None)
    tensors = [tvm.runtime.tensor(a) for a in arguments]
    tvm.runtime.load_module(str(file))["main"](*tensors)
    assert tensors[-1].numpy()[0, 0, 2, 2] == 36


@needs_cross_linker
def test_a_library_for_a_board_is_one_for_its_architecture(tmp_path):
    target = board_target("raspberry-pi-4")
    kernel = build_kernel(conv(4, 4, 6), target)
    file = tmp_path / "kernel.so"
    kernel.module.export_library(str(file), fcompile=link_shared(target))
    header = file.read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64


def test_a_missing_linker_is_named_with_its_package(monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    message = "aarch64-linux-gnu-ld is missing; install it: apt-get install binutils-aarch64-linux"
    with pytest.raises(BackendError, match=message):
        link_shared(board_target("jetson-orin-nano/cuda"))
    with pytest.raises(BackendError, match=r"apt-get install binutils$"):
        link_shared(board_target("native", 1))


def test_what_the_linker_says_is_the_error(tmp_path):
    broken = tmp_path / "broken.o"
    broken.write_text("no object")
    with pytest.raises(BackendError, match=r"Cannot link .*out\.so: .*broken\.o"):
        link_shared(board_target("native", 1))(str(tmp_path / "out.so"), [str(broken)])
