from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from engine.cli import app

Cli = Callable[..., Result]

NETWORK = """
from torch import nn


def make(width=8, classes=10):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1),
        nn.ConvTranspose2d(2 * width, width, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, classes),
    )


def broken():
    raise RuntimeError("out of neurons")


def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
"""

EXPERIMENT = """
name: tiny
model:
  spec: net.py:make
  input_shape: [1, 3, 8, 8]
backend:
  name: table
search:
  population: 4
  generations: 3
  tune: 0
capacity:
  batch: 4
finalists: 1
tracking:
  mlflow: false
"""


def invoke(*args: object) -> Result:
    """The command line in this process; an unexpected exception is raised."""
    return CliRunner().invoke(
        app, [str(arg) for arg in args], prog_name="loopgene", catch_exceptions=False
    )


def fill(folder: Path) -> Path:
    """Put a network and an experiment into a user's folder."""
    (folder / "net.py").write_text(NETWORK)
    (folder / "tiny.yaml").write_text(EXPERIMENT)
    return folder


@pytest.fixture
def cli() -> Cli:
    return invoke


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, with a network and an experiment, as the current one."""
    monkeypatch.chdir(tmp_path)
    return fill(tmp_path)
