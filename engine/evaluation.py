"""What the engine's parts tell each other: evaluations, generations, results.

Plain frozen data; every class converts to JSON for checkpoints, tracking and reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from genomes.genome import Genome

OK = "ok"
CAPACITY = "capacity"
"""The status of a candidate whose capacity falls below the original's."""
PARAMETERS = "parameters"
"""The status of a candidate that keeps too few parameters."""


@dataclass(frozen=True)
class Evaluation:
    """One candidate and what is known of it.

    Attributes:
        genome: The candidate.
        status: `OK`, `CAPACITY`, `PARAMETERS`, or the `FailureKind` of the kernel that failed.
        fitness: Objectives to minimise, finite always; seconds first.
        latency_s: From the sum of the measured kernels; None when not measured.
        capacity: The candidate's score; None when it was not computed.
        macs: Multiply-accumulates of all sites.
        parameters: Weights and biases of all sites.
        message: Why it was rejected, one line; "" when it was not.
    """

    genome: Genome
    status: str
    fitness: tuple[float, ...]
    latency_s: float | None = None
    capacity: float | None = None
    macs: int = 0
    parameters: int = 0
    message: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back."""
        return {
            "genome": self.genome.to_json(),
            "status": self.status,
            "fitness": list(self.fitness),
            "latency_s": self.latency_s,
            "capacity": self.capacity,
            "macs": self.macs,
            "parameters": self.parameters,
            "message": self.message,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        """Inverse of `to_json`.

        Raises:
            GenomeFormatError: The genome in it cannot be read.
        """
        fields = dict(data)
        fields["genome"] = Genome.from_json(fields["genome"])
        fields["fitness"] = tuple(fields["fitness"])
        return cls(**fields)


@dataclass(frozen=True)
class Generation:
    """What one generation did; metrics of generations are tracked by `number`.

    Attributes:
        number: 0 for the initial population.
        population: The survivors.
        evaluated: The candidates that were new in this generation, in submission order.
        best: The best legal candidate so far; the untransformed network at first.
        rejected: Rejected candidates of this generation, by status.
        dropped_genes: Genes that the repair removed, by reason.
        seconds: Time by stage: propose, capacity, build, check, measure, wait, track,
            checkpoint.
        evaluations: Candidates evaluated so far, all generations.
        measurements: Kernels measured so far (store hits excluded).
        store_hits: Kernels answered by the store so far.
        elapsed_s: Wall-clock time of the search so far, over all resumptions.
    """

    number: int
    population: tuple[Evaluation, ...]
    evaluated: tuple[Evaluation, ...]
    best: Evaluation
    rejected: Mapping[str, int] = field(default_factory=dict)
    dropped_genes: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    evaluations: int = 0
    measurements: int = 0
    store_hits: int = 0
    elapsed_s: float = 0.0
