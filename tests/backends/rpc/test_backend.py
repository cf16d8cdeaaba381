from __future__ import annotations

import pytest

from backends.conformance import BackendConformance
from backends.rpc.backend import RpcBackend
from tests.backends.rpc.samples import options


class TestRpcBackend(BackendConformance):
    @pytest.fixture(autouse=True, scope="class")
    def _devices(self, request, farm):
        request.cls.farm = farm

    def make(self):
        return RpcBackend(options(self.farm))
