"""The process that forks workers starts no GPU's driver; workers load TVM's runtime for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

PREPARED = {
    "of the CPU": "from backends.kernel_job import initialise; initialise({'kind': 'llvm'})",
    "of the GPU": "from backends.cuda_job import initialise; initialise({'arch': 'sm_90'})",
    "of pings": "from backends.rpc.ping import initialise; initialise()",
}
SCRIPT = """
import ctypes
import torch
from backends.workers import gpu_runtime

asked = []

class Noted(ctypes.CDLL):
    def __init__(self, name, *args, **options):
        asked.append(str(name).rpartition("/")[2])
        super().__init__(name, *args, **options)

ctypes.CDLL = Noted
torch.cuda.is_available = lambda: asked.append("the driver, by torch")
{preparation}
print(asked)
asked.clear()
try:
    gpu_runtime.load()
except OSError:  # there is no driver on this machine
    pass
print(asked)
"""


@pytest.mark.parametrize("preparation", PREPARED.values(), ids=PREPARED)
def test_only_the_runtime_for_cuda_is_left_out_and_can_be_loaded_later(preparation: str) -> None:
    script = SCRIPT.format(preparation=preparation)
    done = subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE)
    prepared, later = done.stdout.decode().splitlines()
    assert "'libtvm_runtime.so'" in prepared
    assert "'libtvm_runtime_extra.so'" in prepared
    assert "cuda" not in prepared
    assert "driver" not in prepared
    assert later == "['libtvm_runtime_cuda.so']"
