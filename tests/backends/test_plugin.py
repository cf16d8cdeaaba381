"""A backend in a package of its own: installed, proved, and searched with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.base import Backend
from backends.conformance import BackendConformance
from backends.registry import BACKENDS, create_backend

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tests/eager_plugin"
MOST_LINES = 60


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the package."""
    copy, target = (tmp_path_factory.mktemp(name) for name in ("source", "site"))
    shutil.copytree(SOURCE, copy, dirs_exist_ok=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--target", str(target), str(copy)], check=True, timeout=120
    )
    return target


class TestEagerBackend(BackendConformance):
    @pytest.fixture(scope="class", autouse=True)
    def installed(self, site: Path) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(site))
            yield

    def make(self) -> Backend:
        return create_backend("eager", {"repeats": 2, "min_repeat_ms": 1})

    def test_it_is_known_by_its_entry_point(self) -> None:
        assert "eager" in BACKENDS.names()


def test_it_is_short() -> None:
    assert len((SOURCE / "loopgene_eager.py").read_text().splitlines()) < MOST_LINES


def test_a_search_uses_it(site: Path, tmp_path: Path) -> None:
    loopgene = str(Path(sys.executable).parent / "loopgene")
    command = [loopgene, "run", str(SOURCE / "experiment.yaml")]
    paths = os.pathsep.join((str(ROOT), str(site)))
    done = subprocess.run(
        [*command, "--set", f"home={tmp_path}"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = tmp_path.glob("eager-*/result.json")
    assert json.loads(result.read_text())["device"]["name"] == "PyTorch, eager"
