from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
import torch
from torch import nn

from engine.capacity import METRICS, CapacityError, create_metric
from engine.capacity.synflow import SynFlow
from genomes import plugins
from genomes.sites import find_sites


class Installed(SynFlow):
    name = "installed"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("installed", f"{__name__}:Installed", METRICS.group)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])


def create(name: str, **options: object) -> object:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x, y = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    return create_metric(name, model, find_sites(model, (1, 3, 8, 8)), x, y, **options)


@pytest.mark.parametrize("name", METRICS.shipped)
def test_metrics_are_known_by_name(name: str) -> None:
    assert create(name).name == name  # type: ignore[attr-defined]
    assert name in METRICS.names()


@pytest.mark.usefixtures("installed")
def test_metrics_of_installed_packages_are_known() -> None:
    assert "installed" in METRICS.names()
    assert isinstance(create("installed", seed=3), Installed)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fischer", {}, "unknown capacity metric 'fischer'; did you mean 'fisher'"),
        ("accuracy", {}, "known: .*fisher, .*synflow"),
        (
            "fisher",
            {"tolerence": 0.1},
            "'fisher': unknown key tolerence; did you mean 'tolerance'",
        ),
        ("fisher", {"tolerance": 1}, "tolerance: must be less than 1, got 1"),
        ("fisher", {"threads": "many"}, "threads: expected a whole number, got 'many'"),
        ("synflow", {"threads": 2}, "unknown key threads; known: exact, seed, tolerance"),
    ],
)
def test_mistakes_are_explained(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(CapacityError, match=message):
        create(name, **options)
