"""The transformations: one registry, declared by kind in one module each."""

from genomes.transformations import mapping, neural, program, stages
from genomes.transformations.registry import (
    REGISTRY,
    Kind,
    Phase,
    Transformation,
    apply,
    get_transformation,
    phase_of,
    sample_gene,
)

__all__ = [
    "REGISTRY",
    "Kind",
    "Phase",
    "Transformation",
    "apply",
    "get_transformation",
    "phase_of",
    "sample_gene",
    "mapping",
    "neural",
    "program",
    "stages",
]
