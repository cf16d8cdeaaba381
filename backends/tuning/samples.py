"""Samples for the ranking from the rows of the measurement store."""

from __future__ import annotations

from dataclasses import replace

from backends.base import Measured
from backends.store_rows import StoredMeasurement
from backends.stored import StoredBackend
from backends.tuning.mutations import rewritten
from backends.tuning.ranking import Sample
from genomes.errors import IllegalTransformation
from genomes.nest import ConvShape, LoopNest, Statement

MOST_SAMPLES = 2000


def stored_samples(backend: StoredBackend, most: int = MOST_SAMPLES) -> list[Sample]:
    """The latest measurements on the backend's device, oldest first.

    Args:
        backend: Whose store is read.
        most: Rows that are looked at.
    """
    rows = [
        row
        for row in backend.store.rows()
        if row.place == backend.place and isinstance(row.outcome, Measured)
    ]
    found = []
    for row in rows[-most:]:
        nest = nest_of(row)
        features = None if nest is None else backend.schedule_features(nest)
        if features is not None:
            assert isinstance(row.outcome, Measured)
            found.append(Sample(row.structure_key, features, row.outcome.median_s))
    return found


def nest_of(row: StoredMeasurement) -> LoopNest | None:
    """The scheduled nest that was measured; None if its genes no longer apply."""
    statements = tuple(Statement.from_structure(fields) for fields in row.statements)
    nest = LoopNest(ConvShape.from_json(dict(row.shape)), statements)
    try:
        for index, genes in enumerate(row.genes):
            nest = rewritten(nest, index, [replace(g, statement=index) for g in genes])
    except IllegalTransformation:
        return None
    return nest
