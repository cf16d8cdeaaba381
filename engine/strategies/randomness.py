"""All the randomness of a search, in one object that can be saved.

DEAP takes no generator: it draws from the global `random` module, and from numpy's in some
selections.  The search therefore lends its own generators to the globals while DEAP works and
takes them back afterwards, so that nothing else in the process can disturb it, nor it others.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np


class Randomness:
    """Generators that start from a seed.

    Attributes:
        own: For operators that take a generator.
    """

    def __init__(self, seed: int) -> None:
        self.own = random.Random(f"own {seed}")
        self._python = random.Random(f"lent {seed}").getstate()
        self._numpy = np.random.RandomState(seed).get_state(legacy=False)

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """The global generators of `random` and numpy are the search's own inside."""
        python, numpy = random.getstate(), np.random.get_state(legacy=False)
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        try:
            yield
        finally:
            self._python, self._numpy = random.getstate(), np.random.get_state(legacy=False)
            random.setstate(python)
            np.random.set_state(numpy)

    def state(self) -> dict[str, Any]:
        """Plain JSON data."""
        generator = self._numpy["state"]
        return {
            "own": _python_to_json(self.own.getstate()),
            "python": _python_to_json(self._python),
            "numpy": {**self._numpy, "state": {**generator, "key": generator["key"].tolist()}},
        }

    def restore(self, data: dict[str, Any]) -> None:
        """Go on from `state()`.

        Raises:
            KeyError, TypeError, ValueError: The data is no such state.
        """
        self.own.setstate(_python_from_json(data["own"]))
        self._python = _python_from_json(data["python"])
        generator = data["numpy"]["state"]
        key = np.array(generator["key"], dtype=np.uint32)
        self._numpy = {**data["numpy"], "state": {**generator, "key": key}}


def _python_to_json(state: tuple[Any, ...]) -> list[Any]:
    version, internal, gauss = state
    return [version, list(internal), gauss]


def _python_from_json(data: list[Any]) -> tuple[Any, ...]:
    version, internal, gauss = data
    return (version, tuple(internal), gauss)
