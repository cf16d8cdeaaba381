from __future__ import annotations

from genomes.transformations import REGISTRY
from tests.engine.cli.conftest import Cli


def test_lists_the_whole_registry(cli: Cli) -> None:
    result = cli("transforms")
    assert result.exit_code == 0
    for name, transformation in REGISTRY.items():
        (line,) = [x for x in result.stdout.splitlines() if x.split()[:1] == [name]]
        assert transformation.primitive.split(",")[0][:20] in line
    for kind in ("program", "mapping", "neural"):
        assert f"{kind} transformations, " in result.stdout
    assert "OIHW[i]o" in result.stdout


def test_explains_one_with_its_rewrite_block(cli: Cli) -> None:
    result = cli("transforms", "group")
    assert result.exit_code == 0
    assert result.stdout.startswith("group: neural transformation, phase domain\n")
    assert "layout: block | interleaved" in result.stdout
    assert REGISTRY["group"].doc in result.stdout


def test_unknown(cli: Cli) -> None:
    result = cli("transforms", "grup")
    assert result.exit_code == 1
    assert result.stderr == (
        "loopgene: error: unknown transformation 'grup'; did you mean 'group'?\n"
    )
