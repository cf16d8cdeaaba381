"""The failure of a lowering."""

from __future__ import annotations

from genomes.errors import LoopGeneError


class LoweringError(LoopGeneError):
    """TVM refused a schedule, or could not build it; the message names the gene on one line."""
