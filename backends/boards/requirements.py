"""What a board installs: the versions with which this machine compiles."""

from __future__ import annotations

from importlib.metadata import version

_SAME = ("apache-tvm", "apache-tvm-ffi")
"""Both sides have to have the same of these."""

_BESIDE = ("cloudpickle", "ml_dtypes", "psutil", "tornado", "typing_extensions")

_NUMPY_FOR_PYTHON_3_10 = "2.2.6"
"""The last one; some boards' systems come with Python 3.10."""

LEAST_PYTHON = (3, 10)
"""Of a board."""


def requirements() -> list[str]:
    """The lines of a requirements file, every version exact."""
    lines = [f"{name}=={version(name)}" for name in (*_SAME, *_BESIDE)]
    numpy = version("numpy")
    lines.append(f'numpy=={numpy}; python_version >= "3.11"')
    lines.append(f'numpy=={_NUMPY_FOR_PYTHON_3_10}; python_version < "3.11"')
    return lines
