from __future__ import annotations

import platform
import time

import pytest

from backends.base import BackendError
from backends.conformance import BackendConformance
from backends.registry import create_backend
from backends.rpc.backend import RpcBackend
from backends.rpc.modelled import ModelledOptions, ModelledRpcBackend
from backends.table import modelled_latency_s
from tests.backends.rpc.samples import options
from tests.backends.samples import fresh


class TestRpcBackend(BackendConformance):
    @pytest.fixture(autouse=True, scope="class")
    def _devices(self, request, farm):
        request.cls.farm = farm

    def make(self):
        return RpcBackend(options(self.farm))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"key": "board", "target": "native"}, "tracker"),
        ({"tracker": "board", "key": "board", "target": "native"}, "expected host:port like"),
        ({"tracker": "board:9190", "key": "a b", "target": "native"}, "key"),
        ({"tracker": "board:9190", "key": "a", "target": "rasberry"}, "nknown target 'rasberry'"),
        ({"tracker": "board:9190", "key": "a", "target": {"mcpu": "cortex-a7x"}}, "cortex-a7x"),
        (
            {"tracker": "b:1", "key": "a", "target": "jetson-nano/cuda"},
            "Nano has no GPU that nvcc 13",
        ),
        ({"tracker": "b:1", "key": "a", "target": "native", "trackr": 1}, "unknown key trackr"),
    ],
)
def test_wrong_options_are_explained(given, message):
    with pytest.raises(BackendError, match=message) as caught:
        create_backend("rpc", given)
    assert "\n" not in str(caught.value)


def test_it_describes_the_board_and_not_this_machine(farm):
    with RpcBackend(options(farm)) as backend:
        device = backend.describe()
        assert f"({farm.key}), 1 thread" in device.name
        assert device.facts["board"]["machine"] == platform.machine()
        assert device.facts["board"]["tvm"] == device.facts["tvm"]
        assert not device.facts["board"]["emulated"]


def test_two_devices_work_at_the_same_time(farm):
    nests = [fresh(8, size) for size in range(6, 14)]
    settings = ModelledOptions(**{**options(farm).model_dump(), "service_s": 1.0})
    with ModelledRpcBackend(settings) as backend:
        backend.describe()
        backend.measure(nests[:2])
        began = time.monotonic()
        outcomes = backend.measure(nests)
        seconds = time.monotonic() - began
        scheduled = [backend.default_schedule(nest) for nest in nests]
        assert backend.describe().facts["modelled"] is True
    assert [o.median_s for o in outcomes] == [modelled_latency_s(nest) for nest in scheduled]
    assert 4 * 1.0 < seconds < 8 * 1.0
