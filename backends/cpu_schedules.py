"""What backends whose kernels run on a CPU have in common: how nests are scheduled."""

from __future__ import annotations

import abc

from backends import lowering
from backends.base import Backend
from backends.devices import CpuFeatures
from backends.tuning.features import cpu_schedule_features
from genomes.nest import LoopNest


class CpuSchedules(Backend):
    """A backend whose schedules are those of a CPU."""

    @property
    @abc.abstractmethod
    def features(self) -> CpuFeatures:
        """What schedules may use."""

    def transformations(self) -> frozenset[str]:
        return lowering.CPU_TRANSFORMATIONS

    def default_schedule(self, nest: LoopNest) -> LoopNest:
        return lowering.default_schedule(nest, self.features)

    def schedule_candidates(self, nest: LoopNest) -> tuple[LoopNest, ...]:
        return lowering.schedule_candidates(nest, self.features)

    def schedule_space(self, nest: LoopNest) -> tuple[LoopNest, ...]:
        return lowering.schedule_space(nest, self.features)

    def schedule_features(self, nest: LoopNest) -> tuple[float, ...] | None:
        return cpu_schedule_features(nest, self.features)
