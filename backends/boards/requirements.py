"""What a board installs: the versions with which this machine compiles."""

from __future__ import annotations

from importlib.metadata import version

_SAME = ("apache-tvm", "apache-tvm-ffi")
"""Both sides have to have the same of these."""

_BESIDE = ("cloudpickle", "ml_dtypes", "numpy", "psutil", "tornado", "typing_extensions")

_FOR_PYTHON_3_10 = {"numpy": "2.2.6", "tornado": "6.5.10"}
"""The last ones for it, where this machine's version is newer; some boards' systems come with
Python 3.10."""

LEAST_PYTHON = (3, 10)
"""Of a board."""


def requirements() -> list[str]:
    """The lines of a requirements file, every version exact."""
    lines = []
    for name in (*_SAME, *_BESIDE):
        old = _FOR_PYTHON_3_10.get(name)
        newer = '; python_version >= "3.11"' if old else ""
        lines.append(f"{name}=={version(name)}{newer}")
        lines += [f'{name}=={old}; python_version < "3.11"'] if old else []
    return lines
