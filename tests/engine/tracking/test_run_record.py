from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.tracking.run_record import RunRecord


def test_round_trip(tmp_path: Path):
    record = RunRecord("sqlite:///a.db", "loopgene", "abc", 2, {"finalist-1": "def"})
    record.save(tmp_path)
    assert RunRecord.load(tmp_path, "sqlite:///a.db", "loopgene") == record


def test_another_store_or_experiment_has_no_record(tmp_path: Path):
    RunRecord("sqlite:///a.db", "loopgene", "abc").save(tmp_path)
    assert RunRecord.load(tmp_path, "sqlite:///b.db", "loopgene") is None
    assert RunRecord.load(tmp_path, "sqlite:///a.db", "other") is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"version": 99}', '{"version": 1, "x": 2}']
)
def test_damaged_files_are_no_record(tmp_path: Path, text: str):
    (tmp_path / "mlflow.json").write_text(text)
    assert RunRecord.load(tmp_path, "sqlite:///a.db", "loopgene") is None


def test_the_file_names_the_run(tmp_path: Path):
    RunRecord("sqlite:///a.db", "loopgene", "abc").save(tmp_path)
    assert json.loads((tmp_path / "mlflow.json").read_text())["run_id"] == "abc"
