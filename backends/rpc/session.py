"""What runs inside a worker: build a kernel for a board, run it there, bring the times back.

A worker waits with a built kernel until a device is granted; then it may take the device for one
session.  Whatever blocks in it is ended by the pool, which kills the process.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from backends.base import BackendError, Failed, FailureKind, Measured, MeasureOptions, Outcome
from backends.kernel_job import difference, operands_of
from backends.rpc.gpus import device_of, gpu_facts
from backends.rpc.kernels import Library, built
from backends.rpc.messages import last_line
from backends.rpc.serve import FACTS
from backends.rpc.tracker import Grant
from backends.workers import Stage, gpu_runtime
from genomes.nest import ConvShape, LoopNest

BUILD = "build"
STAGES = (BUILD, "connect", "check", "measure")
GRANTED = frozenset({"connect"})

REFERENCE = LoopNest.fresh(ConvShape(1, 16, 16, (8, 8), (3, 3), padding=(1, 1, 1, 1)))
"""The kernel by which a device shows that it works, without its schedule."""

GPU_START_S = 10.0
"""Every session on a GPU loads the driver, and TVM's runtime for it, anew."""

_NOT_COMPARED = ("runtime_only",)
"""Facts in which boards of one kind may differ."""


@dataclass(frozen=True)
class RpcJob:
    """One kernel for a board.

    Attributes:
        nest: Scheduled; None only asks the device for its facts.
        reference: The reference kernel, scheduled.
        target: For `tvm.target.Target`.
        options: How to check and time it.
        threads: Threads that it runs on; None leaves it to the board.
        binary: The library, when somebody else has built it.
    """

    nest: LoopNest | None
    reference: LoopNest
    target: Mapping[str, Any]
    options: MeasureOptions
    threads: int | None = None
    binary: bytes | None = None


@dataclass(frozen=True)
class Ticket:
    """What a worker is told when a device is granted to it.

    Attributes:
        grant: The device.
        prove: Whether the device has to show first that it works.
        facts: What it is expected to tell of itself; None when nothing is known yet.
    """

    grant: Grant
    prove: bool
    facts: Mapping[str, Any] | None


class Ending(StrEnum):
    """How a session can go wrong."""

    EXPIRED = "expired"
    """The board has ended it because it took too long."""
    BROKEN = "broken"
    """The connection was lost."""
    UNFIT = "unfit"
    """The device cannot do what it should, whatever the candidate."""


@dataclass(frozen=True)
class Answer:
    """What a session has given.

    Attributes:
        outcome: Of the candidate; None when it has none of its own yet.
        ending: How the session went wrong; None when it did not.
        message: More of that, one line.
        running: Whether the candidate's code was running then.
        facts: What the device has told of itself, if it was asked.
    """

    outcome: Outcome | None = None
    ending: Ending | None = None
    message: str = ""
    running: bool = False
    facts: Mapping[str, Any] | None = None


def start_s(target: Mapping[str, Any]) -> float:
    """Seconds that a session may take before it runs anything."""
    return GPU_START_S if target["kind"] == "cuda" else 0.0


class _UnfitError(Exception):
    """The device cannot do what it should; one line."""


@gpu_runtime.left_out()
def initialise(target: Mapping[str, Any], reference: LoopNest) -> None:
    """Import what `run` needs, and build the reference kernel, once for all workers."""
    import torch

    torch.set_num_threads(1)
    _reference(json.dumps(dict(target)), reference)


def run(job: RpcJob, stage: Stage) -> Outcome | Answer:
    """The outcome of a job that has not met a device, or what its session gave."""
    return run_in(Session, job, stage)


def run_in(session: type[Session], job: RpcJob, stage: Stage) -> Outcome | Answer:
    """`run` with another class of sessions."""
    from backends.lowering import LoweringError

    library = None
    if job.nest is not None:
        try:
            library = Library(job.nest, job.binary or built(job.nest, job.target))
        except LoweringError as error:
            return Failed(FailureKind.BUILD_ERROR, str(error))
    return session(job, stage("connect"), stage).answer(library)


@functools.lru_cache(maxsize=1)
def _reference(target_text: str, nest: LoopNest) -> Library:
    return Library(nest, built(nest, json.loads(target_text)))


class Session:
    """One session with a device.

    Args:
        job: What is run.
        ticket: The device.
        stage: Tells the pool of stages.

    Attributes:
        job: As given.
    """

    def __init__(self, job: RpcJob, ticket: Ticket, stage: Stage) -> None:
        self.job = job
        self._ticket = ticket
        self._stage = stage
        self._remote: Any = None
        self._device: Any = None
        self._running = False
        self._facts: Mapping[str, Any] | None = None

    def answer(self, library: Library | None) -> Answer:
        """Do everything; what can go wrong with a device is a value."""
        import tvm

        try:
            return Answer(self._outcome(library), facts=self._facts)
        except _UnfitError as error:
            return self._ended(Ending.UNFIT, str(error))
        except tvm.error.RPCSessionTimeoutError:
            limit = f"the session was ended after {self._limit_s:g} s"
            return self._ended(Ending.EXPIRED, limit)
        except Exception as error:  # noqa: BLE001 - TVM raises what the board has raised
            if self._alive():
                return self._remote_error(error)
            return self._ended(Ending.BROKEN, f"the connection was lost: {last_line(error)}")
        finally:
            self._close()

    def _ended(self, ending: Ending, message: str) -> Answer:
        return Answer(None, ending, message, self._running, self._facts)

    def _remote_error(self, error: Exception) -> Answer:
        """The board has refused something and is still there: is it the board or the kernel?"""
        message = f"the device says: {last_line(error)}"
        if self._running:
            return Answer(Failed(FailureKind.CRASHED, message), facts=self._facts)
        try:
            self._prove()
        except Exception:  # noqa: BLE001 - whatever it is, the reference kernel meets it as well
            return self._ended(Ending.UNFIT, message)
        return Answer(Failed(FailureKind.BUILD_ERROR, message), facts=self._facts)

    @property
    def _limit_s(self) -> float:
        """Seconds after which the board ends the session."""
        runs = 2 if self._ticket.prove else 1
        return runs * self.job.options.run_timeout_s + start_s(self.job.target)

    def _outcome(self, library: Library | None) -> Outcome | None:
        from tvm import rpc

        grant = self._ticket.grant
        self._remote = rpc.connect(
            grant.host, grant.port, grant.matchkey, session_timeout=self._limit_s
        )
        try:
            self._device = device_of(self._remote, self.job.target)
        except BackendError as error:
            raise _UnfitError(str(error)) from None
        if self._ticket.prove:
            self._facts = self._told_facts()
            self._compare_facts()
        if self.job.threads is not None:
            self._remote.get_function("runtime.config_threadpool")(1, self.job.threads)
        if self._ticket.prove:
            self._prove()
        return None if library is None else self._measured(library)

    def _measured(self, library: Library) -> Outcome:
        module = self.loaded(library)
        arguments, expected = self._operands(library)
        self._stage("check")
        self._running = True
        wrong = self._difference(module, arguments, expected)
        if wrong is not None:
            return Failed(FailureKind.WRONG_RESULT, wrong)
        self._stage("measure")
        times_s = self.times_s(module, arguments)
        if not all(np.isfinite(t) and t > 0 for t in times_s):
            return Failed(FailureKind.CRASHED, f"the timer returned {times_s}")
        return Measured(times_s)

    def _prove(self) -> None:
        """Run the reference kernel.

        Raises:
            _UnfitError: The device computes something else.
        """
        library = _reference(json.dumps(dict(self.job.target)), self.job.reference)
        arguments, expected = self._operands(library)
        wrong = self._difference(self.loaded(library), arguments, expected)
        if wrong is not None:
            raise _UnfitError(f"it computes something wrong: {wrong}")

    def loaded(self, library: Library) -> Any:
        """The kernel on the device."""
        name = f"{library.nest.key}.so"
        self._remote.upload(bytearray(library.binary), name)
        # A board whose disk is full says nothing, and crashes when it loads what it has kept.
        if bytes(self._remote.download(name)) != library.binary:
            raise _UnfitError("it does not keep what is sent to it; its disk may be full")
        return self._remote.load_module(name)

    def _operands(self, library: Library) -> tuple[list[Any], np.ndarray]:
        """The arguments on the device, and PyTorch's result."""
        import tvm

        from backends.lowering import kernel_arguments

        operands = operands_of(library.nest.unscheduled())
        arrays = kernel_arguments(library.nest, operands.x, operands.weights, operands.bias)
        return [tvm.runtime.tensor(array, self._device) for array in arrays], operands.expected

    def _difference(self, module: Any, arguments: list[Any], expected: np.ndarray) -> str | None:
        from backends.lowering.layout import unpack_channels

        module["main"](*arguments)
        result = unpack_channels(arguments[-1].numpy())
        return difference(result, expected, self.job.options)

    def times_s(self, module: Any, arguments: list[Any]) -> tuple[float, ...]:
        """Seconds per call of a kernel whose numbers are right."""
        options = self.job.options
        evaluator = module.time_evaluator(
            "main",
            self._device,
            number=1,
            repeat=options.repeats,
            min_repeat_ms=int(np.ceil(options.min_repeat_ms)),
        )
        return tuple(float(seconds) for seconds in evaluator(*arguments).results)

    def _told_facts(self) -> dict[str, Any]:
        """What `serve.py` and the GPU tell; little of a server that is not ours."""
        facts = gpu_facts(self._device) if self.job.target["kind"] == "cuda" else {}
        try:
            tell = self._remote.get_function(FACTS)
        except AttributeError:
            return facts
        facts |= json.loads(str(tell()))
        return {k: v for k, v in facts.items() if k not in _NOT_COMPARED}

    def _compare_facts(self) -> None:
        import tvm

        facts, expected = self._facts or {}, self._ticket.facts
        theirs, ours = facts.get("tvm"), str(tvm.__version__)
        if theirs is not None and theirs != ours:
            raise _UnfitError(
                f"it runs TVM {theirs} and this machine {ours}; install apache-tvm=={ours} there"
            )
        if expected is not None and facts != expected:
            names = sorted(n for n in {*facts, *expected} if facts.get(n) != expected.get(n))
            differences = ", ".join(f"{n} {facts.get(n)} not {expected.get(n)}" for n in names)
            raise _UnfitError(f"it differs from the others of its key: {differences}")

    def _close(self) -> None:
        """Let go of the device at once, whatever still refers to something on it."""
        if self._remote is not None:
            with contextlib.suppress(Exception):
                self._remote.get_function("CloseRPCConnection")()

    def _alive(self) -> bool:
        """Whether the session still answers."""
        if self._remote is None:
            return False
        try:
            self._remote.get_function("tvm.rpc.server.workpath")
        except Exception:  # noqa: BLE001 - whatever it is, there is no answer
            return False
        return True
