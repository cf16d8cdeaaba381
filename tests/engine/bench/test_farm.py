from __future__ import annotations

import json

import pytest

from backends.base import Failed, FailureKind
from engine.bench import farm
from tests.engine.bench.commands import fails_in_one_line


def test_the_last_line_has_the_figures(capsys):
    assert farm.main(["--devices", "2,1", "--service", "0.3", "--rounds", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    report = json.loads(lines[-1])
    assert report["service_s"] == 0.3
    assert report["efficiency_at_1"] == 1.0
    # No device gives more than one candidate for each time that it keeps one.
    assert 0 < report["per_minute_at_1"] < 60 / 0.3
    assert report["per_minute_at_1"] < report["per_minute_at_2"] < 2 * 60 / 0.3
    rates = report["per_minute_at_2"] / (2 * report["per_minute_at_1"])
    assert report["efficiency_at_2"] == pytest.approx(rates, abs=2e-3)


def test_kernels_are_all_different():
    nests = [*farm.kernels(16, 0), *farm.kernels(64, 16)]
    assert len({nest.key for nest in nests}) == 80


def test_a_candidate_that_is_not_measured_is_an_error_in_one_line(monkeypatch, tmp_path, capfd):
    failed = [Failed(FailureKind.CRASHED, "the connection was lost")]
    monkeypatch.setattr(farm.ModelledRpcBackend, "measure", lambda self, nests: failed)
    options = ["--devices", "1", "--rounds", "1"]
    said = fails_in_one_line(farm.main, options, tmp_path, capfd)
    assert said == (
        "bench-farm: error: a candidate was not measured: crashed: the connection was lost"
    )


@pytest.mark.parametrize("wrong", [["--devices", "many"], ["--rounds", "0"], ["--devices", "0"]])
def test_wrong_numbers_are_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        farm.main(wrong)
    assert "error: --" in capsys.readouterr().err
