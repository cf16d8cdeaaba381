"""How nests are scheduled by the backends whose kernels `backends.lowering` makes."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backends import lowering
from backends.base import Backend
from backends.devices import CpuFeatures
from backends.gpus import GpuFeatures
from backends.lowering import gpu
from backends.tuning.features import cpu_schedule_features
from backends.tuning.gpu_features import gpu_schedule_features
from genomes.nest import LoopNest


@dataclass(frozen=True)
class _Kind:
    """The schedules of one kind of device; all take the device's features."""

    transformations: frozenset[str]
    default: Callable[[LoopNest, Any], LoopNest]
    candidates: Callable[[LoopNest, Any], tuple[LoopNest, ...]]
    space: Callable[[LoopNest, Any], tuple[LoopNest, ...]]
    numbers: Callable[[LoopNest, Any], tuple[float, ...] | None]


_CPU = _Kind(
    lowering.CPU_TRANSFORMATIONS,
    lowering.default_schedule,
    lowering.schedule_candidates,
    lowering.schedule_space,
    cpu_schedule_features,
)
_GPU = _Kind(
    gpu.GPU_TRANSFORMATIONS,
    gpu.default_schedule,
    gpu.schedule_candidates,
    gpu.schedule_space,
    gpu_schedule_features,
)


class LoweredSchedules(Backend):
    """A backend whose schedules are those of a CPU or of a GPU, as its features say."""

    @property
    @abc.abstractmethod
    def features(self) -> CpuFeatures | GpuFeatures:
        """What schedules may use."""

    @property
    def _kind(self) -> _Kind:
        return _GPU if isinstance(self.features, GpuFeatures) else _CPU

    def transformations(self) -> frozenset[str]:
        return self._kind.transformations

    def default_schedule(self, nest: LoopNest) -> LoopNest:
        return self._kind.default(nest, self.features)

    def schedule_candidates(self, nest: LoopNest) -> tuple[LoopNest, ...]:
        return self._kind.candidates(nest, self.features)

    def schedule_space(self, nest: LoopNest) -> tuple[LoopNest, ...]:
        return self._kind.space(nest, self.features)

    def schedule_features(self, nest: LoopNest) -> tuple[float, ...] | None:
        return self._kind.numbers(nest, self.features)
