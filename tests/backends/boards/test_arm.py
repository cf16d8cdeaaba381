"""The whole way to a board, on real 64-bit ARM code: needs `make arm-emulator`."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from backends.base import Measured
from backends.boards import board_target, link_shared
from backends.boards.emulator.build import python_of
from backends.network import compile_network
from backends.rpc import tracker
from backends.rpc.backend import RpcBackend, RpcOptions
from backends.rpc.libraries import LibraryRunner
from backends.rpc.loopback import Farm
from engine.runs import list_runs
from tests.backends.network.networks import SHAPE, Block
from tests.engine.cli.conftest import NETWORK, invoke
from tests.strategies import random_nest, random_shape
from tests.test_lowerings import scheduled

pytestmark = [pytest.mark.arm, pytest.mark.timeout(900)]

TARGET = "raspberry-pi-4"
GENOMES = 24
"""For each form of schedules."""


@pytest.fixture(scope="module")
def board():
    python = python_of(Path(__file__).parents[3] / ".arm-emulator")
    with Farm(1, "emulated", python=str(python)) as farm:
        yield farm


@pytest.fixture(scope="module")
def backend(board):
    options = RpcOptions(
        tracker=board.tracker,
        key=board.key,
        target=TARGET,
        threads=2,
        repeats=1,
        min_repeat_ms=1.0,
        run_timeout_s=30.0,
        connect_timeout_s=60.0,
    )
    with RpcBackend(options) as backend:
        yield backend


def test_the_board_says_that_it_is_an_emulated_arm(backend):
    device = backend.describe()
    board = device.facts["board"]
    assert (board["machine"], board["emulated"]) == ("aarch64", True)
    assert "emulated" in device.name


@pytest.mark.parametrize("form", ["default", "candidate", "random genes"])
def test_random_genomes_compute_there_what_pytorch_computes_here(backend, form):
    nests = []
    for seed in range(GENOMES):
        rng = random.Random(f"{form} {seed}")
        nest = random_nest(rng, random_shape(rng))
        nests.append(scheduled(nest, form, rng, backend.features))
    assert len(set(nests)) == GENOMES
    outcomes = backend.measure(nests)
    failed = {seed: o for seed, o in enumerate(outcomes) if not isinstance(o, Measured)}
    assert not failed


def test_a_network_is_exported_for_the_board_and_agrees_there(board, tmp_path):
    model = Block().eval()
    target = board_target(TARGET)
    library = tmp_path / "network.so"
    compile_network(model, SHAPE, target).export_library(library, link_shared(target))
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(x).numpy()
    run = LibraryRunner(tracker.parse_address(board.tracker), board.key, 60.0, target)
    found = run({"net": library}, x.numpy(), 2)["net"]
    assert len(found.times_s) == 2
    np.testing.assert_allclose(found.output, expected, rtol=1e-3, atol=1e-4)


EXPERIMENT = """
name: board
model: {{spec: "net.py:make", input_shape: [1, 3, 8, 8]}}
backend: {{name: rpc, tracker: "{tracker}", key: {key}, target: {target}, threads: 2,
  repeats: 1, min_repeat_ms: 1.0, run_timeout_s: 30.0, connect_timeout_s: 60.0}}
search: {{population: 6, generations: 2, tune: 0, schedules: 2, seed: 1}}
capacity: {{batch: 4, tolerance: 0.9}}
finalists: 1
tracking: {{mlflow: false}}
"""


def test_a_search_measures_there_and_its_network_runs_there(board, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORK)
    text = EXPERIMENT.format(tracker=board.tracker, key=board.key, target=TARGET)
    (tmp_path / "board.yaml").write_text(text)
    searched = invoke("run", "board.yaml")
    assert searched.exit_code == 0, searched.output
    assert "the device is an emulator: its times are no performance figures" in searched.output
    (run,) = list_runs(tmp_path / "loopgene-runs")
    result = run.result()
    assert result["device"]["facts"]["board"]["emulated"] is True
    assert result["counts"]["evaluations"] == 18
    exported = invoke("export", run.name)
    assert exported.exit_code == 0, exported.output
    checked = re.search(r"network\.so  \(differs from PyTorch by (\S+)\)", exported.output)
    assert checked, exported.output
    assert float(checked[1]) < 1e-3
    header = (run.path / "export" / "network.so").read_bytes()[:20]
    assert int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64


def test_the_commands_for_boards_see_the_board_and_try_it(board):
    board.wait_for(1)  # until the last session is over
    result = invoke("devices", "--tracker", board.tracker)
    assert result.exit_code == 0, result.output
    assert re.search(
        r"emulated +free +aarch64, .*emulated +0\.27\.0\S* +- +right *$", result.output, re.M
    )
