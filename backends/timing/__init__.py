"""Timing of kernels: alone and undisturbed, and what they lose in a network."""

from __future__ import annotations

from backends.timing.helpers import Helpers, helpers
from backends.timing.network import losing, losing_takes_s
from backends.timing.placement import apart
from backends.timing.probe import (
    IMPATIENT,
    PATIENCE,
    PATIENCE_S,
    SHARED,
    SHARED_BYTES,
    Look,
    Probe,
    is_impatient,
    most_waited_s,
    patient_s,
)
from backends.timing.steady import SLIGHT, steady, steady_difference

__all__ = [
    "IMPATIENT",
    "PATIENCE",
    "PATIENCE_S",
    "SHARED",
    "SHARED_BYTES",
    "SLIGHT",
    "Helpers",
    "Look",
    "Probe",
    "apart",
    "helpers",
    "is_impatient",
    "losing",
    "losing_takes_s",
    "most_waited_s",
    "patient_s",
    "steady",
    "steady_difference",
]
