from __future__ import annotations

import json

import pytest

from engine.bench import kernel_schedules
from engine.bench.bounds import CALL, COPIED_BYTES, COPY, MULTIPLY_ADDS, STEPS, Bounds
from engine.bench.kernel_schedules import Recorded
from engine.bench.kernels import main
from engine.bench.recorded import recorded
from engine.bench.workloads import conv, name_of, workloads
from genomes.genome import Genome
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


def test_limits_are_what_is_done_in_the_least_time_that_it_took() -> None:
    bounds = Bounds.of({MULTIPLY_ADDS: 1e-3, COPY: 1e-2, CALL: 1e-6}, threads=2, lanes=8)
    assert bounds.macs_per_s == pytest.approx(2 * 8 * 16 * STEPS / 1e-3)
    assert bounds.bytes_per_s == pytest.approx(2 * COPIED_BYTES / 1e-2)
    assert bounds.call_s == 1e-6


def test_one_workload_is_tuned_recorded_and_compared(tmp_path, capfd) -> None:
    schedules = tmp_path / "schedules.json"
    options = ["--only", SMALL, "--rounds", "1", "--schedules", str(schedules)]
    options += ["--peers", "onnxruntime,channels_last,tvm_default"]
    assert main([*options, "--tune", "--measurements", "4"]) == 0
    assert "us after 4 measurements" in capfd.readouterr().out
    recorded = json.loads(schedules.read_text())
    assert list(recorded["schedules"]) == [SMALL]
    assert main(options) == 0
    out = capfd.readouterr().out
    assert "default schedules" not in out
    assert "GFLOP/s" in out
    report = json.loads(out.splitlines()[-1])
    assert report["workloads"] == 1
    assert report["geomean_vs_onnxruntime"] == report["min_vs_onnxruntime"] > 0
    assert report["geomean_vs_torch"] == report["geomean_vs_channels_last"] > 0
    assert report["geomean_vs_tvm_default"] > 0


def test_schedules_of_another_target_are_neither_used_nor_replaced(tmp_path, capfd) -> None:
    path = tmp_path / "schedules.json"
    other = Recorded({"kind": "llvm", "mcpu": "another"}, {SMALL: Genome.of({SMALL: ()})})
    kernel_schedules.write(path, other)
    assert kernel_schedules.read(path) == other
    before = path.read_text()
    options = ["--only", SMALL, "--rounds", "1", "--schedules", str(path), "--peers", "eager"]
    assert main(options) == 0
    out = " ".join(capfd.readouterr().out.split())
    assert "has no schedules of this target: kernels have default schedules" in out
    message = fails_in_one_line(main, [*options, "--tune"], tmp_path, capfd)
    assert "has the schedules of another target; give another --schedules" in message
    assert path.read_text() == before


def test_each_target_has_a_folder_of_its_own() -> None:
    found = recorded({"kind": "llvm", "mcpu": "znver4", "num-cores": 2}, "kernels.json")
    assert found.as_posix() == "experiments/recorded/znver4-2/kernels.json"
    assert recorded({"kind": "llvm"}, "a").parent.name == "llvm-1"


def test_peers_are_those_that_there_are(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--peers", "eager,theano"])
    assert "no such peer: theano; there are onnxruntime, eager" in capsys.readouterr().err


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
