from __future__ import annotations

import math

import pytest

from engine.config import SearchConfig
from engine.survey import Choices, choices_at, survey
from genomes.nest import ConvShape
from genomes.sites import Site, Sites

SMALL = ConvShape(1, 2, 2, (2, 2), (1, 1))


@pytest.mark.parametrize(
    ("names", "genes"),
    [
        # By 2: output channels, input channels, rows, columns.
        (("bottleneck",), 4),
        # Block and interleaved, over channels; over rows or columns too.
        (("group",), 6),
        (("depthwise",), 1),
        (("narrow",), 1),
        (("split_domain",), 3),
        # Nothing is split yet.
        (("untie",), 0),
        (("bottleneck", "depthwise"), 5),
        ((), 0),
    ],
)
def test_single_genes(names: tuple[str, ...], genes: int) -> None:
    assert choices_at(SMALL, names, ()).genes == genes


def test_presets() -> None:
    assert choices_at(SMALL, (), ("depthwise",)) == Choices(0, 1)
    assert choices_at(SMALL, (), ("bottleneck", "input_bottleneck")) == Choices(0, 2)


def test_network() -> None:
    sites = (Site("a", SMALL), Site("b", SMALL), Site("c", ConvShape(1, 1, 1, (3, 3), (1, 1))))
    search = SearchConfig(transformations=["depthwise"], presets=["depthwise"])
    found = survey(Sites(sites, (), (1, 2, 2, 2)), search)
    assert [c.presets for c in found.choices] == [1, 1, 0]
    assert found.distinct_shapes == 2
    assert found.log10_genomes == pytest.approx(2 * math.log10(2))


def test_everything_is_allowed_by_default() -> None:
    sites = Sites((Site("a", ConvShape(1, 16, 16, (8, 8), (3, 3))),), (), (1, 16, 8, 8))
    narrow = survey(sites, SearchConfig(transformations=["group"], presets=["grouping"]))
    wide = survey(sites, SearchConfig())
    assert wide.choices[0].genes > narrow.choices[0].genes > 0
    assert wide.choices[0].presets > narrow.choices[0].presets == 4
