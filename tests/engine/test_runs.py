from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine.config import ExperimentConfig, parse_config
from engine.runs import (
    RunDir,
    RunError,
    State,
    find_run,
    list_runs,
    resumable,
    write_atomic,
)


@pytest.fixture
def config(tmp_path: Path) -> ExperimentConfig:
    model = {"spec": "resnet20_cifar", "input_shape": [1, 3, 32, 32]}
    return parse_config({"name": "small", "model": model, "home": str(tmp_path / "home")})


@pytest.fixture
def run(config: ExperimentConfig) -> RunDir:
    return RunDir.create(config)


def folder(home: Path, name: str, config: ExperimentConfig) -> RunDir:
    """A run folder of a given name."""
    made = RunDir.create(config)
    made.path.rename(home / name)
    return RunDir(home / name)


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


class TestFolder:
    def test_new(self, run: RunDir, config: ExperimentConfig) -> None:
        assert re.fullmatch(r"small-\d{8}-\d{6}-[0-9a-f]{4}", run.name)
        assert run.path.parent == config.home
        assert run.config() == config
        assert run.artifacts.is_dir()
        state = run.state()
        assert (state.state, state.pid, state.generation) == (State.RUNNING, os.getpid(), None)

    def test_two_of_the_same_second_differ(self, config: ExperimentConfig) -> None:
        assert len({RunDir.create(config).name for _ in range(5)}) == 5

    def test_home_that_is_a_file(self, config: ExperimentConfig, tmp_path: Path) -> None:
        (tmp_path / "home").write_text("")
        with pytest.raises(RunError, match="cannot make the run folder"):
            RunDir.create(config)


class TestState:
    def test_update(self, run: RunDir) -> None:
        run.update(generation=3, best_s=0.5, mlflow_run_id="abc")
        run.update(state=State.FINISHED)
        state = run.state()
        assert (state.generation, state.best_s, state.mlflow_run_id) == (3, 0.5, "abc")
        assert state.state is state.displayed is State.FINISHED

    def test_running_is_alive(self, run: RunDir) -> None:
        assert run.state().displayed is State.RUNNING

    def test_running_by_a_dead_process_is_interrupted(self, run: RunDir) -> None:
        run.update(pid=dead_pid())
        assert run.state().state is State.RUNNING
        assert run.state().displayed is State.INTERRUPTED

    def test_a_reused_pid_is_another_process(self, run: RunDir) -> None:
        run.update(pid_started_s=run.state().pid_started_s - 3600)
        assert run.state().displayed is State.INTERRUPTED

    def test_another_host_is_believed(self, run: RunDir) -> None:
        run.update(pid=dead_pid(), host=f"not-{socket.gethostname()}")
        assert run.state().displayed is State.RUNNING

    def test_adopt(self, run: RunDir) -> None:
        run.update(state=State.FAILED, pid=dead_pid(), generation=4, message="no device")
        state = run.adopt()
        assert (state.state, state.pid, state.message) == (State.RUNNING, os.getpid(), "")
        assert run.state().generation == 4

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "is damaged"),
            ("{", "is damaged"),
            ("\x00\x01", "is damaged"),
            ("[]", "is damaged: it holds no object"),
            ("{}", "is damaged: it lacks"),
            ('{"state": "asleep"}', "'asleep' is not a valid State"),
            ('{"generation": "three"}', "generation is 'three'"),
            ('{"pid": null}', "pid is None"),
        ],
    )
    def test_damaged(self, run: RunDir, content: str, message: str) -> None:
        if content.startswith('{"'):
            changed = json.loads(run.state_path.read_text()) | json.loads(content)
            content = json.dumps(changed)
        run.state_path.write_text(content)
        with pytest.raises(RunError, match=re.escape(message)):
            run.state()

    def test_missing(self, run: RunDir) -> None:
        run.state_path.unlink()
        with pytest.raises(RunError, match=r"has no state\.json"):
            run.state()

    def test_a_reader_never_sees_half_a_state(self, run: RunDir) -> None:
        stop = threading.Event()

        def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                run.update(evaluations=number, message="x" * (number % 5000))

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(200):
                run.state()
        finally:
            stop.set()
            writer.join()

    def test_write_atomic_keeps_the_old_content_when_it_fails(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        write_atomic(path, "old")
        with pytest.raises(UnicodeEncodeError):
            write_atomic(path, "\ud800")
        assert path.read_text() == "old"
        assert [p.name for p in tmp_path.iterdir()] == ["file"]


class TestResult:
    def test_none_yet(self, run: RunDir) -> None:
        with pytest.raises(RunError, match=r"is running and has no result yet; .*--resume"):
            run.result()

    def test_read(self, run: RunDir) -> None:
        write_atomic(run.result_path, '{"original": {}}')
        assert run.result() == {"original": {}}

    @pytest.mark.parametrize("content", ["{", "[1]", "\x00"])
    def test_damaged(self, run: RunDir, content: str) -> None:
        run.result_path.write_text(content)
        with pytest.raises(RunError, match=r"result\.json is damaged"):
            run.result()


class TestHistory:
    def test_append_and_read(self, run: RunDir) -> None:
        assert run.history() == []
        for number in range(3):
            run.append_history({"generation": number})
        assert [r["generation"] for r in run.history()] == [0, 1, 2]

    def test_a_line_cut_by_a_kill_is_left_out_and_rewound(self, run: RunDir) -> None:
        for number in range(4):
            run.append_history({"generation": number})
        with run.history_path.open("a") as file:
            file.write('{"generat')
        assert len(run.history()) == 4
        run.rewind_history(2)
        run.append_history({"generation": 3, "again": True})
        assert [r["generation"] for r in run.history()] == [0, 1, 2, 3]
        assert run.history()[3]["again"]

    def test_damaged(self, run: RunDir) -> None:
        run.history_path.write_text('{"generation": 0}\nrubbish\n')
        with pytest.raises(RunError, match=r"history\.jsonl, line 2 is damaged"):
            run.history()


HOLD = """
import sys, time
from pathlib import Path
from engine.runs import RunDir
with RunDir(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    time.sleep(60)
"""


class TestLock:
    def test_twice_in_one_process(self, run: RunDir) -> None:
        with run.lock():
            with (
                pytest.raises(RunError, match="already running in this process"),
                RunDir(run.path).lock(),
            ):
                pass
            with pytest.raises(RunError), run.lock():
                pass
        with run.lock():
            pass

    def test_another_process_and_its_death(self, run: RunDir) -> None:
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "locked\n"
            message = f"already running in process {holder.pid} on"
            with pytest.raises(RunError, match=message), run.lock():
                pass
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            assert str(holder.pid) in (run.path / "lock").read_text()
            with run.lock():
                assert str(os.getpid()) in (run.path / "lock").read_text()
        finally:
            holder.kill()
            holder.wait()
            holder.stdout.close()

    def test_folder_that_is_gone(self, run: RunDir) -> None:
        gone = RunDir(run.path / "none")
        with pytest.raises(RunError, match="cannot lock"), gone.lock():
            pass


class TestFinding:
    def test_list_by_time_and_not_by_name(self, config: ExperimentConfig) -> None:
        home = config.home
        folder(home, "zebra-20250101-000000-aaaa", config)
        folder(home, "ant-20260101-000000-aaaa", config)
        folder(home, "a-b-20250601-000000-bbbb", config)
        (home / "artifacts").mkdir()
        (home / "mlflow.db").touch()
        names = [run.name.split("-2")[0] for run in list_runs(home)]
        assert names == ["zebra", "a-b", "ant"]

    def test_no_home(self, tmp_path: Path) -> None:
        assert list_runs(tmp_path / "none") == []
        with pytest.raises(RunError, match=r"there are no runs in .*loopgene run CONFIG"):
            find_run(tmp_path / "none")

    def test_by_name_prefix_path_and_latest(self, config: ExperimentConfig) -> None:
        home = config.home
        first = folder(home, "net-20250101-000000-aaaa", config)
        second = folder(home, "net-20260101-000000-aaaa", config)
        assert find_run(home, first.name).path == first.path
        assert find_run(home, "net-2025").path == first.path
        assert find_run(home, str(first.path)).path == first.path
        assert find_run(home, "latest").path == second.path

    def test_ambiguous_and_unknown(self, config: ExperimentConfig) -> None:
        home = config.home
        folder(home, "net-20250101-000000-aaaa", config)
        folder(home, "net-20260101-000000-aaaa", config)
        with pytest.raises(RunError, match=r"means 2 runs .*net-2025.*net-2026"):
            find_run(home, "net")
        with pytest.raises(RunError, match="did you mean net-20260101-000000-aaaa"):
            find_run(home, "nte-20260101-000000-aaaa")
        with pytest.raises(RunError, match="the latest is net-20260101-000000-aaaa"):
            find_run(home, "?")
        with pytest.raises(RunError, match="there is no run ''"):
            find_run(home, "")

    def test_resumable(self, config: ExperimentConfig) -> None:
        home = config.home
        assert resumable(config) is None
        first = folder(home, "small-20250101-000000-aaaa", config)
        changed = config.model_copy(update={"finalists": 9})
        second = folder(home, "small-20250102-000000-aaaa", changed)
        other = config.model_copy(update={"name": "other"})
        folder(home, "other-20250103-000000-aaaa", other)
        found = resumable(config)
        assert found is not None
        assert found.path == second.path
        second.config_path.write_text("rubbish: [")
        found = resumable(config)
        assert found is not None
        assert found.path == first.path
        search = config.search.model_copy(update={"seed": 9})
        assert resumable(config.model_copy(update={"search": search})) is None
