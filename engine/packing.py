"""Evaluations as compact plain data: gene lists that many genomes share are written once.

A population is full of copies: crossover and mutation leave most sites as they are.  Writing
every distinct list of genes once keeps checkpoints small and quick, whatever the genomes carry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any

from engine.evaluation import Evaluation
from genomes.gene import Gene
from genomes.genome import FORMAT, VERSION, Genome

_FIELDS = tuple(f.name for f in fields(Evaluation) if f.name != "genome")


def pack(evaluations: Iterable[Evaluation]) -> dict[str, Any]:
    """Plain JSON data; equal evaluations give equal data.

    Returns:
        "genes": the distinct gene lists; "evaluations": their fields, with the genome as
        {site: index into "genes"}.
    """
    # By identity first: hashing a list of genes costs as much as writing it.
    by_id: dict[int, int] = {}
    by_value: dict[tuple[Gene, ...], int] = {}
    packed = []
    for evaluation in evaluations:
        sites = {}
        for site, genes in evaluation.genome.sites:
            index = by_id.get(id(genes))
            if index is None:
                index = by_id[id(genes)] = by_value.setdefault(genes, len(by_value))
            sites[site] = index
        values = {name: getattr(evaluation, name) for name in _FIELDS}
        packed.append({**values, "fitness": list(evaluation.fitness), "genome": sites})
    return {"genes": [_genes_to_json(genes) for genes in by_value], "evaluations": packed}


def unpack(data: Mapping[str, Any]) -> list[Evaluation]:
    """Inverse of `pack`.

    Raises:
        KeyError, TypeError, IndexError, GenomeFormatError: The data is not what `pack` makes.
    """
    lists = {str(index): genes for index, genes in enumerate(data["genes"])}
    known = Genome.from_json({"format": FORMAT, "version": VERSION, "sites": lists})
    genes = [known.genes(str(index)) for index in range(len(lists))]
    return [
        Evaluation(
            **{
                **item,
                "fitness": tuple(item["fitness"]),
                "genome": Genome.of({site: genes[at] for site, at in item["genome"].items()}),
            }
        )
        for item in data["evaluations"]
    ]


@lru_cache(maxsize=16384)
def _genes_to_json(genes: tuple[Gene, ...]) -> list[dict[str, Any]]:
    return [gene.to_json() for gene in genes]
