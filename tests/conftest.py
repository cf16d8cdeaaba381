from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.needs import has_gpu

# A job in the background of a script ignores Ctrl-C, and so do all processes it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests run side by side, and what they time is not what they are about.
os.environ["LOOPGENE_IMPATIENT"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write the golden files instead of comparing"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)`: `text` is what golden/<name>.txt beside the test holds."""

    def compare(name: str, text: str) -> None:
        path = Path(request.path).parent / "golden" / f"{name}.txt"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"{path} is missing: run pytest with --update-golden"
        assert text == path.read_text(), f"{path.name} differs; if intended, --update-golden"

    return compare


@pytest.fixture
def no_gpu() -> None:
    """For tests of what happens without a GPU."""
    if has_gpu():
        pytest.skip("says what happens without a GPU, and there is one")


@pytest.fixture
def without_nvcc(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no nvcc on the PATH, and nothing that it compiled is kept in this process."""
    from backends.lowering.gpu.kernel import machine_code

    found = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "nvcc" else found(name))
    machine_code.cache_clear()
