from __future__ import annotations

import json
from dataclasses import replace

import pytest

from backends.kernel_job import operands_of
from engine.bench import kernels, metaschedule, metaschedule_records, metaschedule_tuning
from engine.bench.metaschedule import build, main
from engine.bench.metaschedule_tuning import Best, TuningError
from engine.bench.workloads import workloads
from engine.network import relative_error
from genomes.genome import replay
from genomes.presets import grouping
from tests.engine.bench.commands import fails_in_one_line

NAME = "192->48 3x3 4x4"
(NEST,) = (w.nest for w in workloads() if w.name == NAME)
TRIALS = 3


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """The file of records after a search of three trials."""
    path = tmp_path_factory.mktemp("metaschedule") / "records.json"
    options = ["--only", NAME, "--threads", "1", "--records", str(path)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metaschedule_tuning, "POPULATION", 8)
        assert main([*options, "--trials", str(TRIALS)]) == 0
    return path


def test_a_workload_is_tuned_once(tuned, capfd) -> None:
    (record,) = metaschedule_records.read(tuned).values()
    assert list(record.best) == [TRIALS]
    assert 0 < record.best[TRIALS].time_s < 1
    assert record.seconds > 0
    assert record.key == NEST.structure_key
    before = tuned.read_bytes()
    assert main(["--only", NAME, "--threads", "1", "--records", str(tuned)]) == 0
    report = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert report == {"workloads": 1, "tuned": 0, "missing": 0}
    assert tuned.read_bytes() == before


def test_a_recorded_kernel_computes_the_workload(tuned) -> None:
    record = metaschedule_records.read(tuned)[NAME]
    operands = operands_of(NEST)
    run, result = build(NEST, record, record.target, operands, TRIALS)
    run()
    assert relative_error(result, operands.expected) < 1e-5


def test_a_record_of_something_else_is_refused(tuned) -> None:
    record = metaschedule_records.read(tuned)[NAME]
    operands = operands_of(NEST)
    with pytest.raises(TuningError, match="not of 256 trials"):
        build(NEST, record, record.target, operands)
    other = replay(NEST.shape, grouping(2))
    with pytest.raises(TuningError, match="not of 3 trials of this computation"):
        build(other, record, record.target, operands, TRIALS)
    lost = Best([[["GetSBlock", [], ["nothing like it", "main"], ["b0"]]], []], 1e-4)
    with pytest.raises(TuningError, match=r"no longer applies: .*; remove its file") as caught:
        build(NEST, replace(record, best={TRIALS: lost}), record.target, operands, TRIALS)
    assert "\n" not in str(caught.value)


def test_the_kernel_benchmark_compares_with_it(tuned, tmp_path, capfd) -> None:
    record = metaschedule_records.read(tuned)[NAME]
    few, many = metaschedule.FEW_TRIALS, metaschedule.TRIALS
    best = record.best[TRIALS]
    path = tmp_path / "records.json"
    metaschedule_records.add(path, NAME, replace(record, best={few: best, many: best}))
    options = ["--only", NAME, "--rounds", "1", "--threads", "1", "--metaschedule", str(path)]
    options += ["--peers", "metaschedule256,onnxruntime"]
    assert kernels.main(options) == 0
    out = capfd.readouterr().out
    assert "1 of 1 workloads have a record of MetaSchedule" in out
    report = json.loads(out.splitlines()[-1])
    assert report["workloads_metaschedule256"] == 1
    assert report["geomean_vs_metaschedule256"] == report["min_vs_metaschedule256"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "nothing like it"], "no workload has 'nothing like it'"),
        (["--only", NAME, "--records", "damaged.json"], "cannot read MetaSchedule's records"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capfd, options, message) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in fails_in_one_line(main, options, tmp_path, capfd)
