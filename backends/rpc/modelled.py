"""The RPC backend with latencies from a formula: for tests, and to measure the farm itself.

Kernels are built, sent to a board, run and checked there like any other; only the times are
modelled, the same for ever, and every session takes a fixed time.  `describe` says so.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field

from backends.base import Device, Outcome
from backends.rpc import session
from backends.rpc.backend import RpcBackend, RpcOptions
from backends.rpc.session import Answer, RpcJob, Session
from backends.table import modelled_latency_s
from backends.workers import Stage
from genomes.nest import LoopNest


class ModelledOptions(RpcOptions):
    """Options of the RPC backend with modelled latencies.

    Attributes:
        service_s: A board is busy for so long after it has checked a kernel.
    """

    service_s: float = Field(default=0.0, ge=0)


@dataclass(frozen=True)
class ModelledJob(RpcJob):
    """A kernel whose time is modelled; `service_s` as in the options."""

    service_s: float = 0.0


class ModelledSession(Session):
    """A session that times nothing."""

    def times_s(self, module: Any, arguments: list[Any]) -> tuple[float, ...]:
        job = self.job
        assert isinstance(job, ModelledJob)
        assert job.nest is not None
        time.sleep(job.service_s)
        return (modelled_latency_s(job.nest),) * job.options.repeats


def run(job: RpcJob, stage: Stage) -> Outcome | Answer:
    """As `backends.rpc.session.run`."""
    return session.run_in(ModelledSession, job, stage)


class ModelledRpcBackend(RpcBackend):
    """Modelled latencies of kernels that run on real devices."""

    name = "rpc-modelled"
    Options = ModelledOptions
    session = "backends.rpc.modelled:run"

    def __init__(self, options: ModelledOptions) -> None:
        self._service_s = options.service_s
        super().__init__(options)

    def describe(self) -> Device:
        device = super().describe()
        facts = {**device.facts, "modelled": True}
        return replace(device, name=f"{device.name} (modelled, not measured)", facts=facts)

    def library_target(self) -> None:
        """None: networks would be measured, and nothing here is."""
        return

    def _job(self, nest: LoopNest | None) -> RpcJob:
        job = super()._job(nest)
        return ModelledJob(**{**vars(job), "service_s": self._service_s})
