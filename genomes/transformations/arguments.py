"""Argument domains of transformations: what a value may be, how to sample one, how to say so."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from genomes.errors import require
from genomes.gene import Value
from genomes.schedule import Loop


class Argument(Protocol):
    """The domain of one argument."""

    def check(self, name: str, value: Value) -> None:
        """Raise `IllegalTransformation` unless `value` is in the domain."""

    def sample(self, loops: Sequence[Loop], rng: random.Random) -> Value:
        """Draw a value for a statement with the given schedule loops."""

    def describe(self) -> str:
        """The domain for people."""


@dataclass(frozen=True)
class OneOf:
    """One of a few words."""

    values: tuple[str, ...]

    def check(self, name: str, value: Value) -> None:
        require(value in self.values, f"{name} is {value!r}, expected {self.describe()}")

    def sample(self, loops: Sequence[Loop], rng: random.Random) -> Value:
        return rng.choice(self.values)

    def describe(self) -> str:
        return " | ".join(self.values)


@dataclass(frozen=True)
class Count:
    """A whole number of at least `least`; sampled from `usual`."""

    usual: tuple[int, ...]
    least: int = 2

    def check(self, name: str, value: Value) -> None:
        right = isinstance(value, int) and not isinstance(value, bool) and value >= self.least
        require(right, f"{name} is {value!r}, expected a whole number >= {self.least}")

    def sample(self, loops: Sequence[Loop], rng: random.Random) -> Value:
        return rng.choice(self.usual)

    def describe(self) -> str:
        return f"integer >= {self.least}, e.g. {', '.join(map(str, self.usual))}"


@dataclass(frozen=True)
class Parts:
    """A number of equal parts, or the explicit sizes of the parts."""

    usual: tuple[int, ...]

    def check(self, name: str, value: Value) -> None:
        if isinstance(value, tuple):
            sizes = all(isinstance(v, int) and v >= 1 for v in value)
            require(len(value) >= 2 and sizes, f"{name} {value} needs two or more sizes >= 1")
        else:
            Count(self.usual).check(name, value)

    def sample(self, loops: Sequence[Loop], rng: random.Random) -> Value:
        return rng.choice(self.usual)

    def describe(self) -> str:
        return f"number of equal parts ({', '.join(map(str, self.usual))}) or a tuple of sizes"


@dataclass(frozen=True)
class LoopName:
    """The name of a loop of the statement's schedule."""

    def check(self, name: str, value: Value) -> None:
        require(isinstance(value, str), f"{name} is {value!r}, expected the name of a loop")

    def sample(self, loops: Sequence[Loop], rng: random.Random) -> Value:
        return rng.choice(loops).name

    def describe(self) -> str:
        return "loop name"


@dataclass(frozen=True)
class LoopNames:
    """Several loops of the statement's schedule, in an order that matters.

    Attributes:
        adjacent: Whether samples are neighbours in the nest.
    """

    adjacent: bool = False

    def check(self, name: str, value: Value) -> None:
        right = isinstance(value, tuple) and all(isinstance(v, str) for v in value)
        require(right, f"{name} is {value!r}, expected a tuple of loop names")
        assert isinstance(value, tuple)
        distinct = len(value) >= 2 and len(set(value)) == len(value)
        require(distinct, f"{name} needs two or more different loops, got {value}")

    def sample(self, loops: Sequence[Loop], rng: random.Random) -> Value:
        if len(loops) < 2:
            return (loops[0].name,)
        if self.adjacent:
            first = rng.randrange(len(loops) - 1)
            return (loops[first].name, loops[first + 1].name)
        first, second = rng.sample(range(len(loops)), 2)
        return (loops[max(first, second)].name, loops[min(first, second)].name)

    def describe(self) -> str:
        return "neighbouring loop names" if self.adjacent else "loop names in their new order"
