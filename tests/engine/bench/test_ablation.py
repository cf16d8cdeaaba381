"""The ablation: what is taken away is gone, and the result stays what PyTorch computes."""

from __future__ import annotations

import json

import pytest

from backends.lowering import default_schedule
from engine.bench import ablation
from engine.bench.workloads import Workload, conv
from genomes.nest import LoopNest
from tests.backends.lowering.kernels import AVX512

NEST = LoopNest.fresh(conv((64, 64), 32))


class Target:
    features = AVX512


def test_the_only_tile() -> None:
    one_tile = ablation._OneTile(Target())
    assert ablation._tile(one_tile(NEST), 0) == ablation.ONE_TILE
    assert one_tile.found == {NEST.key: True}


def test_where_the_only_tile_does_not_fit_the_default_stands() -> None:
    nest = LoopNest.fresh(conv((6, 6), 6))
    one_tile = ablation._OneTile(Target())
    assert one_tile(nest) == default_schedule(nest, AVX512)
    assert one_tile.found == {nest.key: False}


def test_weights_in_their_plain_layout() -> None:
    packed = default_schedule(NEST, AVX512)
    plain = ablation._with(packed, ablation._keeps_layout)
    (schedule,) = (s.scheduled(1) for s in plain.statements)
    assert packed.statements[0].scheduled(1).lanes("weight") > 0
    assert schedule.lanes("weight") == 0
    assert [x.name for x in schedule.loops] == [
        x.name for x in packed.statements[0].scheduled(1).loops
    ]


def test_an_unknown_network_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablation, "_tuned", lambda *_: {})
    assert ablation.main(["--networks", "nothing"]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("bench-ablation: error: unknown")


@pytest.mark.slow
def test_report(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "workloads", lambda: (Workload("64 channels", NEST, True),))
    options = [
        "--networks",
        "resnet20_cifar",
        "--rounds",
        "2",
        "--measurements",
        "2",
        "--builds",
        "2",
    ]
    assert ablation.main(options) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    parts = {"packed weights", "padding left out"}
    assert parts <= set(report["kernels"]) <= parts | {"choice of tiles", "learned ranking"}
    assert min(report["kernels"].values()) > 0
    assert set(report["resnet20_cifar"]) == {
        "packed activations",
        "packed weights",
        "choice of tiles",
        "padding left out",
        "fused epilogues",
        "builds_apart",
    }
