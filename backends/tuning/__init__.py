"""Good schedules in few measurements.

The tuner starts from what the backend proposes, and goes on with neighbours of the fastest
schedules so far; a model learned from all measurements says which of them to measure.
"""

from __future__ import annotations

from backends.tuning.ranking import Ranking, Sample
from backends.tuning.samples import stored_samples
from backends.tuning.tuner import Trial, Tuned, tune

__all__ = ["Ranking", "Sample", "Trial", "Tuned", "stored_samples", "tune"]
