"""`loopgene transforms`: the registry of transformations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.common import console

if TYPE_CHECKING:
    from genomes.transformations import Kind, Phase, Transformation

_LEGAL = {
    "program": "keep the set of iterations; legal by dependence",
    "mapping": "bind loops to a GPU; legal by dependence and the limits of the device",
    "neural": "change what is computed; legal when the network keeps its capacity",
}


def transforms(
    name: Annotated[
        str | None,
        typer.Argument(help="A transformation: shows all of its documentation.", metavar="NAME"),
    ] = None,
) -> None:
    """List the transformations of which candidates are made, or explain one."""
    from genomes.transformations import REGISTRY, get_transformation

    if name is not None:
        _explain(get_transformation(name))
        return
    from rich import box
    from rich.table import Table

    out = console()
    for (kind, phase), members in _grouped(REGISTRY.values()).items():
        title = f"\n{kind.value} transformations, {phase.value} phase: {_LEGAL[kind]}"
        out.print(title, soft_wrap=True)
        table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1))
        table.add_column("name", no_wrap=True)
        for column in ("arguments", "becomes in TVM", "also called"):
            table.add_column(column, overflow="fold")
        for t in members:
            arguments = "\n".join(f"{k}: {v.describe()}" for k, v in t.arguments.items())
            table.add_row(t.name, arguments, t.primitive, ", ".join(t.also_called))
        out.print(table)
    out.print("Before and after of one of them: loopgene transforms NAME")


def _grouped(
    transformations: Iterable[Transformation],
) -> dict[tuple[Kind, Phase], list[Transformation]]:
    """Transformations by kind and phase, in the order of the registry."""
    groups: dict[tuple[Kind, Phase], list[Transformation]] = {}
    for t in transformations:
        groups.setdefault((t.kind, t.phase), []).append(t)
    return groups


def _explain(transformation: Transformation) -> None:
    t = transformation
    lines = [
        f"{t.name}: {t.kind.value} transformation, phase {t.phase.value}",
        *(f"  {name}: {domain.describe()}" for name, domain in t.arguments.items()),
        f"  becomes in TVM: {t.primitive}",
        f"  also called: {', '.join(t.also_called) or '-'}",
        "",
        t.doc,
    ]
    typer.echo("\n".join(lines))
