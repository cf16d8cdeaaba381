from __future__ import annotations

import pytest

from backends.lowering import default_schedule, lower
from genomes.nest import PADDING_MODES
from tests.backends.lowering.kernels import AVX512, after, check, conv, gene

DEPTHWISE = gene("depthwise")


def blocks(nest, prefix):
    text = lower(nest).script()
    return text.count(f'T.sblock("{prefix}_')


@pytest.mark.parametrize("mode", PADDING_MODES)
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding(mode, inside, stride):
    nest = conv(
        2, 4, (5, 9), kernel=3, padding=(2, 1, 1, 2), padding_mode=mode, stride=(1, stride)
    )
    # With columns in vectors, a stride deals the columns of the copy out into parts.
    genes = [
        gene("interchange", order=("ci", "kh", "kw", "wo")),
        gene("vectorize", loop="wo"),
        gene("decompose_reduction", loop="ci"),
    ]
    if inside:
        genes.insert(0, gene("compute_at", loop="ho"))
    check(after(nest, *genes))


def test_nothing_is_copied_when_no_padding_is_read():
    assert blocks(conv(4, 4, 6, padding=(0, 0, 0, 0)), "pad") == 0
    centre = [gene("bottleneck", loop=loop, factor=1) for loop in ("kh", "kw")]
    assert blocks(after(conv(4, 4, 6), *centre), "pad") == 0
    assert blocks(conv(4, 4, 6), "pad") == 1


def test_statements_that_read_the_same_share_the_copy():
    parts = after(conv(4, 8, 6), gene("split_domain", loop="co", parts=4))
    assert blocks(parts, "pad") == 1
    grouped = after(parts, gene("group", 1, over="co", groups=2, layout="block"))
    assert blocks(grouped, "pad") == 1
    check(grouped)
    rows = after(conv(4, 8, 6), gene("split_domain", loop="ho", parts=2))
    assert blocks(rows, "pad") == 2
    check(rows)


def test_tied_statements_packed_differently_have_an_argument_each():
    tied = after(
        conv(4, 8, 6, bias=True),
        gene("split_domain", loop="ho", parts=3),
        gene("pack", 0, operand="weight", lanes=4),
        gene("pack", 2, operand="weight", lanes=4),
    )
    text = lower(tied).script()
    assert "weight_1" in text
    assert "weight_2" not in text
    check(tied)


@pytest.mark.parametrize(
    "genes",
    [
        [gene("bottleneck", loop="co", factor=2)],
        [gene("bottleneck", loop="ho", factor=3), gene("bottleneck", loop="wo", factor=2)],
        [gene("group", over="co", groups=2, layout="interleaved")],
        [
            gene("group", over="co", groups=4, layout="interleaved"),
            gene("split_domain", loop="co", parts=2),
        ],
        [gene("group", over="ho", groups=2, layout="interleaved")],
        [
            gene("split_domain", loop="co", parts=(3, 5)),
            gene("narrow", 1, start=3),
            gene("bottleneck", 1, loop="co", factor=5),
        ],
        [DEPTHWISE, gene("bottleneck", loop="co", factor=2)],
    ],
    ids=lambda genes: "; ".join(map(str, genes)),
)
@pytest.mark.parametrize("scheduled", [False, True])
def test_forms_of_statements(genes, scheduled):
    nest = after(conv(8, 8, (6, 8), bias=True), *genes)
    check(default_schedule(nest, AVX512) if scheduled else nest)


def test_statements_in_tir(golden):
    nest = after(
        conv(4, 8, 6, bias=True),
        gene("split_domain", loop="co", parts=2),
        gene("bottleneck", 1, loop="co", factor=2),
        gene("bottleneck", 1, loop="wo", factor=2),
    )
    golden("statements", lower(nest).script())
