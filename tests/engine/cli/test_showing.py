from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from engine.runs import RunDir, list_runs
from genomes.gene import Gene
from genomes.genome import Genome
from tests.engine.cli.conftest import Cli, fill, invoke


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a user whose experiment is finished."""
    folder = fill(tmp_path_factory.mktemp("finished"))
    before = Path.cwd()
    os.chdir(folder)
    try:
        result = invoke("run", "tiny.yaml")
    finally:
        os.chdir(before)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def done(finished: Path, work: Path) -> RunDir:
    """A finished run in the current folder."""
    shutil.copytree(finished, work, dirs_exist_ok=True)
    (run,) = list_runs(work / "loopgene-runs")
    return run


def row(text: str, name: str) -> str:
    """The row of a table."""
    (line,) = [x for x in text.splitlines() if x.split()[:1] == [name]]
    return line


class TestRuns:
    def test_none_yet(self, cli: Cli, work: Path) -> None:
        result = cli("runs")
        assert result.exit_code == 0
        assert "no runs in loopgene-runs yet; start one with: loopgene run" in result.stdout

    def test_a_finished_one_and_a_damaged_one(self, cli: Cli, done: RunDir) -> None:
        RunDir.create(done.config()).state_path.write_text("{")
        result = cli("runs")
        assert result.exit_code == 0
        rows = {line.split()[0]: line for line in result.stdout.splitlines() if "tiny-" in line}
        assert len(rows) == 2
        state = done.state()
        assert state.original_s is not None
        assert state.best_s is not None
        row = rows.pop(done.name)
        assert " finished " in row
        assert f" 3/3 {state.evaluations} ".split() == row.split()[4:6]
        assert f"{state.original_s / state.best_s:.2f}x" in row
        assert "damaged" in next(iter(rows.values()))

    def test_another_home(self, cli: Cli, work: Path, done: RunDir) -> None:
        done.path.parent.rename(work / "moved")
        assert "no runs in" in cli("runs").stdout
        assert done.name in cli("runs", "--home", "moved").stdout


class TestShow:
    def test_before_and_after(self, cli: Cli, done: RunDir) -> None:
        result = cli("show", done.name[:8])
        assert result.exit_code == 0
        record = done.result()
        text = result.stdout
        assert text.splitlines()[0] == done.name
        assert "finished: all generations are done" in text
        assert "device: latency table (modelled, not measured)" in text
        before, after = record["original"]["latency_s"], record["found"]["latency_s"]
        (line,) = [x for x in text.splitlines() if "estimated from kernels" in x]
        assert line.split()[-1] == f"{before / after:.2f}x"
        for site in record["sites"]:
            line = row(text, site["name"])
            assert f" {site['before_us']:.1f} " in line
            assert f" {site['after_us']:.1f} " in line

    def test_genes(self, cli: Cli, done: RunDir) -> None:
        """Neural genes as they are; schedule genes counted, or in full where asked for."""
        record = done.result()
        schedule = (Gene.of("split", loop="co", factor=4), Gene.of("vectorize", loop="co.1"))
        genome = Genome.of({"0": (Gene.of("bottleneck", loop="co", factor=2), *schedule)})
        record["found"]["genome"] = genome.to_json()
        done.result_path.write_text(json.dumps(record))
        short = row(cli("show").stdout, "0")
        assert "bottleneck(factor=2, loop=co) + 2 schedule genes" in short
        full = row(cli("show", "--schedules").stdout, "0")
        assert "loop=co) split(factor=4, loop=co) vectorize(loop=co.1)" in full
        assert " - " in row(cli("show").stdout, "2")

    def test_genome_of_another_kind(self, cli: Cli, done: RunDir) -> None:
        record = done.result()
        record["found"]["genome"] = {"format": "other"}
        done.result_path.write_text(json.dumps(record))
        result = cli("show")
        assert result.exit_code == 1
        assert "this is no genome" in result.stderr

    def test_the_latest_by_default(self, cli: Cli, done: RunDir) -> None:
        assert cli("show").stdout == cli("show", done.name).stdout

    def test_pareto_front(self, cli: Cli, work: Path) -> None:
        assert cli("run", "tiny.yaml", "--set", "search.mode=pareto").exit_code == 0
        (run,) = list_runs(work / "loopgene-runs")
        front = run.result()["pareto"]
        assert front
        assert f"Pareto front of {len(front)} networks" in cli("show").stdout

    @pytest.mark.parametrize(
        "content",
        ["", "{", "[]", "{}", '{"state": "finished"}', "\x00\xff", "null"],
    )
    def test_damaged_result(self, cli: Cli, done: RunDir, content: str) -> None:
        done.result_path.write_text(content)
        for command in ("show", "export"):
            result = cli(command)
            assert result.exit_code == 1
            assert "result.json" in result.stderr
            assert result.stderr.count("\n") == 1

    @pytest.mark.parametrize("key", ["original", "found", "sites", "counts", "pareto"])
    def test_result_with_a_part_of_another_kind(self, cli: Cli, done: RunDir, key: str) -> None:
        done.result_path.write_text(json.dumps({**done.result(), key: 3}))
        result = cli("show")
        assert result.exit_code == 1
        assert f"{done.result_path} is damaged" in result.stderr

    def test_unknown(self, cli: Cli, done: RunDir) -> None:
        for command in ("show", "export"):
            result = cli(command, "other")
            assert result.exit_code == 1
            assert "there is no run 'other' in loopgene-runs" in result.stderr
