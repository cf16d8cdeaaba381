from __future__ import annotations

import platform
from dataclasses import replace

import pytest

from backends.base import BackendError
from backends.rpc import inventory
from backends.rpc.inventory import keys, look
from backends.rpc.loopback import free_ports
from backends.rpc.ping import worker_spec
from backends.rpc.tracker import parse_address
from tests.backends.rpc.boards import mute_device, other_tvm, serving
from tests.backends.rpc.samples import until


def test_boards_are_counted_and_every_free_one_computes(farm):
    address = parse_address(farm.tracker)
    farm.wait_for(2)
    found_keys = {key.name: key for key in keys(address)}
    # The tests of the tracker ask this farm for a key that nobody has.
    assert set(found_keys) - {"nobody"} == {farm.key}
    key = found_keys[farm.key]
    assert (key.name, len(key.boards), key.free, key.waiting) == (farm.key, 2, 2, 0)
    found = look(address, [key])[farm.key]
    assert {each.board for each in found} == set(key.boards)
    for each in found:
        assert each.trouble == ""
        assert each.pong.facts["machine"] == platform.machine()
        assert 0 < each.pong.round_trip_s < each.pong.kernel_s < 5
    assert until(lambda: farm.free() == 2)


def test_a_kernel_for_another_processor_is_a_trouble_of_the_board(farm):
    address = parse_address(farm.tracker)
    farm.wait_for(2)
    looked = look(address, keys(address), "raspberry-pi-4")
    found = looked[farm.key]
    assert len(found) == 2
    assert all(
        each.trouble.startswith(("the kernel does not run", "Cannot link")) for each in found
    )
    farm.wait_for(2)


def test_a_tracker_that_is_not_there_is_one_line():
    (port,) = free_ports(1)
    with pytest.raises(BackendError, match=rf"cannot be reached: .*rpc_tracker .* --port {port}$"):
        keys(("127.0.0.1", port))


def test_a_board_that_never_answers_is_given_up(farm, monkeypatch):
    quick = replace(worker_spec(), limits_s={"connect": 2.0, "kernel": 20.0})
    monkeypatch.setattr(inventory, "worker_spec", lambda: quick)
    address = parse_address(farm.tracker)
    farm.wait_for(2)
    with mute_device(farm) as port:
        assert until(lambda: farm.free() == 3)
        found = look(address, keys(address))[farm.key]
    troubles = {each.board: each.trouble for each in found if each.trouble}
    assert troubles == {f"127.0.0.1:{port}": "it does not answer: killed after 2 s in connect"}
    assert len(found) == 3


def test_another_version_of_tvm_is_named(farm, tmp_path):
    address = parse_address(farm.tracker)
    farm.wait_for(2)
    with serving(farm, other_tvm(tmp_path)) as port:
        farm.wait_for(3)
        found = look(address, keys(address))[farm.key]
    assert len(found) == 3
    (bad,) = (each for each in found if each.trouble)
    assert bad.board == f"127.0.0.1:{port}"
    assert bad.trouble.startswith("it has apache-tvm 0.26.0 and this machine 0.27.0")
