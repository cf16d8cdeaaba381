from __future__ import annotations

import json

import pytest

from engine.bench.tuning import main

SMALL = "192->48 3x3 4x4"


def test_a_workload_without_a_record_is_tuned_and_timed(tmp_path, capfd) -> None:
    options = ["--all", "--only", SMALL, "--rounds", "1", "--threads", "1", "--measurements", "8"]
    assert main([*options, "--metaschedule", str(tmp_path / "none.json")]) == 0
    out = capfd.readouterr().out
    report = json.loads(out.splitlines()[-1])
    assert SMALL in out
    assert (report["workloads"], report["measurements"]) == (1, 8)
    assert report["most_measurements"] == 8
    assert report["seconds_ours"] >= report["seconds_to_95_percent"] > 0
    assert report["candidates_per_second"] > 0
    assert "geomean" not in report


@pytest.mark.parametrize("option", ["--measurements", "--rounds"])
def test_nothing_is_measured_less_than_once(capsys, option) -> None:
    with pytest.raises(SystemExit):
        main([option, "0"])
    assert "--measurements and --rounds must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "nothing like it"], "no workload has 'nothing like it'"),
        (["--only", "128->128 3x3 16x16: 8", "--store", "none"], "no measurement store none"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capfd, options, message) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(options) == 1
    out = capfd.readouterr().out.strip()
    assert message in out
    assert "\n" not in out
