"""The networks of the paper, and the loading of networks that users bring."""

from __future__ import annotations

from engine.models.loading import load_model
from engine.models.registry import MODELS, ModelEntry, ModelFactory, get_model

__all__ = ["MODELS", "ModelEntry", "ModelFactory", "get_model", "load_model"]
