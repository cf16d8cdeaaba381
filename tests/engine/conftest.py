from __future__ import annotations

import pytest
import torch

from engine import metric
from tests.engine.toys import ParameterMetric


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors on a busy machine: several threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cheap_metric(monkeypatch):
    """Capacity is the number of parameters; the metrics that were made, in order."""
    made = []

    def create_metric(name, model, sites, x, y, **options):
        made.append(ParameterMetric(sites))
        return made[-1]

    monkeypatch.setattr(metric, "create_metric", create_metric)
    return made
