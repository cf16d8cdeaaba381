"""Run folders: everything that a search leaves behind, in files that survive a kill -9.

<home>/<name>-<YYYYmmdd-HHMMSS>-<4 hex>/
    config.yaml       the resolved experiment
    state.json        how far it is, see `RunState`
    checkpoint.json   what the search needs to go on
    history.jsonl     one line for each generation
    result.json       original and found network, site by site
    artifacts/        plots, reports, genomes
    lock              held by the process that runs the search
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import json
import os
import re
import secrets
import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from engine.config import ExperimentConfig, config_hash, dump_config, load_config
from engine.run_state import RunError, RunState, State, now, this_process
from genomes.errors import LoopGeneError

__all__ = [
    "LATEST",
    "RunDir",
    "RunError",
    "RunState",
    "State",
    "find_run",
    "list_runs",
    "resumable",
    "write_atomic",
]

LATEST = "latest"
FOLDER = re.compile(r".+-\d{8}-\d{6}-[0-9a-f]{4}")


class RunDir:
    """One run folder.

    Args:
        path: An existing folder; `create` makes a new one.
    """

    _locked: ClassVar[set[Path]] = set()
    """Folders locked by this process: file locks do not exclude their own process."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def state_path(self) -> Path:
        return self.path / "state.json"

    @property
    def checkpoint_path(self) -> Path:
        return self.path / "checkpoint.json"

    @property
    def history_path(self) -> Path:
        return self.path / "history.jsonl"

    @property
    def result_path(self) -> Path:
        return self.path / "result.json"

    @property
    def artifacts(self) -> Path:
        return self.path / "artifacts"

    @classmethod
    def create(cls, config: ExperimentConfig) -> RunDir:
        """A new folder in `config.home` with its config and state.

        Raises:
            RunError: The folder cannot be made.
        """
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        path = config.home / f"{config.name}-{stamp}-{secrets.token_hex(2)}"
        try:
            path.mkdir(parents=True)
            run = cls(path)
            run.artifacts.mkdir()
            write_atomic(run.config_path, dump_config(config))
            time = now()
            run._write_state(RunState(State.RUNNING, *this_process(), time, time))
        except OSError as error:
            raise RunError(f"cannot make the run folder {path}: {error}; see `home`") from error
        return run

    def config(self) -> ExperimentConfig:
        """The experiment of this run.

        Raises:
            ConfigError: Its config.yaml is missing or damaged.
        """
        return load_config(self.config_path)

    def state(self) -> RunState:
        """What `state.json` says.

        Raises:
            RunError: It is missing or damaged.
        """
        try:
            return RunState.from_json(self.read_json(self.state_path))
        except ValueError as error:
            raise RunError(f"{self.state_path} is damaged: {error}") from error

    def update(self, **changes: Any) -> RunState:
        """Change fields of the state, and note the time.

        Raises:
            RunError: The present state is damaged.
        """
        new = replace(self.state(), **changes, updated=now())
        self._write_state(new)
        return new

    def _write_state(self, state: RunState) -> None:
        write_atomic(self.state_path, json.dumps(asdict(state), indent=2) + "\n")

    def read_json(self, path: Path) -> Any:
        """Plain data of one of the folder's files.

        Raises:
            RunError: It is missing or no JSON.
        """
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunError(f"run {self.name} has no {path.name}") from error
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{path} is damaged: {' '.join(str(error).split())}") from error

    def result(self) -> dict[str, Any]:
        """What `result.json` says.

        Raises:
            RunError: The run has no result yet, or it is damaged.
        """
        if not self.result_path.exists():
            state = self.state()
            how = f"failed ({state.message})" if state.message else f"is {state.displayed.value}"
            raise RunError(
                f"run {self.name} {how} and has no result yet; "
                f"go on with: loopgene run {self.config_path} --resume {self.name}"
            )
        data = self.read_json(self.result_path)
        if not isinstance(data, dict):
            raise RunError(f"{self.result_path} is damaged: it holds no object")
        return data

    def append_history(self, record: Mapping[str, Any]) -> None:
        """Add the line of one generation; `record["generation"]` is its number."""
        with self.history_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, separators=(",", ":")) + "\n")

    def history(self) -> list[dict[str, Any]]:
        """The lines of all generations; a last line that was cut by a kill is left out.

        Raises:
            RunError: Another line is damaged.
        """
        if not self.history_path.exists():
            return []
        lines = self.history_path.read_bytes().split(b"\n")[:-1]
        records = []
        for number, line in enumerate(lines, 1):
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise RunError(f"{self.history_path}, line {number} is damaged") from error
        return records

    def rewind_history(self, generation: int) -> None:
        """Drop the lines behind a generation: those that the checkpoint does not know.

        Raises:
            RunError: A line is damaged.
        """
        kept = [r for r in self.history() if r["generation"] <= generation]
        lines = (json.dumps(r, separators=(",", ":")) + "\n" for r in kept)
        write_atomic(self.history_path, "".join(lines))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process; the lock of a dead process is free.

        Raises:
            RunError: Another process runs the search.
        """
        path = self.path / "lock"
        if self.path in self._locked:
            raise RunError(f"run {self.name} is already running in this process")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunError(f"cannot lock run {self.name}: {error}") from error
        try:
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                owner = os.read(descriptor, 64).decode(errors="replace").strip() or "unknown"
                raise RunError(
                    f"run {self.name} is already running in process {owner}; "
                    "wait for it, or interrupt it first"
                ) from error
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            self._locked.add(self.path)
            try:
                yield
            finally:
                self._locked.discard(self.path)
        finally:
            os.close(descriptor)

    def adopt(self) -> RunState:
        """Note that this process runs the search from now on.

        Raises:
            RunError: The present state is damaged.
        """
        pid, pid_started_s, host = this_process()
        return self.update(
            state=State.RUNNING, pid=pid, pid_started_s=pid_started_s, host=host, message=""
        )


def list_runs(home: Path) -> list[RunDir]:
    """The run folders in `home`, oldest first; damaged ones too."""
    if not home.is_dir():
        return []
    found = [p for p in home.iterdir() if FOLDER.fullmatch(p.name) and p.is_dir()]
    # The name ends with the time and the random part, after a name of any length.
    return [RunDir(p) for p in sorted(found, key=lambda p: (p.name[-20:-5], p.name))]


def find_run(home: Path, ref: str = LATEST) -> RunDir:
    """The run that `ref` means: its name, a unique beginning of it, its path, or `latest`.

    Raises:
        RunError: There is none, or there are several; the message names candidates.
    """
    if ref and (Path(ref) / "config.yaml").is_file():
        return RunDir(Path(ref))
    runs = list_runs(home)
    if not runs:
        raise RunError(f"there are no runs in {home}; start one with: loopgene run CONFIG")
    if ref == LATEST:
        return runs[-1]
    named = [run for run in runs if run.name == ref]
    found = named or [run for run in runs if ref and run.name.startswith(ref)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(run.name for run in found[-5:])
        raise RunError(
            f"{ref!r} means {len(found)} runs in {home}: {names}; give more of the name"
        )
    near = difflib.get_close_matches(ref, [run.name for run in runs], n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"the latest is {runs[-1].name}"
    raise RunError(f"there is no run {ref!r} in {home}; {hint}")


def resumable(config: ExperimentConfig) -> RunDir | None:
    """The latest run of this experiment with the same hash; damaged ones are passed over."""
    wanted = config_hash(config)
    for run in reversed(list_runs(config.home)):
        with contextlib.suppress(LoopGeneError):
            old = run.config()
            if old.name == config.name and config_hash(old) == wanted:
                return run
    return None


def write_atomic(path: Path, text: str) -> None:
    """Replace a file so that a reader, or a crash, sees the old content or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
