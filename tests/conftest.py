"""Settings of all tests."""

from __future__ import annotations

import os

# Two test processes on two cores: threads of torch would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
