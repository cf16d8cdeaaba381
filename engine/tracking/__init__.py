"""Where a search is recorded while it goes on."""

from __future__ import annotations

from pathlib import Path

from engine.tracking.base import NullTracker, Tracker
from engine.tracking.safe import SafeTracker

__all__ = ["NullTracker", "SafeTracker", "Tracker", "create_tracker"]


def create_tracker(mlflow: bool, uri: str | None, experiment: str, home: Path) -> Tracker:
    """The tracker of an experiment; nothing is opened before its `start`.

    Args:
        mlflow: Whether an MLflow run is written.
        uri: MLflow tracking URI; None: the file `mlflow.db` in `home`.
        experiment: Name of the MLflow experiment.
        home: Folder of the run folders; also of the artifacts of a store that is a local file.
    """
    if not mlflow:
        return NullTracker()
    from engine.tracking.mlflow_tracker import MlflowTracker

    return SafeTracker(MlflowTracker(uri, experiment, home))
