from __future__ import annotations

import socket
from pathlib import Path

import pytest

from backends.rpc.loopback import Farm
from tests.backends.rpc.samples import until
from tests.engine.cli.conftest import Cli


def test_devices_shows_boards_and_tries_a_kernel(cli: Cli) -> None:
    with Farm(1, "loop") as farm:
        result = cli("devices", "--tracker", farm.tracker)
        assert result.exit_code == 0, result.output
        (board,) = (line for line in result.output.splitlines() if line.startswith(" 127.0.0.1:"))
        assert board.split()[1:3] == ["loop", "free"]
        assert "right, " in board
        (key,) = (line for line in result.output.splitlines() if line.startswith(" loop "))
        assert key.split() == ["loop", "1", "1", "0", "0"]


def test_devices_without_a_board_says_how_to_start_one(cli: Cli) -> None:
    with Farm(0, "none") as farm:
        assert until(farm.reachable, timeout_s=20.0)
        result = cli("devices", "--tracker", farm.tracker)
    assert result.exit_code == 1
    assert f"python serve.py --tracker {farm.tracker} --key KEY" in result.output


@pytest.mark.parametrize("listening", [False, True])
def test_devices_without_a_tracker_is_one_line(cli: Cli, listening: bool) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        if listening:
            server.listen()
        result = cli("devices", "--tracker", f"127.0.0.1:{port}")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"loopgene: error: the tracker 127.0.0.1:{port} ")


def test_devices_wants_an_address(cli: Cli) -> None:
    result = cli("devices", "--tracker", "board")
    assert result.exit_code == 1
    assert "--tracker: expected host:port" in result.stderr


def test_board_kit_writes_what_to_copy(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "kit"
    options = ("--target", "jetson-orin-nano", "--tracker", "10.0.0.7:9190", "--service")
    result = cli("board-kit", folder, *options)
    assert result.exit_code == 0, result.output
    readme = (folder / "README.md").read_text()
    assert "--tracker 10.0.0.7:9190 --key jetson-orin-nano" in readme
    assert "loopgene-board.service" in result.output


def test_board_kit_for_an_unknown_target_is_one_line(cli: Cli, tmp_path: Path) -> None:
    result = cli("board-kit", tmp_path / "kit", "--target", "jetson-orin-nan")
    assert result.exit_code == 1
    assert "did you mean 'jetson-orin-nano'?" in result.stderr
