"""The registry: every transformation is declared once; everything else reads it from here.

Sampling, validation, `loopgene transforms`, the documentation and the property tests use the
same declarations.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from genomes.errors import GenomeFormatError, IllegalTransformation, require
from genomes.gene import Gene
from genomes.nest import LoopNest
from genomes.suggest import nearest
from genomes.transformations.arguments import Argument


class Kind(StrEnum):
    """What a transformation changes, and what makes it legal."""

    PROGRAM = "program"
    """Keeps the set of iterations; legal by dependence."""
    MAPPING = "mapping"
    """Binds loops to the device; legal by dependence and the device's limits."""
    NEURAL = "neural"
    """Removes iterations or unties weights; legal by capacity."""


class Phase(StrEnum):
    """What a transformation acts on; domain genes come before schedule genes in a genome."""

    DOMAIN = "domain"
    """The statements and their iteration domains."""
    SCHEDULE = "schedule"
    """The loops of one statement."""


@dataclass(frozen=True)
class Transformation:
    """A declared transformation.

    Attributes:
        name: As genes name it.
        kind: Program, mapping or neural.
        phase: Domain or schedule.
        arguments: Argument domains by name.
        primitive: The TVM schedule primitive it becomes, or how it is lowered.
        also_called: Names in the paper, Halide, Exo and the NAS literature.
        summary: First line of the docstring.
        doc: The whole docstring, with a `rewrite:` block.
    """

    name: str
    kind: Kind
    phase: Phase
    arguments: Mapping[str, Argument]
    primitive: str
    also_called: tuple[str, ...]
    summary: str
    doc: str
    _apply: Callable[..., LoopNest]

    def apply(self, nest: LoopNest, gene: Gene) -> LoopNest:
        """The nest after `gene`.

        Raises:
            IllegalTransformation: The gene does not apply; `nest` is unchanged.
        """
        count = len(nest.statements)
        require(
            0 <= gene.statement < count,
            f"there is no statement {gene.statement}: the nest has {count}",
        )
        given = gene.arguments
        missing = [n for n in self.arguments if n not in given]
        unknown = [n for n in given if n not in self.arguments]
        require(not missing, f"{self.name} lacks the argument {', '.join(missing)}")
        require(not unknown, f"{self.name} has no argument {', '.join(unknown)}")
        for name, value in given.items():
            self.arguments[name].check(name, value)
        if self.phase is Phase.DOMAIN:
            require(
                not nest.statements[gene.statement].has_schedule,
                f"{self.name} changes the domain of statement {gene.statement}, which already "
                "has a schedule: domain genes come first",
            )
        return self._apply(nest, gene.statement, **given)

    def sample(self, nest: LoopNest, statement: int, rng: random.Random) -> Gene:
        """A gene with random arguments for `statement`; it may turn out illegal."""
        loops = nest.statements[statement].scheduled(nest.shape.batch).loops
        args = {name: domain.sample(loops, rng) for name, domain in self.arguments.items()}
        return Gene.of(self.name, statement, **args)


REGISTRY: dict[str, Transformation] = {}


def transformation(
    *,
    kind: Kind,
    phase: Phase,
    primitive: str,
    also_called: tuple[str, ...] = (),
    **arguments: Argument,
) -> Callable[[Callable[..., LoopNest]], Callable[..., LoopNest]]:
    """Declare the decorated function `(nest, statement, **arguments) -> nest`.

    The function's docstring needs a `rewrite:` block that shows code before and after.
    """

    def declare(function: Callable[..., LoopNest]) -> Callable[..., LoopNest]:
        doc = inspect.getdoc(function) or ""
        name = function.__name__
        if "rewrite:" not in doc:
            raise TypeError(f"transformation {name} needs a rewrite: block in its docstring")
        if name in REGISTRY:
            raise TypeError(f"transformation {name} is declared twice")
        REGISTRY[name] = Transformation(
            name,
            kind,
            phase,
            arguments,
            primitive,
            also_called,
            doc.splitlines()[0],
            doc,
            function,
        )
        return function

    return declare


def get_transformation(name: str) -> Transformation:
    """The transformation called `name`.

    Raises:
        GenomeFormatError: There is none; the message names the nearest one.
    """
    if name not in REGISTRY:
        raise GenomeFormatError(f"unknown transformation {name!r}; {nearest(name, REGISTRY)}")
    return REGISTRY[name]


def apply(nest: LoopNest, gene: Gene) -> LoopNest:
    """The nest after `gene`.

    Raises:
        IllegalTransformation: The gene does not apply, whatever the reason.
    """
    if gene.op not in REGISTRY:
        raise IllegalTransformation(f"unknown transformation {gene.op!r}")
    return REGISTRY[gene.op].apply(nest, gene)


def phase_of(gene: Gene) -> Phase:
    """The phase of a gene's transformation."""
    return get_transformation(gene.op).phase


def sample_gene(
    nest: LoopNest, allowed: Collection[str], rng: random.Random, attempts: int = 16
) -> tuple[Gene, LoopNest] | None:
    """A random legal gene out of `allowed` and the nest after it; None when none was found."""
    names = sorted(allowed)
    for _ in range(attempts if names else 0):
        chosen = REGISTRY[rng.choice(names)]
        gene = chosen.sample(nest, rng.randrange(len(nest.statements)), rng)
        try:
            return gene, chosen.apply(nest, gene)
        except IllegalTransformation:
            continue
    return None
