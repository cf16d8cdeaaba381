from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def no_reports():
    """A Ray that a test starts by itself reports to nobody either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield
