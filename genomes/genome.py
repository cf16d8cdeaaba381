"""Genomes: for every site a tuple of genes; replaying them is a fold over the site's nest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from typing import Any

from genomes.errors import GenomeFormatError, IllegalTransformation
from genomes.gene import Gene, Value
from genomes.nest import ConvShape, LoopNest
from genomes.transformations import Phase, apply, get_transformation, phase_of

FORMAT = "loopgene-genome"
VERSION = 1


@dataclass(frozen=True)
class Genome:
    """The genes of every transformed site, sites in name order.

    Attributes:
        sites: (qualified module name, genes) pairs; a site without genes is left out.
    """

    sites: tuple[tuple[str, tuple[Gene, ...]], ...] = ()

    @classmethod
    def of(cls, genes: Mapping[str, Iterable[Gene]]) -> Genome:
        """A genome from a mapping of site names to genes."""
        pairs = ((name, tuple(g)) for name, g in sorted(genes.items()))
        return cls(tuple((name, g) for name, g in pairs if g))

    @cached_property
    def by_site(self) -> dict[str, tuple[Gene, ...]]:
        """Genes by site name."""
        return dict(self.sites)

    def genes(self, site: str) -> tuple[Gene, ...]:
        """The genes of a site; () when it is not transformed."""
        return self.by_site.get(site, ())

    def with_genes(self, site: str, genes: Sequence[Gene]) -> Genome:
        """This genome with the genes of one site replaced."""
        return Genome.of({**self.by_site, site: tuple(genes)})

    def __len__(self) -> int:
        return sum(len(genes) for _, genes in self.sites)

    @cached_property
    def key(self) -> str:
        """Content hash."""
        return _digest([(name, _genes_key(genes)) for name, genes in self.sites])

    @cached_property
    def neural(self) -> Genome:
        """The domain genes alone: what decides what the network computes."""
        return Genome.of({name: _domain_genes(genes) for name, genes in self.sites})

    def to_json(self) -> dict[str, Any]:
        """Versioned plain data that `from_json` reads back."""
        sites = {name: [g.to_json() for g in genes] for name, genes in self.sites}
        return {"format": FORMAT, "version": VERSION, "sites": sites}

    @classmethod
    def from_json(cls, data: Any) -> Genome:
        """Inverse of `to_json`.

        Raises:
            GenomeFormatError: The data is no genome of this version, or names an unknown
                transformation; the message says where.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise GenomeFormatError(f'this is no genome: expected "format": "{FORMAT}"')
        if data.get("version") != VERSION:
            raise GenomeFormatError(
                f"genome version {data.get('version')!r} cannot be read (this LoopGene reads "
                f"version {VERSION}); use the LoopGene that wrote it"
            )
        sites = data.get("sites")
        if not isinstance(sites, dict) or not all(isinstance(v, list) for v in sites.values()):
            raise GenomeFormatError('a genome needs "sites": {name: [gene, ...]}')
        return cls.of(
            {
                name: [_gene_from_json(gene, f"site {name}, gene {i}") for i, gene in enumerate(v)]
                for name, v in sites.items()
            }
        )

    def dumps(self) -> str:
        """JSON text, one gene on each line."""
        lines = []
        for name, genes in self.sites:
            items = ",\n".join(f"      {json.dumps(g.to_json(), sort_keys=True)}" for g in genes)
            lines.append(f"    {json.dumps(name)}: [\n{items}\n    ]")
        body = ",\n".join(lines)
        head = f'  "format": "{FORMAT}",\n  "version": {VERSION},\n'
        return "{\n" + head + '  "sites": {\n' + body + "\n  }\n}\n"

    @classmethod
    def loads(cls, text: str) -> Genome:
        """Inverse of `dumps`.

        Raises:
            GenomeFormatError: The text is no JSON or no genome.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise GenomeFormatError(f"the genome is no valid JSON: {error}") from error
        return cls.from_json(data)

    def __str__(self) -> str:
        """One line: `layer1.0.conv1: group(groups=4, ...) unroll(loop=kw); fc: ...`."""
        if not self.sites:
            return "(untransformed)"
        return "; ".join(f"{name}: {' '.join(map(str, genes))}" for name, genes in self.sites)


def _gene_from_json(data: Any, where: str) -> Gene:
    if not isinstance(data, dict) or not isinstance(data.get("op"), str):
        raise GenomeFormatError(f'{where}: a gene needs "op", "statement" and "args"')
    unknown = set(data) - {"op", "statement", "args"}
    if unknown:
        raise GenomeFormatError(f"{where}: unknown key {', '.join(sorted(unknown))}")
    statement, args = data.get("statement", 0), data.get("args", {})
    if not isinstance(statement, int) or isinstance(statement, bool) or not isinstance(args, dict):
        raise GenomeFormatError(f"{where}: statement must be an integer and args an object")
    try:
        get_transformation(data["op"])
    except GenomeFormatError as error:
        raise GenomeFormatError(f"{where}: {error}") from error
    return Gene.of(data["op"], statement, **{k: _value(v, where) for k, v in args.items()})


def _value(value: Any, where: str) -> Value:
    if isinstance(value, bool) or not isinstance(value, str | int | list):
        raise GenomeFormatError(f"{where}: {value!r} is no argument value")
    if not isinstance(value, list):
        return value
    if all(isinstance(v, int) and not isinstance(v, bool) for v in value):
        return tuple(value)
    if all(isinstance(v, str) for v in value):
        return tuple(value)
    raise GenomeFormatError(f"{where}: {value!r} mixes words and numbers")


@lru_cache(maxsize=65536)
def _genes_key(genes: tuple[Gene, ...]) -> str:
    """Content hash of the genes of one site."""
    return _digest([gene.to_json() for gene in genes])


@lru_cache(maxsize=65536)
def _domain_genes(genes: tuple[Gene, ...]) -> tuple[Gene, ...]:
    return tuple(gene for gene in genes if phase_of(gene) is Phase.DOMAIN)


@lru_cache(maxsize=65536)
def replay(shape: ConvShape, genes: tuple[Gene, ...]) -> LoopNest:
    """The nest of a convolution after its genes.

    Raises:
        IllegalTransformation: A gene does not apply; the message names it.
    """

    def step(nest: LoopNest, gene: Gene) -> LoopNest:
        try:
            return apply(nest, gene)
        except IllegalTransformation as error:
            raise IllegalTransformation(f"{gene}: {error.reason}") from error

    return reduce(step, genes, LoopNest.fresh(shape))


@dataclass(frozen=True)
class Repaired:
    """The legal part of a site's genes.

    Attributes:
        genes: In canonical order.
        dropped: The genes left out, each with the reason.
    """

    genes: tuple[Gene, ...]
    dropped: tuple[tuple[Gene, str], ...] = ()


@lru_cache(maxsize=65536)
def repair(shape: ConvShape, genes: tuple[Gene, ...]) -> Repaired:
    """Domain genes first, illegal genes dropped, commuting neighbours in one fixed order."""
    ordered = sorted(genes, key=lambda g: phase_of(g) is Phase.SCHEDULE)
    nest = LoopNest.fresh(shape)
    kept: list[Gene] = []
    dropped: list[tuple[Gene, str]] = []
    for gene in ordered:
        try:
            nest = apply(nest, gene)
        except IllegalTransformation as error:
            dropped.append((gene, error.reason))
        else:
            kept.append(gene)
    return Repaired(_canonical(shape, tuple(kept)), tuple(dropped))


def canonical(shape: ConvShape, genes: tuple[Gene, ...]) -> tuple[Gene, ...]:
    """The canonical order of legal genes: equal for genes that differ by commuting neighbours.

    Raises:
        IllegalTransformation: The genes are not legal.
    """
    replay(shape, genes)
    ordered = sorted(genes, key=lambda g: phase_of(g) is Phase.SCHEDULE)
    return _canonical(shape, tuple(ordered))


def _canonical(shape: ConvShape, genes: tuple[Gene, ...]) -> tuple[Gene, ...]:
    """Sort neighbouring domain genes that commute (the nest stays the same)."""
    domain = [g for g in genes if phase_of(g) is Phase.DOMAIN]
    target = replay(shape, tuple(domain))
    swapped = True
    while swapped:
        swapped = False
        for i in range(len(domain) - 1):
            if _order(domain[i]) <= _order(domain[i + 1]):
                continue
            trial = [*domain[:i], domain[i + 1], domain[i], *domain[i + 2 :]]
            try:
                same = replay(shape, tuple(trial)) == target
            except IllegalTransformation:
                same = False
            if same:
                domain, swapped = trial, True
    return (*domain, *genes[len(domain) :])


def _order(gene: Gene) -> tuple[str, int, str]:
    return (gene.op, gene.statement, repr(gene.args))


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]
