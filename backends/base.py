"""The contract between the search and the devices.

A backend builds a kernel from a loop nest, checks its numbers against PyTorch, measures it and
describes its device.  The failure of a candidate is an outcome, never an exception: exceptions
out of a backend mean that the backend itself cannot work (no device, wrong configuration).

Outcomes come back in the order of the jobs, whatever the order of their completion, so that a
search is the same for any number of workers.
"""

from __future__ import annotations

import abc
import hashlib
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from genomes.errors import LoopGeneError
from genomes.nest import LoopNest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from backends.builder import Builder, Workshop


NONE_CACHED = 4
"""Of a network with so many times the weights that stay in a cache, hardly any are found there."""

FARTHEST = 2.0
"""The greatest distance at which a loss is believed that was measured at 0 and 1."""


class BackendError(LoopGeneError):
    """A backend cannot work at all: unknown name, missing device, invalid target."""


class NoDeviceError(BackendError):
    """No device was free in time; the device that is asked next may be."""


class FailureKind(StrEnum):
    """Why a candidate has no latency."""

    BUILD_ERROR = "build_error"
    BUILD_TIMEOUT = "build_timeout"
    WRONG_RESULT = "wrong_result"
    RUN_TIMEOUT = "run_timeout"
    CRASHED = "crashed"
    QUEUE_TIMEOUT = "queue_timeout"
    DEVICE_LOST = "device_lost"

    @property
    def is_timeout(self) -> bool:
        """Whether a quieter machine might have given another answer."""
        return self in (FailureKind.BUILD_TIMEOUT, FailureKind.RUN_TIMEOUT)

    @property
    def charged_to_candidate(self) -> bool:
        """Whether the candidate is to blame, so that the failure is remembered."""
        return self not in (FailureKind.QUEUE_TIMEOUT, FailureKind.DEVICE_LOST)


class Losses(NamedTuple):
    """Seconds per call that a kernel loses between the other kernels of a network.

    Attributes:
        far_s: Among as many weights as `MeasureOptions.weight_bytes`.
        near_s: Among `MeasureOptions.cached_bytes`, where those are fewer; not more than `far_s`.
    """

    far_s: float = 0.0
    near_s: float = 0.0


NOTHING_LOST = Losses()


@dataclass(frozen=True)
class Measured:
    """The times of one kernel on one device.

    Attributes:
        times_s: Seconds per call, one entry for each repeat; fewer when time ran out, one of
            a kernel that is clearly slower than others of its workload.
        stages_s: Seconds spent by stage: `build`, `check`, `measure`, `wait`.
        lost: What a call loses in a network; `lost.far_s` is in all times.
        weight_bytes: Weights that a call reads, in its network; 0 where they do not matter.
        disturbed: Whether something else kept the machine busy all the time.
    """

    times_s: tuple[float, ...]
    stages_s: Mapping[str, float] = field(default_factory=dict)
    lost: Losses = NOTHING_LOST
    weight_bytes: int = 0
    disturbed: bool = False

    @property
    def median_s(self) -> float:
        return statistics.median(self.times_s)

    def among(self, distance: float) -> float:
        """Seconds per call in a network with other weights, see `MeasureOptions.distance`."""
        return self.median_s + (distance - 1.0) * (self.lost.far_s - self.lost.near_s)


@dataclass(frozen=True)
class Failed:
    """A candidate without a latency.

    Attributes:
        kind: The class of the failure.
        message: What happened, one line.
        stages_s: Seconds spent by stage before it failed.
        disturbed: As that of `Measured`: it has no times that could be.
    """

    kind: FailureKind
    message: str
    stages_s: Mapping[str, float] = field(default_factory=dict)
    disturbed: ClassVar[bool] = False


Outcome = Measured | Failed


@dataclass(frozen=True)
class Device:
    """Where kernels are measured; everything that can change a latency is in `facts`.

    Attributes:
        name: For people: "AMD EPYC, 2 threads".
        facts: CPU model, flags, threads, governor, TVM and LLVM versions...
    """

    name: str
    facts: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Content hash of the facts."""
        text = json.dumps(dict(self.facts), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class MeasureOptions:
    """How a kernel is timed.

    Attributes:
        repeats: Number of timings; their median is the latency.
        min_repeat_ms: Each timing runs the kernel for at least so long.
        build_timeout_s: Deadline of lowering and compiling one kernel.
        run_timeout_s: Deadline of checking, and of timing, one kernel; a backend may add what it
            waits for its device.
        rtol, atol: Tolerance of the comparison with PyTorch, relative to the largest
            magnitude of the reference.
        weight_bytes: Weights that are read between two calls of a kernel, as in a network, where
            it has a bias and an activation; 0 leaves a kernel alone, with its own weights where
            the call before it did.
        cached_bytes: So many weights stay in the last cache.  A kernel is timed among them, too,
            where those of the network are more.
    """

    repeats: int = 3
    min_repeat_ms: float = 4.0
    build_timeout_s: float = 20.0
    run_timeout_s: float = 10.0
    rtol: float = 1e-4
    atol: float = 1e-5
    weight_bytes: int = 0
    cached_bytes: int = 0

    @property
    def knows_caches(self) -> bool:
        """Whether kernels are timed among weights that stay in the last cache, too."""
        return 0 < self.cached_bytes < self.weight_bytes

    def distance(self, weight_bytes: float) -> float:
        """Where a network finds its weights: 0 in the last cache, 1 where `weight_bytes` lie.

        What kernels lose grows evenly with the weights of their network, from `cached_bytes`
        until hardly any are found in the cache.

        Args:
            weight_bytes: Those of all kernels together.
        """
        if not self.knows_caches:
            return 1.0
        beyond = min(weight_bytes, NONE_CACHED * self.cached_bytes) - self.cached_bytes
        return min(max(0.0, beyond / (self.weight_bytes - self.cached_bytes)), FARTHEST)


@dataclass(frozen=True)
class NetworkTarget:
    """What a backend says for whole networks to be compiled and run by a worker process.

    Attributes:
        target: The TVM target, as `tvm.target.Target` takes it.
        features: What the default schedules need to know of the device.
        environment: Environment variables of the process that runs the network.
    """

    target: Mapping[str, Any]
    features: Any
    environment: Mapping[str, str]


@dataclass(frozen=True)
class LibraryRun:
    """What an exported network has done on a device.

    Attributes:
        output: The network's output.
        times_s: Seconds per call, transfers excluded, one entry for each round.
    """

    output: NDArray[np.float32]
    times_s: tuple[float, ...]


@dataclass(frozen=True)
class LibraryTarget:
    """What a backend says for networks to be exported to a device that this machine is not.

    Attributes:
        target: The TVM target, as `tvm.target.Target` takes it.
        features: What the default schedules need to know of the device.
        link: The `fcompile` of TVM's `export_library`.
        run: Runs exported libraries, given as files by name, the input and a number of rounds,
            on one such device, in every round each of them once; gives what each has done.
            Raises `NoDeviceError` when none was free, and `BackendError` when it has not run all.
    """

    target: Mapping[str, Any]
    features: Any
    link: Callable[..., None]
    run: Callable[[Mapping[str, Path], NDArray[np.float32], int], Mapping[str, LibraryRun]]


class Backend(abc.ABC):
    """One kind of device.  Implementations are context managers and own their processes.

    Attributes:
        name: The name under which the backend is registered.
        measure_options: How `measure` times and checks; the store compares them.
        while_waiting: Called again and again while `measure` waits for a device, or for kernels
            that are built elsewhere; what it raises ends the batch.
        drift: (kernels before it, seconds) of each timing of a kernel that is always the same, by
            which drift of the device shows that timing does not make up for; empty where none is
            timed.
    """

    name: str
    measure_options: MeasureOptions = MeasureOptions()
    while_waiting: Callable[[], None] = staticmethod(lambda: None)
    drift: Sequence[tuple[int, float]] = ()

    @property
    @abc.abstractmethod
    def target(self) -> str:
        """The compilation target, as canonical text."""

    @abc.abstractmethod
    def describe(self) -> Device:
        """The device on which `measure` runs."""

    @abc.abstractmethod
    def transformations(self) -> frozenset[str]:
        """Names of the transformations that this backend can lower."""

    @abc.abstractmethod
    def default_schedule(self, nest: LoopNest) -> LoopNest:
        """`nest` with a good schedule for every statement that has none, made of genes."""

    @abc.abstractmethod
    def schedule_candidates(self, nest: LoopNest) -> tuple[LoopNest, ...]:
        """Schedules worth measuring for an unscheduled `nest`, the default one first."""

    def schedule_space(self, nest: LoopNest) -> tuple[LoopNest, ...]:
        """All schedules that the backend can think of for an unscheduled `nest`, best first."""
        return self.schedule_candidates(nest)

    def schedule_features(self, nest: LoopNest) -> tuple[float, ...] | None:
        """Numbers of a scheduled nest that tell how fast it is, always as many of them.

        The first one is log2 of an estimate of its time, in any unit.

        Returns:
            None when the schedule is not worth measuring.  A backend that knows no such numbers
            gives None for all; its schedules are tuned in the order of its proposals.
        """
        return None

    @abc.abstractmethod
    def measure_iter(self, nests: Sequence[LoopNest]) -> Iterator[Outcome]:
        """Build, check and time each nest; nothing is timed while the caller holds the iterator.

        Args:
            nests: Kernels; a statement without a schedule gets the default one.

        Yields:
            One outcome for each nest, in the same order, as soon as it is known.

        Raises:
            BackendError: The device or the tool chain is not usable.
        """

    def measure(self, nests: Sequence[LoopNest]) -> list[Outcome]:
        """The outcomes of `measure_iter`, as a list."""
        return list(self.measure_iter(nests))

    def network_target(self) -> NetworkTarget | None:
        """How whole networks are compiled for this device; None when they cannot be run."""
        return None

    def library_target(self) -> LibraryTarget | None:
        """How whole networks are compiled for a device that this machine is not; None if none."""
        return None

    def workshop(self) -> Workshop | None:
        """How kernels are built elsewhere; None where they are built on this machine only."""
        return None

    def build_with(self, builder: Builder) -> None:
        """Have kernels built by `builder`, which works as `workshop` says, from now on.

        Raises:
            BackendError: Kernels are built on this machine only.
        """
        raise BackendError(f"The backend {self.name!r} builds its kernels on this machine only.")

    def close(self) -> None:  # noqa: B027 - not every backend has something to end
        """End the processes that the backend owns."""

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
