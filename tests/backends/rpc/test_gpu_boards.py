"""The GPU of a board behind a tracker: this machine's, or none."""

from __future__ import annotations

import pytest

from backends.base import BackendError
from backends.conformance import BackendConformance
from backends.gpus import arch_of
from backends.rpc.backend import RpcBackend
from backends.rpc.inventory import keys, look
from backends.rpc.loopback import HOST
from tests.backends.rpc.samples import checked_network, options, until
from tests.needs import needs_nvcc


def target(arch: str = "sm_90"):
    return {"kind": "cuda", "arch": arch, "host": {"num-cores": 2}}


def arch_here() -> str:
    import tvm

    return arch_of(tvm.cuda(0))


@needs_nvcc
@pytest.mark.usefixtures("no_gpu")
def test_a_look_at_a_board_without_a_gpu_says_so(farm) -> None:
    assert until(lambda: farm.free() == 2, timeout_s=20.0)
    found = look((HOST, farm.port), keys((HOST, farm.port)), target())
    troubles = [board.trouble for board in found[farm.key]]
    assert len(troubles) == 2
    assert all(trouble.startswith("it has no GPU that TVM can use") for trouble in troubles)


@needs_nvcc
@pytest.mark.usefixtures("no_gpu")
def test_a_board_without_a_gpu_is_refused_in_one_line(farm) -> None:
    with (
        RpcBackend(options(farm, target=target(), start_timeout_s=8.0)) as backend,
        pytest.raises(BackendError, match=r"it has no GPU that TVM can use.*libcudart") as caught,
    ):
        backend.describe()
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("without_nvcc")
def test_without_nvcc_it_says_so_at_once(farm) -> None:
    with pytest.raises(BackendError, match="is a GPU, and there is no nvcc on the PATH"):
        RpcBackend(options(farm, target=target()))


@pytest.mark.cuda
class TestGpuOfABoard(BackendConformance):
    @pytest.fixture(autouse=True, scope="class")
    def _devices(self, request, farm):
        request.cls.farm = farm

    def make(self):
        return RpcBackend(options(self.farm, target=target(arch_here()), threads=None))


@pytest.mark.cuda
def test_a_network_computes_on_the_gpu_of_a_board_what_pytorch_computes(farm, tmp_path) -> None:
    with RpcBackend(options(farm, target=target(arch_here()), threads=None)) as backend:
        there = backend.library_target()
        assert arch_here() in backend.describe().name
    times_s = checked_network(there, tmp_path, 3)
    assert all(0 < seconds < 1 for seconds in times_s)


@pytest.mark.cuda
def test_another_gpu_than_the_target_says_is_named(farm) -> None:
    assert until(lambda: farm.free() == 2, timeout_s=20.0)
    other = "sm_80" if arch_here() != "sm_80" else "sm_90"
    changed = options(farm, target=target(other), threads=None, start_timeout_s=30.0)
    with (
        RpcBackend(changed) as backend,
        pytest.raises(BackendError, match=f"is {arch_here()}, and the target is for {other}"),
    ):
        backend.describe()
