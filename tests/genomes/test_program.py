"""The rules of the schedule transformations, by message, and the loops they leave."""

from __future__ import annotations

from dataclasses import replace

import pytest

from genomes.errors import IllegalTransformation
from genomes.gene import Gene
from genomes.genome import replay
from genomes.nest import ConvShape
from genomes.schedule import Schedule

SHAPE = ConvShape(1, 16, 32, (8, 8), (3, 3), padding=(1, 1, 1, 1))


def split(loop: str, factor: int) -> Gene:
    return Gene.of("split", loop=loop, factor=factor)


def on(op: str, loop: str) -> Gene:
    return Gene.of(op, loop=loop)


def order(*names: str) -> Gene:
    return Gene.of("interchange", order=names)


def bind(loop: str, axis: str) -> Gene:
    return Gene.of("bind", loop=loop, axis=axis)


INNER_CO = (split("co", 16), order("ho", "wo", "ci", "kh", "kw", "co.1"))
ILLEGAL = {
    "no such loop": ([split("k", 2)], "there is no loop k; the loops are n, co, ho"),
    "round up what is round": (
        [Gene.of("round_up", factor=8)],
        "the 32 channels of a group are a multiple of 8 already",
    ),
    "round up by half": (
        [Gene.of("round_up", factor=64)],
        "of 64 channels 32 would be lost, half of them or more",
    ),
    "round up twice": (
        [Gene.of("round_up", factor=5), Gene.of("round_up", factor=3)],
        "rounded up already",
    ),
    "round up what is split": (
        [split("co", 16), Gene.of("round_up", factor=5)],
        "the loop co is divided or marked already",
    ),
    "round up what is marked": (
        [
            order("n", "ho", "wo", "ci", "kh", "kw", "co"),
            on("vectorize", "co"),
            Gene.of("round_up", factor=5),
        ],
        "the loop co is divided or marked already",
    ),
    "round up what holds a stage": (
        [on("cache_write", "co"), Gene.of("round_up", factor=5)],
        "loop co holds a stage",
    ),
    "round up what is packed": (
        [Gene.of("pack", operand="weight", lanes=8), Gene.of("round_up", factor=5)],
        "an operand is packed already",
    ),
    "split does not divide": ([split("co", 5)], "5 does not divide the extent 32"),
    "split by all": ([split("co", 32)], "32 is not below the extent 32"),
    "split a marked loop": ([on("unroll", "kw"), split("kw", 2)], "already marked unroll"),
    "split the write-back loop": (
        [on("cache_write", "wo"), split("wo", 2)],
        "loop wo holds the stage cache_write",
    ),
    "stale loop": ([split("co", 4), split("co", 2)], "there is no loop co;"),
    "tile three": (
        [Gene.of("tile", loops=("co", "ho", "wo"), rows=2, columns=2)],
        "tile takes two loops",
    ),
    "tile strangers": (
        [Gene.of("tile", loops=("co", "wo"), rows=2, columns=2)],
        "co and wo are not neighbours",
    ),
    "same order": ([order("co", "ho")], "in this order already"),
    "twice the same loop": ([order("co", "co")], "two or more different loops"),
    "fuse strangers": ([Gene.of("fuse", loops=("co", "wo"))], "not neighbours in this order"),
    "fuse backwards": ([Gene.of("fuse", loops=("ho", "co"))], "not neighbours in this order"),
    "fuse kinds": ([Gene.of("fuse", loops=("wo", "ci"))], "cannot be fused with a spatial one"),
    "unroll too much": (
        [on("unroll", loop) for loop in ("kw", "kh", "ci", "wo")],
        "1152 unrolled copies; at most 512",
    ),
    "unroll around loops": (
        [on("unroll", "kh"), on("unroll", "ho")],
        "loop kw inside the unrolled ho, kh is copied 24 times, at most 16",
    ),
    "put a loop into unrolled ones": (
        [
            order("co", "ho", "wo", "ci", "kh", "kw", "n"),
            *(on("unroll", loop) for loop in ("kw", "kh", "ci")),
            order("n", "wo"),
        ],
        "loop wo inside the unrolled ci, kh, kw is copied 144 times, at most 16",
    ),
    "vectorize outside": ([on("vectorize", "wo")], "wo is not the innermost loop"),
    "vectorize a reduction": ([on("vectorize", "kw")], "kw is a reduction loop"),
    "vectorize too long": (
        [order("ci", "kh", "kw", "n"), on("vectorize", "n")],
        "n has 1 iterations",
    ),
    "parallel inside": ([on("parallel", "co")], "co is not the outermost loop"),
    "parallel reduction": ([order("ci", "n"), on("parallel", "ci")], "ci is a reduction loop"),
    "parallel twice": ([on("parallel", "n"), on("parallel", "n")], "already marked parallel"),
    "write back in a reduction": (
        [on("cache_write", "kh")],
        "the reduction loop ci, kh surrounds the cache_write",
    ),
    "write back twice": (
        [on("cache_write", "ho"), on("cache_write", "wo")],
        "has a cache_write stage already",
    ),
    "write back outside no reduction": (
        [order("ci", "kh", "kw", "n", "co", "ho", "wo"), on("cache_write", "n")],
        "surrounds the cache_write",
    ),
    "write back a strided tile": (
        [split("ho", 2), order("ho.1", "ho.0"), on("cache_write", "ho.1")],
        r"inside ho.1 the loops take 4 steps of 2 along ho \(8\), no box of the output",
    ),
    "write back a part of fused loops": (
        [Gene.of("fuse", loops=("co", "ho")), split("co+ho", 4), on("cache_write", "co+ho.0")],
        r"inside co\+ho.0 the loops take 4 steps of 1 along co x ho \(256\), no box",
    ),
    "reorder a tile that is written back": (
        [split("ho", 2), on("cache_write", "co"), order("ho.1", "n")],
        r"inside co the loops take 4 steps of 2 along ho \(8\), no box",
    ),
    "initialise in a reduction": (
        [on("decompose_reduction", "kh")],
        "the reduction loop ci surrounds the decompose",
    ),
    "stage at a vector": (
        [*INNER_CO, on("vectorize", "co.1"), Gene.of("prefetch", operand="input", loop="co.1")],
        "holds no stage",
    ),
    "stage inside unrolled": (
        [on("unroll", "kh"), Gene.of("prefetch", operand="input", loop="kw")],
        "inside the marked loop kh",
    ),
    "reorder around a stage": (
        [on("decompose_reduction", "ci"), order("kh", "wo")],
        "surrounds the decompose",
    ),
    "pack lanes": (
        [Gene.of("pack", operand="weight", lanes=5)],
        "5 lanes do not divide 32 output channels",
    ),
    "pack twice": ([Gene.of("pack", operand="weight", lanes=8)] * 2, "packed already"),
    "pack no accumulator": (
        [Gene.of("pack", operand="accumulator", lanes=8)],
        "cache_write comes first",
    ),
    "bind a reduction": (
        [Gene.of("bind", loop="ci", axis="threadIdx.x")],
        "ci is a reduction loop",
    ),
    "bind one axis twice": (
        [Gene.of("bind", loop=name, axis="threadIdx.x") for name in ("ho", "wo")],
        "threadIdx.x is bound to ho already",
    ),
    "fetch without blocks": (
        [Gene.of("shared_read", operand="input", loop="ci")],
        "bind comes before shared_read",
    ),
    "bind inside a reduction": (
        [order("ci", "n"), bind("co", "threadIdx.x")],
        "loop co inside the reduction or marked loop ci cannot be bound to threadIdx.x",
    ),
    "bind inside unrolled": (
        [on("unroll", "n"), bind("co", "blockIdx.x")],
        "loop co inside the reduction or marked loop n cannot be bound to blockIdx.x",
    ),
    "unroll around a bound loop": (
        [bind("co", "blockIdx.x"), on("unroll", "n")],
        "loop co inside the reduction or marked loop n cannot be bound to blockIdx.x",
    ),
    "put a reduction around a bound loop": (
        [bind("co", "blockIdx.x"), order("ci", "n")],
        "loop co inside the reduction or marked loop ci cannot be bound to blockIdx.x",
    ),
    "write back outside of threads": (
        [bind("ho", "threadIdx.x"), on("cache_write", "co")],
        "the cache_write at co is outside the bound loop ho",
    ),
    "bind inside a write-back": (
        [on("cache_write", "co"), bind("ho", "threadIdx.x")],
        "the cache_write at co is outside the bound loop ho",
    ),
    "initialise outside of threads": (
        [bind("wo", "threadIdx.x"), on("decompose_reduction", "wo")],
        "the decompose at wo is outside the bound loop wo",
    ),
    "prefetch outside of threads": (
        [bind("ho", "vthread.x"), Gene.of("prefetch", operand="input", loop="co")],
        "the prefetch:input at co is outside the bound loop ho",
    ),
    "fetch outside of blocks": (
        [bind("co", "blockIdx.x"), Gene.of("shared_read", operand="input", loop="n")],
        "the shared:input at n is outside the bound loop co",
    ),
    "prefetch before the shared fetch": (
        [
            bind("co", "blockIdx.x"),
            Gene.of("shared_read", operand="input", loop="ci"),
            Gene.of("prefetch", operand="input", loop="ci"),
        ],
        "the input is prefetched at ci, not inside the loop ci at which it is fetched into",
    ),
}


@pytest.mark.parametrize("case", ILLEGAL)
def test_illegal(case: str) -> None:
    genes, message = ILLEGAL[case]
    with pytest.raises(IllegalTransformation, match=message):
        replay(SHAPE, tuple(genes))


def test_too_many_threads() -> None:
    shape = replace(SHAPE, out_channels=2048)
    genes = (
        Gene.of("bind", loop="co", axis="threadIdx.x"),
        Gene.of("bind", loop="n", axis="blockIdx.x"),
    )
    with pytest.raises(IllegalTransformation, match="2048 threads in a block; at most 1024"):
        replay(shape, genes)


def test_a_block_fetches_for_all_of_its_threads() -> None:
    fetch = Gene.of("shared_read", operand="input", loop="co")
    schedule = scheduled(bind("co", "blockIdx.x"), bind("ho", "threadIdx.x"), fetch)
    assert schedule.anchor("shared:input") == "co"
    assert [x.bound for x in schedule.loops if x.bound] == ["blockIdx.x", "threadIdx.x"]


@pytest.mark.parametrize("gene", [on("compute_at", "ho"), Gene.of("compute_inline")], ids=str)
def test_placing_the_padding_needs_padding(gene: Gene) -> None:
    with pytest.raises(IllegalTransformation, match="nothing is computed before it"):
        replay(replace(SHAPE, padding=(0, 0, 0, 0)), (gene,))


@pytest.mark.parametrize("changes", [{"stride": (1, 2)}, {"input_lanes": 8}], ids=str)
def test_what_is_copied_without_padding_is_placed_but_not_read_in_place(changes) -> None:
    shape = replace(SHAPE, padding=(0, 0, 0, 0), **changes)
    assert replay(shape, (on("compute_at", "ho"),)).statements[0].has_schedule
    with pytest.raises(IllegalTransformation, match="has no padding"):
        replay(shape, (Gene.of("compute_inline"),))


def test_padding_is_computed_in_one_place() -> None:
    inside, inline = on("compute_at", "ho"), Gene.of("compute_inline")
    for genes, reason in (
        ((inside, inline), "the padding is computed at loop ho"),
        ((inline, inside), "the padding is computed where it is read"),
        ((inline, inline), "the padding is computed where it is read already"),
    ):
        with pytest.raises(IllegalTransformation, match=f"{reason}$"):
            replay(SHAPE, genes)


def scheduled(*genes: Gene) -> Schedule:
    return replay(SHAPE, genes).statements[0].scheduled(SHAPE.batch)


def test_hand_schedule_is_legal() -> None:
    schedule = scheduled(
        split("co", 16),
        split("wo", 4),
        order("co.0", "ho", "wo.0", "ci", "kh", "kw", "wo.1", "co.1"),
        Gene.of("fuse", loops=("n", "co.0", "ho")),
        Gene.of("pack", operand="weight", lanes=16),
        on("cache_write", "wo.0"),
        Gene.of("pack", operand="accumulator", lanes=16),
        on("decompose_reduction", "ci"),
        on("unroll", "wo.1"),
        on("unroll", "kw"),
        on("vectorize", "co.1"),
        on("parallel", "n+co.0+ho"),
    )
    names = ["n+co.0+ho", "wo.0", "ci", "kh", "kw", "wo.1", "co.1"]
    assert [loop.name for loop in schedule.loops] == names
    assert [loop.extent for loop in schedule.loops] == [16, 2, 16, 3, 3, 4, 16]
    assert schedule.anchor("cache_write") == "wo.0"
    assert schedule.lanes("weight") == 16
    assert [loop.mark for loop in schedule.loops if loop.mark] == [
        "parallel",
        "unroll",
        "unroll",
        "vectorize",
    ]


def test_only_what_is_unrolled_outside_a_loop_copies_it() -> None:
    inside_first = (order("ci", "kh", "kw", "co", "wo"), on("unroll", "wo"), on("unroll", "co"))
    assert [x.name for x in scheduled(*inside_first).loops if x.mark] == ["co", "wo"]
    with pytest.raises(IllegalTransformation, match="loop wo inside the unrolled co is copied 32"):
        scheduled(inside_first[0], on("unroll", "co"))


def test_a_tile_of_fused_rows_and_columns_is_written_back() -> None:
    flat = (Gene.of("fuse", loops=("ho", "wo")), split("ho+wo", 4))
    assert scheduled(*flat, on("cache_write", "ho+wo.0")).flat
    rows = (split("ho", 2), split("wo", 4), order("ho.0", "wo.0", "ho.1", "wo.1"))
    assert scheduled(*rows, on("cache_write", "wo.0")).anchor("cache_write") == "wo.0"


def test_tile_is_two_splits_and_an_interchange() -> None:
    tiled = scheduled(Gene.of("tile", loops=("ho", "wo"), rows=2, columns=4))
    by_hand = scheduled(split("ho", 2), split("wo", 4), order("ho.0", "wo.0", "ho.1", "wo.1"))
    assert tiled.loops == by_hand.loops


def test_channels_are_rounded_up_group_by_group() -> None:
    shape = ConvShape(1, 16, 60, (8, 8), (3, 3), groups=2)
    (s,) = replay(shape, (Gene.of("round_up", factor=16), split("co", 32))).statements
    loops = {loop.name: loop.extent for loop in s.scheduled(1).loops}
    assert (loops["co.0"], loops["co.1"]) == (2, 32)
    with pytest.raises(IllegalTransformation, match="16 does not divide the extent 60"):
        replay(shape, (split("co", 16),))
    assert replay(shape, (Gene.of("round_up", factor=16),)).structure_key == (
        replay(shape, ()).structure_key
    )


def test_program_genes_keep_the_iterations() -> None:
    nest = replay(SHAPE, (split("co", 8), Gene.of("fuse", loops=("kh", "kw"))))
    assert nest.structure_key == replay(SHAPE, ()).structure_key
    assert nest.key != replay(SHAPE, ()).key
    assert nest.unscheduled() == replay(SHAPE, ())
