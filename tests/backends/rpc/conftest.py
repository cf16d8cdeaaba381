from __future__ import annotations

import pytest

from backends.rpc.loopback import Farm


@pytest.fixture(scope="session")
def farm():
    """Two devices, for tests that leave them as they were."""
    with Farm(2) as farm:
        yield farm
