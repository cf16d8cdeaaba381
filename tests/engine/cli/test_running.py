from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.config import load_config
from engine.evaluation import Generation
from engine.progress import Progress
from engine.runs import RunDir, State, list_runs
from engine.tracking import NullTracker, SafeTracker
from tests.engine.cli.conftest import Cli

ENDLESS = "search.generations=1000000"


def only_run(work: Path) -> RunDir:
    (run,) = list_runs(work / "loopgene-runs")
    return run


def wait_for(text: str, log: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a line that is being written to a log has come."""
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)


class TestRun:
    def test_to_the_end(self, cli: Cli, work: Path) -> None:
        result = cli("run", "tiny.yaml")
        assert result.exit_code == 0, result.output
        run = only_run(work)
        lines = result.stdout.splitlines()
        assert lines[0] == f"running {run.path}"
        assert lines[1] == "measuring the original network and the initial population"
        assert [line.split(" | ")[0] for line in lines[2:6]] == [
            f"generation {number}/3" for number in range(4)
        ]
        assert lines[6] == "tuning and measuring the finalists"
        assert "finished: all generations are done; " in result.stdout
        assert f"loopgene show {run.name}\n" in result.stdout
        state = run.state()
        assert (state.state, state.generation) == (State.FINISHED, 3)
        assert state.original_s is not None
        assert state.best_s is not None
        assert state.best_s <= state.original_s
        assert state.evaluations == run.result()["counts"]["evaluations"]
        assert len(run.history()) == 4
        assert run.config() == load_config(work / "tiny.yaml")

    def test_overrides_are_kept_in_the_run_folder(self, cli: Cli, work: Path) -> None:
        result = cli("run", "tiny.yaml", "--set", "search.generations=1", "--set", "home=other")
        assert result.exit_code == 0
        (run,) = list_runs(work / "other")
        assert run.config().search.generations == 1
        assert f"loopgene show {run.name} --home other" in result.stdout

    def test_a_budget_stops_it(self, cli: Cli, work: Path) -> None:
        result = cli("run", "tiny.yaml", "--set", "budget.evaluations=4")
        assert result.exit_code == 0
        assert "stopped: the budget of evaluations is spent" in result.stdout
        again = "loopgene run tiny.yaml --set budget.evaluations=4 --resume"
        assert result.stdout.endswith(f"to go on:     {again}, with a larger limit\n")
        assert only_run(work).state().state is State.STOPPED

    @pytest.mark.usefixtures("no_gpu")
    def test_a_gpu_that_is_not_there_is_one_line(self, cli: Cli, work: Path) -> None:
        result = cli("run", "tiny.yaml", "--set", "backend.name=cuda")
        assert result.exit_code == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith("loopgene: error: there is no CUDA device that TVM can use")
        assert "search with backend.name: cpu" in line


class TestDryRun:
    def test_the_experiment_for_a_gpu_needs_no_gpu(self, cli: Cli) -> None:
        path = Path(__file__).parents[3] / "experiments" / "resnet18_cifar10_cuda.yaml"
        result = cli("run", str(path), "--dry-run", "--set", "data.kind=auto")
        assert result.exit_code == 0, result.output
        assert "  name: cuda\n  arch: sm_90\n" in result.stdout
        assert "# 20 sites of 11 distinct shapes" in result.stdout

    def test_prints_a_config_and_the_size_of_the_space(self, cli: Cli, work: Path) -> None:
        result = cli("run", "tiny.yaml", "--dry-run", "--set", "search.population=64")
        assert result.exit_code == 0
        assert not (work / "loopgene-runs").exists()
        (work / "printed.yaml").write_text(result.stdout)
        printed = load_config(work / "printed.yaml")
        assert printed == load_config(work / "tiny.yaml", ["search.population=64"])
        assert "# 4 sites of 4 distinct shapes" in result.stdout
        assert re.search(r"# \d+ legal single genes; 10\^\d+\.\d networks", result.stdout)
        assert re.search(r"# 3 +1x16x4x4 -> 16, 3x3 .* \d+ +\d+", result.stdout) is None
        assert re.search(r"# 7 +1x16x4x4 -> 16, 3x3 .*\d+ +\d+", result.stdout)

    def test_fewer_transformations_make_a_smaller_space(self, cli: Cli, work: Path) -> None:
        def sizes(*overrides: str) -> tuple[int, float]:
            args = [x for o in overrides for x in ("--set", o)]
            text = cli("run", "tiny.yaml", "--dry-run", *args).stdout
            found = re.search(r"# (\d+) legal single genes; 10\^([\d.]+)", text)
            assert found is not None
            return int(found[1]), float(found[2])

        genes, log10 = sizes()
        fewer = sizes("search.transformations=[group]", "search.presets=[depthwise]")
        assert 0 < fewer[0] < genes
        assert 0 < fewer[1] < log10
        assert sizes("search.presets=[]")[1] == 0

    def test_the_data_path_of_the_environment(
        self, cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        args = ("run", "tiny.yaml", "--dry-run", "--set", "data.kind=image_folder")
        monkeypatch.delenv("LOOPGENE_DATA", raising=False)
        missing = cli(*args)
        assert missing.exit_code == 1
        assert "set the environment variable LOOPGENE_DATA" in missing.stderr
        monkeypatch.setenv("LOOPGENE_DATA", str(work / "none"))
        absent = cli(*args)
        assert (
            absent.stderr
            == f"loopgene: error: data.path: no such file or folder: {work / 'none'}\n"
        )

    def test_paths_are_relative_to_the_current_directory(self, cli: Cli, work: Path) -> None:
        """Not to the file that names them; the error says so."""
        (work / "configs").mkdir()
        (work / "tiny.yaml").rename(work / "configs" / "tiny.yaml")
        assert cli("run", "configs/tiny.yaml", "--dry-run").exit_code == 0
        for field, value in (
            ("model.spec", "none/net.py:make"),
            ("model.weights", "none/w.pt"),
            ("data.path", "none/images"),
        ):
            kind = ("--set", "data.kind=auto") if field == "data.path" else ()
            result = cli("run", "configs/tiny.yaml", *kind, "--set", f"{field}={value}")
            assert result.exit_code == 1
            assert f"in the current directory, {work}" in result.stderr
            assert value.partition(":")[0] in result.stderr
            assert result.stderr.count("\n") == 1


class TestResume:
    def test_goes_on_with_a_bigger_budget(self, cli: Cli, work: Path) -> None:
        cli("run", "tiny.yaml", "--set", "search.generations=1")
        run = only_run(work)
        result = cli("run", "tiny.yaml", "--resume")
        assert result.exit_code == 0, result.output
        assert only_run(work).name == run.name
        lines = result.stdout.splitlines()
        assert lines[0] == f"resuming {run.path}"
        assert lines[2].startswith("generation 2/3 | ")
        assert [r["generation"] for r in run.history()] == [0, 1, 2, 3]
        assert run.config().search.generations == 3
        assert run.state().state is State.FINISHED

    def test_by_name_in_front_of_the_config(self, cli: Cli, work: Path) -> None:
        cli("run", "tiny.yaml", "--set", "search.generations=1")
        cli("run", "tiny.yaml", "--set", "search.generations=1")
        first, second = list_runs(work / "loopgene-runs")
        assert cli("run", "--resume", first.name, "tiny.yaml").exit_code == 0
        assert (first.state().generation, second.state().generation) == (3, 1)
        assert cli("run", "--resume", "tiny.yaml").exit_code == 0

    def test_nothing_left_to_do(self, cli: Cli, work: Path) -> None:
        cli("run", "tiny.yaml")
        result = cli("run", "tiny.yaml", "--resume")
        assert result.exit_code == 0
        assert result.stdout == (
            f"{only_run(work).name} is finished already; "
            f"see: loopgene show {only_run(work).name}\n"
        )

    def test_no_run_yet(self, cli: Cli, work: Path) -> None:
        result = cli("run", "tiny.yaml", "--resume")
        assert result.exit_code == 1
        assert "there is no run of tiny in loopgene-runs to resume" in result.stderr

    @pytest.mark.parametrize("named", [False, True])
    def test_another_config_is_refused_with_the_difference(
        self, cli: Cli, work: Path, named: bool
    ) -> None:
        cli("run", "tiny.yaml", "--set", "search.generations=1")
        run = only_run(work)
        changed = ("--set", "search.population=6", "--set", "model.kwargs.width=16")
        result = cli("run", "tiny.yaml", *changed, "--resume", *([run.name] if named else []))
        assert result.exit_code == 1
        assert result.stderr.splitlines() == [
            f"loopgene: error: {run.name} has another config and cannot be resumed; "
            "change these back, or start a new run without --resume:",
            "  model.kwargs.width: (not given) -> 16",
            "  search.population: 4 -> 6",
        ]

    def test_damaged_checkpoint(self, cli: Cli, work: Path) -> None:
        cli("run", "tiny.yaml", "--set", "search.generations=1")
        run = only_run(work)
        run.checkpoint_path.write_text(run.checkpoint_path.read_text()[:200])
        result = cli("run", "tiny.yaml", "--resume")
        assert result.exit_code == 1
        assert f"{run.checkpoint_path} is damaged" in result.stderr
        assert run.state().state is State.FAILED
        assert "is damaged" in run.state().message

    def test_damaged_state(self, cli: Cli, work: Path) -> None:
        cli("run", "tiny.yaml", "--set", "search.generations=1")
        run = only_run(work)
        run.state_path.write_text("{")
        result = cli("run", "tiny.yaml", "--resume")
        assert result.exit_code == 1
        assert f"{run.state_path} is damaged" in result.stderr


class TestInterruption:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_says_how_to_go_on(
        self, cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
    ) -> None:
        show = Progress.show

        def show_and_signal(self: Progress, generation: Generation, *args: Any) -> None:
            show(self, generation, *args)
            if generation.number == 2:
                os.kill(os.getpid(), number)

        with monkeypatch.context() as patched:
            patched.setattr(Progress, "show", show_and_signal)
            result = cli("run", "tiny.yaml", "--set", ENDLESS)
        assert result.exit_code == 130
        assert result.stderr == (
            "interrupted after generation 2; "
            f"go on with: loopgene run tiny.yaml --set {ENDLESS} --resume\n"
        )
        run = only_run(work)
        assert run.state().state is State.INTERRUPTED
        result = cli("run", "tiny.yaml", "--set", "search.generations=4", "--resume")
        assert result.exit_code == 0, result.output
        assert [r["generation"] for r in run.history()] == [0, 1, 2, 3, 4]

    def test_after_the_search_and_before_its_report(
        self, cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[str] = []

        class Listening(NullTracker):
            def finish(self, state: str, metrics: Mapping[str, float]) -> None:
                told.append(state)
                if state == "interrupted":
                    os.kill(os.getpid(), signal.SIGINT)

        def interrupted(*args: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(
                "engine.tracking.create_tracker", lambda *args: SafeTracker(Listening())
            )
            patched.setattr("engine.report.publish", interrupted)
            result = cli("run", "tiny.yaml")
        assert result.exit_code == 130
        assert "interrupted after generation 3; go on with: " in result.stderr
        assert told == ["finished", "interrupted"]
        run = only_run(work)
        assert run.state().state is State.INTERRUPTED
        assert cli("run", "tiny.yaml", "--resume").exit_code == 0
        assert run.state().state is State.FINISHED
        assert (run.artifacts / "report.md").is_file()

    def test_kill_and_two_at_once(self, cli: Cli, work: Path) -> None:
        """In a process of its own, of which the output goes to a log."""
        code = "from engine.cli import main; main()"
        with (
            (work / "log").open("w") as log,
            subprocess.Popen(
                [sys.executable, "-c", code, "run", "tiny.yaml", "--set", ENDLESS],
                stdout=log,
                stderr=log,
            ) as process,
        ):
            try:
                wait_for("generation 2/", work / "log", process)
                run = only_run(work)
                assert run.state().pid == process.pid
                assert cli("runs").stdout.count("running") == 1
                second = cli("run", "tiny.yaml", "--resume")
                assert second.exit_code == 1
                assert f"is already running in process {process.pid} on" in second.stderr
                assert run.state().pid == process.pid
            finally:
                process.kill()
        text = (work / "log").read_text()
        assert text.startswith(f"running {run.path}\n")
        assert "\ngeneration 0/1000000 | " in text
        assert "\x1b" not in text
        assert "\r" not in text
        assert run.state().state is State.RUNNING
        listed = cli("runs").stdout
        assert f" {State.INTERRUPTED} " in listed
        command = f"loopgene run {run.config_path} --resume {run.name}"
        assert listed.endswith(f"\n{run.name} was interrupted; go on with: {command}\n")
        shown = cli("show")
        assert shown.exit_code == 1
        assert "is interrupted and has no result yet" in shown.stderr
        last = json.loads(run.checkpoint_path.read_text())["state"]["generation"]
        resumed = cli("run", "tiny.yaml", "--set", f"search.generations={last + 1}", "--resume")
        assert resumed.exit_code == 0, resumed.output
        assert [r["generation"] for r in run.history()] == list(range(last + 2))


BAD_FIELDS = [
    ("search.popluation=3", "unknown key search.popluation; did you mean 'population'?"),
    ("model.spec=resnet20_cifr", "model.spec: unknown name 'resnet20_cifr'; did you mean"),
    ("data.kind=digit", "data.kind: unknown name 'digit'; did you mean 'digits'?"),
    ("backend.name=tabel", "backend.name: unknown name 'tabel'; did you mean 'table'?"),
    ("backend.repeat=3", "backend 'table': unknown key repeat; did you mean 'repeats'?"),
    ("backend.repeats=no", "backend 'table': repeats: "),
    ("search.strategy=evolve", "search.strategy: unknown name 'evolve'; known: evolution"),
    ("search.transformations=[grup]", "search.transformations: unknown name 'grup'; did you"),
    ("search.presets=[seq4]", "search.presets: unknown name 'seq4'; did you mean"),
    ("capacity.metric=fischer", "capacity.metric: unknown name 'fischer'; did you mean"),
    ("model.spec=net.py:mak", "did you mean 'make'?"),
    ("model.spec=none.py:make", "no such file"),
    ("model.spec=net.py:broken", "RuntimeError: out of neurons"),
    ("model.spec=net.py:flat", "has no convolution that can be transformed"),
    ("model.input_shape=1,4,8,8", "the network fails on an input of shape (1, 4, 8, 8)"),
    ("model.kwargs.depth=3", "the factory failed"),
    (
        "model.weights=none.pt",
        "model.weights: no such file or folder: none.pt in the current directory, ",
    ),
    ("model.weights=net.py", "the weights net.py do not fit"),
    ("data.path=tiny.yaml", "takes no path"),
]


class TestBadInput:
    @pytest.mark.parametrize(("override", "message"), BAD_FIELDS)
    def test_fields(self, cli: Cli, work: Path, override: str, message: str) -> None:
        result = cli("run", "tiny.yaml", "--set", override)
        assert result.exit_code == 1, result.output
        assert result.stderr.startswith("loopgene: error: ")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
        assert list_runs(work / "loopgene-runs") == []

    def test_several_unknown_names(self, cli: Cli, work: Path) -> None:
        result = cli("run", "tiny.yaml", "--set", "backend.name=x", "--set", "data.kind=y")
        assert [line.split(":")[0] for line in result.stderr.splitlines()] == [
            "loopgene",
            "  data.kind",
            "  backend.name",
        ]

    def test_weights_that_are_no_weights(self, cli: Cli, work: Path) -> None:
        (work / "weights.pt").write_bytes(b"rubbish")
        result = cli("run", "tiny.yaml", "--set", "model.weights=weights.pt")
        assert result.exit_code == 1
        assert "the weights weights.pt do not fit the network net.py:make" in result.stderr

    @pytest.mark.parametrize("content", [b"", b"- a\n", b"a: [", b"\xff\xfe\x00"])
    def test_files(self, cli: Cli, work: Path, content: bytes) -> None:
        (work / "bad.yaml").write_bytes(content)
        result = cli("run", "bad.yaml")
        assert result.exit_code == 1
        assert result.stderr.startswith("loopgene: error: bad.yaml ")
        assert result.stderr.count("\n") == 1

    def test_no_file(self, cli: Cli, work: Path) -> None:
        assert "none.yaml: no such file" in cli("run", "none.yaml").stderr
        assert ". is a folder" in cli("run", ".").stderr

    def test_home_that_is_a_file(self, cli: Cli, work: Path) -> None:
        result = cli("run", "tiny.yaml", "--set", "home=net.py")
        assert result.exit_code == 1
        assert "cannot make the run folder" in result.stderr

    def test_a_measurement_store_that_is_none(self, cli: Cli, work: Path) -> None:
        home = work / "loopgene-runs"
        home.mkdir()
        (home / "measurements.sqlite").write_bytes(b"no database at all" * 100)
        result = cli("run", "tiny.yaml")
        assert result.exit_code == 1
        assert "measurements.sqlite" in result.stderr
        assert result.stderr.count("\n") == 1
        assert only_run(work).state().state is State.FAILED

    def test_a_defect_keeps_its_traceback(
        self, cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def defect(*args: object, **kwargs: object) -> None:
            raise ZeroDivisionError("a defect")

        monkeypatch.setattr("engine.search.run_experiment", defect)
        with pytest.raises(ZeroDivisionError, match="a defect"):
            cli("run", "tiny.yaml")
        state = only_run(work).state()
        assert (state.state, state.message) == (State.FAILED, "ZeroDivisionError: a defect")


def test_yaml_of_the_dry_run_is_what_a_person_would_write(cli: Cli, work: Path) -> None:
    data = yaml.safe_load(cli("run", "tiny.yaml", "--dry-run").stdout)
    assert data["backend"] == {"name": "table"}
    assert data["model"]["input_shape"] == [1, 3, 8, 8]
