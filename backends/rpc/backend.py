"""The RPC backend: kernels compiled here or elsewhere, run on the boards of a TVM tracker."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field, field_validator

from backends.base import BackendError, Device, LibraryTarget, Outcome
from backends.boards import board_target, link_shared
from backends.builder import Builder, BuildJob, Workshop, toolchain
from backends.cuda_job import KERNEL_VERSION as GPU_KERNEL_VERSION
from backends.devices import CpuFeatures, cpu_features, target_text
from backends.gpus import GpuFeatures, nvcc_trouble, nvcc_version, target_features
from backends.kernel_job import KERNEL_VERSION
from backends.rpc.devices import DeviceBook
from backends.rpc.dispatch import Dispatcher
from backends.rpc.libraries import LibraryRunner
from backends.rpc.session import BUILD, GRANTED, REFERENCE, STAGES, RpcJob, start_s
from backends.rpc.tracker import Waiting, parse_address
from backends.schedules import LoweredSchedules
from backends.settings import BackendSettings
from backends.workers import WorkerSpec
from backends.workers.outcomes import ONE_THREAD
from genomes.nest import LoopNest

SESSION_VERSION = 1
"""Raised when a change in `backends.rpc` makes other times of the same kernels."""

GRACE_S = 5.0
"""A board has so long to say that it has ended a session before it is given up."""

_MOST_BUILDERS = 8
_MEMORY_LIMIT_BYTES = 4 << 30


class RpcOptions(BackendSettings):
    """Options of the RPC backend.

    Attributes:
        tracker: "host:port" of the TVM tracker.
        key: The key under which the boards' servers register; boards of one key are alike.
        target: What kernels are compiled for: the name of a preset, a TVM target tag, or a
            mapping with `mtriple`, `mcpu`, `mattr` and `num-cores`; for a GPU with `kind: cuda`,
            `arch`, and such a mapping as `host`.
        threads: Threads that a kernel runs on; the board's cores when not given.  A GPU has its
            own.
        builders: Kernels that are built side by side on this machine, as long as nobody else
            builds them.
        connect_timeout_s: Deadline of reaching a granted board, and of the reference kernel that
            a board runs when it is new or has failed.
        start_timeout_s: When no board answers for so long at the beginning, the search ends
            before it begins.
        queue_timeout_s: A kernel that has waited for a board for so long is given up; without
            it, it waits until there is one.
        jobs_per_worker: A worker process is replaced after so many kernels.
    """

    tracker: str
    key: str = Field(min_length=1, pattern=r"^[^\s:]+$")
    target: str | dict[str, Any]
    threads: int | None = Field(default=None, ge=1, le=1024)
    builders: int = Field(default_factory=lambda: min(os.cpu_count() or 1, _MOST_BUILDERS), ge=1)
    connect_timeout_s: float = Field(default=20.0, gt=0)
    start_timeout_s: float = Field(default=60.0, gt=0)
    queue_timeout_s: float | None = Field(default=None, gt=0)
    jobs_per_worker: int = Field(default=200, ge=1)

    @field_validator("tracker")
    @classmethod
    def _address(cls, value: str) -> str:
        parse_address(value)
        return value


class RpcBackend(LoweredSchedules):
    """Kernels on the boards that a tracker knows under one key, on all of them at once; on their
    CPUs, or on their GPUs where the target is one.

    Args:
        options: Tracker, key and target have no defaults.

    Raises:
        BackendError: The target is unknown, or its linker, or nvcc for a GPU, is missing.
    """

    name = "rpc"
    Options = RpcOptions
    session = "backends.rpc.session:run"
    """Import path of what workers run."""
    builds = "backends.rpc.kernels:run"
    """Import path of what those run that only build."""

    def __init__(self, options: RpcOptions) -> None:
        self._options = options
        self.measure_options = options.measure_options
        self._target = board_target(options.target, options.threads)
        link_shared(self._target)  # says at once when the linker is missing
        self._threads = None  # a GPU has its own
        if self._target["kind"] == "cuda":
            self._check_compiler()
        else:
            self._threads = int(self._target["num-cores"])
        self._reference = self.default_schedule(REFERENCE)
        self._book = DeviceBook()
        self._dispatcher = Dispatcher(
            self._worker_spec(),
            Waiting(parse_address(options.tracker), options.key),
            self._book,
            options.builders,
            options.queue_timeout_s,
        )
        # Workers import TVM while the search is still being set up.
        self._dispatcher.start()

    @property
    def target(self) -> str:
        return target_text(self._target)

    @functools.cached_property
    def features(self) -> CpuFeatures | GpuFeatures:
        """What schedules may use."""
        if self._threads is None:
            return target_features(self._target)
        return cpu_features(self._target, self._threads)

    def describe(self) -> Device:
        """The boards of the key.

        Raises:
            BackendError: None of them answers within `start_timeout_s`.
        """
        import tvm

        board = self._board
        facts = {
            "kind": "rpc",
            "key": self._options.key,
            "board": dict(board),
            "threads": self._threads,
            "kernels": KERNEL_VERSION,
            "sessions": SESSION_VERSION,
            "tvm": str(tvm.__version__),
        }
        if self._threads is None:
            facts |= {"kernels": GPU_KERNEL_VERSION, "nvcc": nvcc_version()}
        model = str(board.get("model", "board"))
        emulated = ", emulated" if board.get("emulated") else ""
        if self._threads is None:
            runs_on = f"{board['gpu']}, {self._target['arch']}"
        else:
            runs_on = f"{self._threads} thread{'s' if self._threads > 1 else ''}"
        return Device(f"{model} ({self._options.key}{emulated}), {runs_on}", facts)

    def measure_iter(self, nests: Sequence[LoopNest]) -> Iterator[Outcome]:
        if nests:
            # The others are compared with the first board that answers.
            _ = self._board
        ready = (
            nest if all(s.has_schedule for s in nest.statements) else self.default_schedule(nest)
            for nest in nests
        )
        yield from self._dispatcher.imap(map(self._job, ready), self.while_waiting)

    def library_target(self) -> LibraryTarget | None:
        options = self._options
        address = parse_address(options.tracker)
        queue_s = options.start_timeout_s
        run = LibraryRunner(address, options.key, queue_s, self._target, self._threads)
        return LibraryTarget(self._target, self.features, link_shared(self._target), run)

    def workshop(self) -> Workshop:
        trial = BuildJob(self._reference, self._target)
        spec = replace(
            self._worker_spec(),
            function=self.builds,
            limits_s={BUILD: self._options.build_timeout_s},
            exclusive=frozenset(),
            initialise="backends.rpc.kernels:initialise",
            arguments=(trial,),
            repeats_killed=False,  # the dispatcher does
        )
        return Workshop(spec, trial, toolchain(self._target))

    def build_with(self, builder: Builder) -> None:
        self._dispatcher.builder = builder

    @property
    def troubles(self) -> str:
        """Why boards do not work at the moment, one line; "" when all do."""
        return self._book.troubles

    def close(self) -> None:
        self._dispatcher.close()

    @property
    def _board(self) -> Mapping[str, Any]:
        """What a board tells of itself; asks one the first time."""
        if self._dispatcher.facts is None:
            self._meet()
        facts = self._dispatcher.facts
        assert facts is not None
        return facts

    def _check_compiler(self) -> None:
        """Say at once why kernels for the GPU cannot be compiled here."""
        whose = f"The target {self._options.target!r} is a GPU"
        try:
            target_features(self._target)
        except BackendError as error:
            raise BackendError(f"{whose} that nvcc does not compile for: {error}") from None
        if trouble := nvcc_trouble():
            raise BackendError(f"{whose}, and {trouble}.")

    def _meet(self) -> None:
        options, until = self._options, time.monotonic() + self._options.start_timeout_s

        def check() -> None:
            if time.monotonic() > until:
                raise TimeoutError

        with contextlib.suppress(TimeoutError):
            list(self._dispatcher.imap([self._job(None)], check))
        if self._dispatcher.facts is None:
            raise BackendError(
                f"No board of the key {options.key!r} answers within"
                f" {options.start_timeout_s:g} s: {self._dispatcher.why_waiting}. Start one there:"
                f" python serve.py --tracker {options.tracker} --key {options.key}"
            )

    def _job(self, nest: LoopNest | None) -> RpcJob:
        return RpcJob(nest, self._reference, self._target, self.measure_options, self._threads)

    def _worker_spec(self) -> WorkerSpec:
        options = self._options
        # The board ends the session first; a new one had to run the reference kernel as well.
        run_s = 2 * options.run_timeout_s + start_s(self._target) + GRACE_S
        limits_s = (options.build_timeout_s, options.connect_timeout_s, run_s, run_s)
        return WorkerSpec(
            function=self.session,
            limits_s=dict(zip(STAGES, limits_s, strict=True)),
            exclusive=GRANTED,
            initialise="backends.rpc.session:initialise",
            arguments=(self._target, self._reference),
            environment={**ONE_THREAD, "TVM_NUM_THREADS": "1"},
            jobs_per_worker=options.jobs_per_worker,
            memory_limit_bytes=_MEMORY_LIMIT_BYTES,
        )
