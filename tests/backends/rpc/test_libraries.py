from __future__ import annotations

import numpy as np
import pytest

from backends.base import BackendError
from backends.boards import board_target
from backends.rpc.backend import RpcBackend
from backends.rpc.libraries import LibraryRunner
from backends.rpc.loopback import free_ports
from backends.rpc.tracker import parse_address
from tests.backends.network.networks import SHAPE
from tests.backends.rpc.samples import checked_network, options, until


def test_an_exported_network_computes_on_a_board_what_pytorch_computes(farm, tmp_path):
    with RpcBackend(options(farm)) as backend:
        target = backend.library_target()
    times_s = checked_network(target, tmp_path, 3)
    assert len(times_s) == 3
    assert all(0 < seconds < 1 for seconds in times_s)
    assert until(lambda: farm.free() == 2)


def test_a_library_that_does_not_load_is_one_line_and_the_board_is_free_again(farm, tmp_path):
    library = tmp_path / "network.so"
    library.write_bytes(b"no library")
    run = LibraryRunner(parse_address(farm.tracker), farm.key, 5.0, board_target("native", 1))
    with pytest.raises(BackendError, match=r"net does not run on 127\.0\.0\.1:") as caught:
        run({"net": library}, np.zeros(SHAPE, np.float32))
    assert "\n" not in str(caught.value)
    assert until(lambda: farm.free() == 2)


def test_without_a_board_it_says_for_how_long_it_has_waited(tmp_path):
    library = tmp_path / "network.so"
    library.write_bytes(b"")
    (port,) = free_ports(1)
    with pytest.raises(
        BackendError, match=r"no board within 1 s: the tracker .* cannot be reached"
    ):
        LibraryRunner(("127.0.0.1", port), "none", 1.0, board_target("native", 1))(
            {"net": library}, np.zeros(SHAPE)
        )
