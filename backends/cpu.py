"""The CPU backend: kernels compiled by TVM, checked against PyTorch, timed on this machine."""

from __future__ import annotations

import functools
import os
import tempfile
from dataclasses import replace

from pydantic import Field

from backends.base import BackendError, Device, MeasureOptions, NetworkTarget
from backends.devices import CpuFeatures, cpu_features, cpu_target, describe_cpu, host, target_text
from backends.kernel_job import EXCLUSIVE, KERNEL_VERSION, STAGES, KernelJob
from backends.measuring import MeasuringBackend
from backends.schedules import LoweredSchedules
from backends.settings import BackendSettings
from backends.timing import PATIENCE, PATIENCE_S, SHARED, SHARED_BYTES, most_waited_s
from backends.workers import WorkerPool, WorkerSpec
from backends.workers.outcomes import ONE_THREAD
from genomes.nest import LoopNest

_MOST_BUILDERS = 8
_AHEAD_PER_BUILDER = 2
"""Kernels that are built before the first of them is timed."""
_SPINS = 2000
"""How often a sleepy thread of TVM looks for work: a millisecond.  TVM's own 300,000 take a core
away from the builders for a sixth of a second after every kernel."""
_LEAST_MEMORY_BYTES = 2 << 30
_MEMORY_SHARE = 0.8


class CpuOptions(BackendSettings):
    """Options of the CPU backend.

    Attributes:
        threads: Threads that a kernel runs on; the physical cores when not given.
        mcpu: LLVM's name of the CPU to compile for; this machine's when not given.
        mattr: Features to add or remove: "+avx2", "-avx512f".
        builders: Kernels that are built side by side; they are timed one by one.
        drift_every: The reference kernel is timed before the first and after every so many
            kernels.
        jobs_per_worker: A worker process is replaced after so many kernels.
        memory_limit_gb: Memory that one worker may use; a share of the machine's when not
            given.
        weights_mb: Weights that a network reads between two calls of one kernel, which then has
            a bias and an activation as most have there; 0 times a kernel alone, with its own
            weights in the nearest cache. A search takes its network's.
        patience_s: Seconds for which a busy machine is waited for at first; later half as many
            close together, and in all a share of the time that grows with it, a half at 60. A
            search that has a budget of time takes a tenth of it.
    """

    threads: int = Field(default_factory=lambda: host().cores, ge=1)
    mcpu: str | None = None
    mattr: tuple[str, ...] = ()
    builders: int = Field(default_factory=lambda: min(host().cores, _MOST_BUILDERS), ge=1, le=64)
    drift_every: int = Field(default=50, ge=1)
    jobs_per_worker: int = Field(default=200, ge=1)
    memory_limit_gb: float | None = Field(default=None, gt=0)
    weights_mb: int = Field(default=0, ge=0, le=1024)
    patience_s: float = Field(default=PATIENCE_S, ge=0, le=PATIENCE_S)

    @property
    def measure_options(self) -> MeasureOptions:
        # The other half is left to what flows between the kernels, and to other programs.
        cached_bytes = max(host().caches.values(), default=0) // 2
        return replace(
            super().measure_options,
            weight_bytes=self.weights_mb << 20,
            cached_bytes=cached_bytes,
        )


class CpuBackend(LoweredSchedules, MeasuringBackend):
    """Kernels on this machine's CPU.

    Args:
        options: All of them have defaults.

    Raises:
        BackendError: `mcpu` or `mattr` is unknown or cannot run here, or there are more threads
            than CPUs.
    """

    name = "cpu"
    Options = CpuOptions

    def __init__(self, options: CpuOptions | None = None) -> None:
        self._options = options = options or CpuOptions()
        self.measure_options = options.measure_options
        if options.threads > host().logical:
            raise BackendError(
                f"threads = {options.threads}, but this process may use {host().logical} CPUs."
            )
        self._target = cpu_target(options.threads, options.mcpu, options.mattr)
        # The probes of all its processes know the same from it: those that time networks are not
        # forked from those that time kernels.
        self._shared = tempfile.NamedTemporaryFile(prefix="loopgene-probe-")  # noqa: SIM115
        self._shared.truncate(SHARED_BYTES)
        pool = WorkerPool(self._worker_spec(), options.builders, self._ahead)
        super().__init__(pool, options.drift_every)
        # Workers import TVM while the search is still being set up.
        self._pool.start()

    @property
    def target(self) -> str:
        return target_text(self._target)

    @functools.cached_property
    def features(self) -> CpuFeatures:
        """What schedules may use."""
        return cpu_features(self._target, self._options.threads)

    def describe(self) -> Device:
        device = describe_cpu(self._target, self._options.threads)
        facts = {"kernels": KERNEL_VERSION, "weights_mb": self._options.weights_mb}
        return replace(device, facts={**device.facts, **facts})

    def network_target(self) -> NetworkTarget:
        return NetworkTarget(self._target, self.features, self._environment())

    def close(self) -> None:
        super().close()
        self._shared.close()

    @property
    def _ahead(self) -> int:
        return _AHEAD_PER_BUILDER * self._options.builders

    def _job(self, nest: LoopNest) -> KernelJob:
        return KernelJob(nest, self._target, self.measure_options)

    def _worker_spec(self) -> WorkerSpec:
        options = self._options
        run_s = options.run_timeout_s
        # Waiting for the machine is not the kernel's fault.
        waited_s = most_waited_s(run_s, options.patience_s)
        limits_s = (options.build_timeout_s, run_s, run_s + waited_s)
        return WorkerSpec(
            function="backends.kernel_job:run",
            limits_s=dict(zip(STAGES, limits_s, strict=True)),
            exclusive=EXCLUSIVE,
            initialise="backends.kernel_job:initialise",
            arguments=(self._target,),
            environment={
                **self._environment(),
                "TVM_THREAD_POOL_SPIN_COUNT": str(_SPINS),
                # Whatever this process does: `backends.timing.apart` relies on it.
                "TVM_BIND_THREADS": "1",
            },
            jobs_per_worker=options.jobs_per_worker,
            memory_limit_bytes=self._memory_limit_bytes(),
        )

    def _environment(self) -> dict[str, str]:
        # Other pools of threads would make forks unsafe and timings noisy.
        return {
            **ONE_THREAD,
            "TVM_NUM_THREADS": str(self._options.threads),
            PATIENCE: str(self._options.patience_s),
            SHARED: self._shared.name,
        }

    def _memory_limit_bytes(self) -> int:
        if self._options.memory_limit_gb is not None:
            return int(self._options.memory_limit_gb * 2**30)
        workers = self._options.builders + self._ahead
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return max(_LEAST_MEMORY_BYTES, int(machine * _MEMORY_SHARE / workers))
