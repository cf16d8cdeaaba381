"""The CUDA backend: kernels compiled by TVM and nvcc, checked and timed on this machine's GPU.

Schedules, CUDA source and machine code need no GPU; `measure` and `describe` do.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field, field_validator

from backends.base import BackendError, Device, NetworkTarget, Outcome
from backends.cuda_job import EXCLUSIVE, KERNEL_VERSION, STAGES
from backends.devices import host, target_text
from backends.gpus import GpuFeatures, gpu_features, gpu_target, gpu_trouble, nvcc_version
from backends.kernel_job import KernelJob
from backends.measuring import MeasuringBackend
from backends.schedules import LoweredSchedules
from backends.settings import BackendSettings
from backends.workers import WorkerPool, WorkerSpec
from backends.workers.outcomes import ONE_THREAD
from genomes.nest import LoopNest

_ENVIRONMENT = {**ONE_THREAD, "TVM_NUM_THREADS": "1"}
_MOST_BUILDERS = 4
_AHEAD = 2
"""Kernels that are built before the one on the GPU is timed.  Each worker holds a CUDA context of
some hundred megabytes on the GPU, and there are as many more of them as that."""


class CudaOptions(BackendSettings):
    """Options of the CUDA backend.

    Attributes:
        arch: The GPU's architecture, as nvcc calls it: "sm_90".
        builders: Kernels that are built side by side; they are checked and timed one by one.
        drift_every: The reference kernel is timed before the first and after every so many
            kernels.
        jobs_per_worker: A worker process is replaced after so many kernels.
    """

    arch: str = "sm_90"
    builders: int = Field(default_factory=lambda: _builders(host().cores), ge=1, le=64)
    drift_every: int = Field(default=50, ge=1)
    jobs_per_worker: int = Field(default=200, ge=1)

    @field_validator("arch")
    @classmethod
    def _known_arch(cls, arch: str) -> str:
        try:
            return gpu_features(arch).arch
        except BackendError as error:
            raise ValueError(str(error)) from error


class CudaBackend(LoweredSchedules, MeasuringBackend):
    """Kernels on this machine's first NVIDIA GPU.

    It can be made, and schedules and compiles, where there is no GPU.

    Args:
        options: All of them have defaults.
    """

    name = "cuda"
    Options = CudaOptions

    def __init__(self, options: CudaOptions | None = None) -> None:
        self._options = options = options or CudaOptions()
        self.measure_options = options.measure_options
        self._target = gpu_target(options.arch)
        pool = WorkerPool(self._worker_spec(), options.builders, _AHEAD)
        super().__init__(pool, options.drift_every)

    @property
    def target(self) -> str:
        return target_text(self._target)

    @functools.cached_property
    def features(self) -> GpuFeatures:
        """What schedules may use."""
        return gpu_features(self._options.arch)

    def describe(self) -> Device:
        """The GPU.

        Raises:
            BackendError: There is none, or it is of another architecture.
        """
        import tvm

        device = self._device()
        facts = {
            "kind": "cuda",
            "model": str(device.device_name),
            "arch": self._options.arch,
            "multiprocessors": int(device.multi_processor_count),
            "clock_khz": int(device.max_clock_rate),
            "nvcc": nvcc_version(),
            "tvm": str(tvm.__version__),
            "kernels": KERNEL_VERSION,
        }
        return Device(f"{facts['model']} ({self._options.arch})", facts)

    def network_target(self) -> NetworkTarget:
        return NetworkTarget(self._target, self.features, _ENVIRONMENT)

    def measure_iter(self, nests: Sequence[LoopNest]) -> Iterator[Outcome]:
        self._device()
        return super().measure_iter(nests)

    def _job(self, nest: LoopNest) -> KernelJob:
        return KernelJob(nest, self._target, self.measure_options)

    def _device(self) -> Any:
        """The GPU, as TVM knows it; there is a compiler for it, too."""
        import tvm

        trouble = gpu_trouble(self._options.arch)
        if trouble:
            raise BackendError(trouble)
        return tvm.cuda(0)

    def _worker_spec(self) -> WorkerSpec:
        options = self._options
        limits_s = (options.build_timeout_s, options.run_timeout_s, options.run_timeout_s)
        return WorkerSpec(
            function="backends.cuda_job:run",
            limits_s=dict(zip(STAGES, limits_s, strict=True)),
            exclusive=EXCLUSIVE,
            # nvcc needs cores, of which one is left for what runs on the GPU, and no GPU.
            alone=False,
            initialise="backends.cuda_job:initialise",
            arguments=(self._target,),
            environment=_ENVIRONMENT,
            jobs_per_worker=options.jobs_per_worker,
        )


def _builders(cores: int) -> int:
    return max(1, min(cores - 1, _MOST_BUILDERS))
