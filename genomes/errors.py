"""The exceptions of LoopGene: one root, structured fields, messages that say what to do next."""

from __future__ import annotations


class LoopGeneError(Exception):
    """Root of every error that LoopGene raises on purpose.

    The command line prints the message of any `LoopGeneError` on one line and exits
    non-zero; every other exception is a defect of LoopGene and keeps its traceback.
    """


class IllegalTransformation(LoopGeneError):  # noqa: N818 - the field's word, used throughout
    """A gene does not apply to a loop nest; the only error that `apply` lets out.

    Attributes:
        reason: Why the gene does not apply, without the gene itself.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class GenomeFormatError(LoopGeneError):
    """A genome's serialised form cannot be read (unknown operation, wrong version, bad JSON)."""


class ModelError(LoopGeneError):
    """A network given by the user cannot be imported, built or run on its input shape."""


def require(condition: bool, reason: str) -> None:
    """Raise `IllegalTransformation(reason)` unless `condition` holds."""
    if not condition:
        raise IllegalTransformation(reason)
