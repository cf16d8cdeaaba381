from __future__ import annotations

import json

import pytest

from engine.bench.bounds import Bounds
from engine.bench.kernels import main
from engine.bench.workloads import conv, name_of, workloads
from genomes.nest import LoopNest
from tests.engine.bench.commands import fails_in_one_line

SMALL = "192->48 3x3 4x4"


def test_the_workloads_are_distinct_and_cover_every_form() -> None:
    found = workloads()
    assert len(found) >= 40
    assert len({w.nest.key for w in found}) == len({w.name for w in found}) == len(found)
    assert sum(w.quick for w in found) == 12
    assert max(len(w.nest.statements) for w in found) == 4


def test_names_tell_what_is_unusual() -> None:
    assert name_of(conv((64, 128), 32, stride=2)) == "64->128 3x3 32x32 s2"
    assert name_of(conv((128, 128), 32, groups=2)) == "128->128 3x3 32x32 g2"
    assert name_of(conv((96, 96), 112, groups=96)) == "96->96 3x3 112x112 depthwise"


def test_the_bound_is_the_larger_of_the_two() -> None:
    nest = LoopNest.fresh(conv((8, 8), 4, kernel=1))
    macs, moved = 8 * 8 * 16, 4 * (64 + 2 * 8 * 16)
    assert Bounds(1e3, 1e9).seconds(nest) == (pytest.approx(macs / 1e3), "arithmetic")
    assert Bounds(1e9, 1e3).seconds(nest) == (pytest.approx(moved / 1e3), "bandwidth")


def test_one_workload_is_tuned_recorded_and_compared(tmp_path, capfd) -> None:
    schedules = tmp_path / "schedules.json"
    options = ["--only", SMALL, "--rounds", "1", "--threads", "1", "--schedules", str(schedules)]
    assert main([*options, "--tune", "--measurements", "4"]) == 0
    assert "us after 4 measurements" in capfd.readouterr().out
    recorded = json.loads(schedules.read_text())
    assert list(recorded) == [SMALL]
    assert main(options) == 0
    out = capfd.readouterr().out
    assert "GFLOP/s" in out
    report = json.loads(out.splitlines()[-1])
    assert report["workloads"] == 1
    assert report["geomean_vs_onnxruntime"] == report["min_vs_onnxruntime"] > 0
    assert report["geomean_vs_torch"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "nothing like it"], "no workload has 'nothing like it'"),
        (["--only", SMALL, "--schedules", "damaged.json"], "cannot read the schedules"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capfd, options, message) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in fails_in_one_line(main, options, tmp_path, capfd)
