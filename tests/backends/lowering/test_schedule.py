from __future__ import annotations

from dataclasses import replace

import pytest

from backends.lowering import CPU_TRANSFORMATIONS, LoweringError, lower
from genomes.gene import Gene
from genomes.nest import LoopNest
from genomes.transformations import REGISTRY, Phase
from tests.backends.lowering.kernels import after, check, conv, gene

SMALL = conv(4, 8, 6)

GENES = {
    "split": [gene("split", loop="co", factor=4)],
    "tile": [gene("tile", loops=("ho", "wo"), rows=2, columns=3)],
    "interchange": [gene("interchange", order=("ci", "wo", "co"))],
    "fuse": [gene("fuse", loops=("ho", "wo"))],
    "unroll": [gene("unroll", loop="kw")],
    "vectorize": [
        gene("interchange", order=("ci", "kh", "kw", "wo")),
        gene("vectorize", loop="wo"),
    ],
    "parallel": [gene("fuse", loops=("n", "co")), gene("parallel", loop="n+co")],
    "cache_write": [gene("cache_write", loop="ho")],
    "prefetch": [
        gene("prefetch", operand="input", loop="ho"),
        gene("prefetch", operand="weight", loop="co"),
    ],
    "compute_at": [gene("compute_at", loop="ho")],
    "compute_inline": [gene("compute_inline")],
    "pack": [
        gene("split", loop="co", factor=4),
        gene("interchange", order=("wo", "ci", "kh", "kw", "co.1")),
        gene("cache_write", loop="wo"),
        gene("pack", operand="weight", lanes=4),
        gene("pack", operand="accumulator", lanes=4),
    ],
    "round_up": [gene("round_up", factor=5), gene("split", loop="co", factor=5)],
    "decompose_reduction": [gene("decompose_reduction", loop="ci")],
}


def unchecked(nest: LoopNest, *genes: Gene) -> LoopNest:
    """The nest with genes that `apply` would reject, as a wrong backend might build it."""
    s = nest.statements[0]
    schedule = replace(s.scheduled(nest.shape.batch), genes=genes)
    return LoopNest(nest.shape, (s.with_schedule(schedule),))


def test_every_program_gene_is_here():
    scheduling = {n for n in CPU_TRANSFORMATIONS if REGISTRY[n].phase is Phase.SCHEDULE}
    assert set(GENES) == scheduling


@pytest.mark.parametrize("name", GENES)
def test_tir_after_each_gene(name, golden):
    golden(name, lower(after(SMALL, *GENES[name])).script())


@pytest.mark.parametrize("name", GENES)
def test_numbers_after_each_gene(name):
    check(after(SMALL, *GENES[name]))


def test_a_mapping_gene_does_not_lower():
    bound = after(SMALL, gene("bind", loop="co", axis="blockIdx.x"))
    with pytest.raises(LoweringError, match=r"^bind\(.*\) does not lower to a CPU kernel; cache"):
        lower(bound)


@pytest.mark.parametrize(
    ("illegal", "reason"),
    [
        (gene("decompose_reduction", loop="kh"), "expect the loop to be higher"),
        (gene("fuse", loops=("co", "wo")), "not the parent"),
        (gene("parallel", loop="ci"), "cannot be fulfilled"),
        (gene("vectorize", loop="kw"), "cannot be fulfilled"),
        (gene("split", loop="co", factor=0), "required to be positive"),
    ],
    ids=str,
)
def test_what_tvm_refuses_is_one_line_with_the_gene(illegal, reason):
    with pytest.raises(LoweringError) as caught:
        lower(unchecked(SMALL, illegal))
    message = str(caught.value)
    assert message.startswith(f"{illegal} does not lower: ")
    assert reason in message
    assert "\n" not in message


def test_the_message_names_the_statement():
    parts = after(conv(4, 8, 6), gene("split_domain", loop="co", parts=2))
    first, second = parts.statements
    wrong = unchecked(parts, gene("fuse", loops=("co", "wo"))).statements[0]
    second = second.with_schedule(wrong.scheduled(1))
    with pytest.raises(LoweringError, match=r"^s1\.fuse"):
        lower(LoopNest(parts.shape, (first, second)))


def test_what_is_fetched_to_be_padded_is_copied_under_conditions():
    nest = conv(8, 3, (9, 4), padding=(1, 0, 0, 2), dilation=(1, 2), input_lanes=8)
    check(after(nest, gene("prefetch", operand="input", loop="ho"), gene("compute_at", loop="wo")))


@pytest.mark.parametrize(
    ("pad", "fetch"), [("ho", "co"), ("co", "ho"), ("ho", "ho"), ("kh", "ci")]
)
def test_padding_and_prefetch_at_any_two_loops(pad, fetch):
    check(
        after(
            conv(4, 4, 5, padding=(1, 2, 0, 1), padding_mode="reflect"),
            gene("compute_at", loop=pad),
            gene("prefetch", operand="input", loop=fetch),
        )
    )


def test_padding_at_a_tap_whose_group_tvm_does_not_know():
    # For TVM the channels that one iteration reads may be of several groups.
    check(
        after(
            conv(4, 16, (2, 8), groups=4),
            gene("split", loop="co", factor=2),
            gene("interchange", order=("n", "co.0", "ho", "ci", "kh", "kw", "co.1", "wo")),
            gene("fuse", loops=("n", "co.0", "ho")),
            gene("cache_write", loop="n+co.0+ho"),
            gene("compute_at", loop="kw"),
            gene("vectorize", loop="wo"),
            gene("unroll", loop="co.1"),
            gene("unroll", loop="kw"),
            gene("decompose_reduction", loop="ci"),
        )
    )


def test_fused_rows_and_columns_may_be_cut_inside_a_row():
    nest = after(
        conv(6, 4, (6, 10), kernel=1),
        gene("fuse", loops=("ho", "wo")),
        gene("split", loop="ho+wo", factor=4),
        gene("interchange", order=("ci", "kh", "kw", "ho+wo.1")),
        gene("cache_write", loop="ho+wo.0"),
        gene("vectorize", loop="ho+wo.1"),
        gene("decompose_reduction", loop="ci"),
    )
    check(nest)
    check(after(conv(6, 4, (6, 10)), gene("fuse", loops=("ho", "wo"))))
