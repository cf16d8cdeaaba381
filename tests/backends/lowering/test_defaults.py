from __future__ import annotations

import math

import pytest

from backends.lowering import (
    build_kernel,
    default_schedule,
    schedule_candidates,
    schedule_space,
)
from backends.lowering.epilogue import Epilogue
from backends.lowering.geometry import kernel_packings, statement_forms
from backends.lowering.tiles import Tile, tiles
from genomes.operators import SCHEDULE_GENES
from genomes.transformations import apply
from tests.backends.lowering.kernels import AVX2, AVX512, NEON, after, check, conv, gene

SHAPES = {
    "3x3": conv(32, 48, 16),
    "1x1": conv(24, 36, 14, kernel=1),
    "stride 2": conv(16, 32, 15, stride=(2, 2)),
    "stem": conv(3, 16, 16, stride=(2, 2)),
    "7x7 pixels": conv(32, 40, 7, kernel=1),
    "2x2 pixels": conv(16, 32, 2),
    "three registers of channels": conv(16, 48, 4),
    "three halves of registers": conv(32, 24, 12, kernel=1, input_lanes=16, output_lanes=8),
    "1 pixel": conv(16, 10, 1, kernel=1),
    "prime": conv(7, 13, (11, 13)),
    "4 groups": conv(32, 64, 8, groups=4),
    "2 channels per group": conv(32, 32, 8, groups=16),
    "30 channels per group": conv(32, 60, 8, groups=2, bias=True),
    "depthwise": conv(16, 16, 14, groups=16),
    "depthwise, stride 2": conv(16, 16, 15, groups=16, stride=(2, 2)),
    "one output channel": conv(8, 1, 6),
}


@pytest.mark.parametrize("cpu", [AVX512, AVX2, NEON], ids=["avx512", "avx2", "neon"])
@pytest.mark.parametrize("name", SHAPES)
def test_tiles_fit_the_registers_and_divide_the_loops(name, cpu):
    (form,) = statement_forms(SHAPES[name])
    s = form.statement
    found = tiles(form, cpu)
    assert found
    for tile in found:
        vectors = tile.elements // tile.width * -(-tile.width // cpu.lanes)
        assert vectors <= cpu.registers
        assert (s.kept_co // s.groups) % tile.channels == 0
        assert tile.columns % (1 if tile.by_channel else tile.width) == 0
        if tile.flat:
            assert (s.rows * s.columns) % tile.columns == 0
        else:
            assert s.rows % tile.rows == s.columns % tile.columns == 0


@pytest.mark.parametrize("name", SHAPES)
def test_the_default_schedule_computes_the_convolution(name):
    check(default_schedule(SHAPES[name], AVX512))


@pytest.mark.parametrize("cpu", [AVX512, AVX2, NEON], ids=["avx512", "avx2", "neon"])
@pytest.mark.parametrize("name", SHAPES)
def test_candidates_are_distinct_and_the_default_is_the_first(name, cpu):
    nest = SHAPES[name]
    candidates = schedule_candidates(nest, cpu)
    assert candidates[0] == default_schedule(nest, cpu)
    assert 1 <= len(candidates) <= 12
    assert len({c.key for c in candidates}) == len(candidates)
    for candidate in candidates:
        assert len(candidate.statements[0].schedule_genes) < SCHEDULE_GENES
        replayed = nest
        for g in candidate.statements[0].schedule_genes:
            replayed = apply(replayed, g)
        assert replayed == candidate


def test_usual_layers_have_several_candidates():
    for name in ("3x3", "1x1", "stride 2", "4 groups", "depthwise"):
        assert len(schedule_candidates(SHAPES[name], AVX512)) >= 4


def test_a_schedule_that_is_there_is_kept():
    parts = after(conv(16, 32, 8), gene("split_domain", loop="co", parts=2))
    mine = after(parts, gene("unroll", 1, loop="kw"))
    done = default_schedule(mine, AVX512)
    assert done.statements[1] == mine.statements[1]
    assert done.statements[0].has_schedule
    assert default_schedule(done, AVX512) is done
    for candidate in schedule_candidates(mine, AVX512):
        assert candidate.statements[1] == mine.statements[1]


def test_schedules_are_computed_once():
    nest = conv(32, 64, 12)
    assert (
        default_schedule(nest, AVX512).statements[0]
        is (default_schedule(conv(32, 64, 12), AVX512).statements[0])
    )


def schedules(nest):
    return [s.scheduled(nest.shape.batch) for s in nest.statements]


def ops(nest):
    return [g.op for g in nest.statements[0].schedule_genes]


def test_only_what_pays_runs_in_parallel():
    small, large = conv(8, 8, 4), conv(64, 64, 32)
    assert "parallel" not in ops(default_schedule(small, AVX512))
    assert "parallel" in ops(default_schedule(large, AVX512))
    single = type(AVX512)(16, 32, 32768, 1 << 20, 2, threads=1)
    assert "parallel" not in ops(default_schedule(large, single))


def vector(nest):
    loops = nest.statements[0].scheduled(1).loops
    return next(x.name for x in loops if x.mark == "vectorize")


def test_lanes_hold_channels_where_the_columns_are_few_and_columns_elsewhere():
    assert vector(default_schedule(conv(512, 512, 4), AVX512)).startswith("co")
    assert vector(default_schedule(conv(128, 128, 16, groups=128), AVX512)).startswith("wo")
    assert vector(default_schedule(conv(24, 144, 56, kernel=1), AVX512)).startswith("ho+wo")


def test_padding_is_left_out_where_lanes_hold_channels():
    for nest in (conv(512, 512, 4), conv(64, 64, 56), conv(128, 128, 16, groups=4)):
        assert "compute_inline" in ops(default_schedule(nest, AVX512))
    mirrored = conv(512, 512, 4, padding_mode="reflect")
    for candidate in schedule_candidates(mirrored, AVX512):
        assert "compute_inline" not in ops(candidate)


@pytest.mark.parametrize("cpu", [AVX512, AVX2, NEON], ids=["avx512", "avx2", "neon"])
def test_padding_is_left_out_only_where_registers_are_left(cpu):
    found = 0
    for nest in (conv(192, 48, 32), conv(192, 48, 8), conv(64, 64, 24), conv(512, 512, 4)):
        for scheduled in schedule_space(nest, cpu):
            if "compute_inline" in ops(scheduled):
                found += 1
                loops = scheduled.statements[0].scheduled(1).loops
                inside = loops[[x.name for x in loops].index("ci") :]
                extents = {x.name: x.extent for x in inside if not x.reduction}
                lanes = next(x.extent for x in inside if x.mark == "vectorize")
                vectors = -(-lanes // cpu.lanes) * math.prod(extents.values()) // lanes
                assert 2 * vectors <= cpu.registers
    assert found > 10


def test_48_channels_are_three_registers():
    schedule = default_schedule(conv(192, 48, 4), AVX512).statements[0].scheduled(1)
    assert schedule.lanes("weight") == schedule.lanes("accumulator") == 16
    inner = schedule.loops[-2:]
    assert [(x.extent, x.mark) for x in inner] == [(3, "unroll"), (16, "vectorize")]


def test_24_channels_are_three_halves_of_registers():
    nest = conv(96, 24, 56, kernel=1, input_lanes=16, output_lanes=8)
    schedule = default_schedule(nest, AVX512).statements[0].scheduled(1)
    assert schedule.lanes("weight") == schedule.lanes("accumulator") == 8
    inner = schedule.loops[-2:]
    assert [(x.extent, x.mark) for x in inner] == [(3, "unroll"), (8, "vectorize")]


ODD = {
    "plain": conv(16, 31, 8),
    "groups": conv(16, 62, 8, groups=2),
    "bias": conv(16, 60, 8, groups=2, bias=True),
    "packed": conv(32, 60, 8, groups=2, bias=True, input_lanes=16, output_lanes=4),
    "rows written out of the middle": after(
        conv(24, 64, 8, bias=True),
        gene("split_domain", loop="co", parts=(4, 60)),
        gene("group", 1, over="co", groups=2, layout="block"),
    ),
    "repeated": after(conv(16, 62, 8, bias=True), gene("bottleneck", loop="co", factor=2)),
}


@pytest.mark.parametrize("name", ODD)
def test_channels_that_fill_no_vectors_are_rounded_up(name) -> None:
    nest = ODD[name]
    rounded = [n for n in schedule_space(nest, AVX512) if any(s.rounded for s in schedules(n))]
    assert any(s.rounded == s.lanes("weight") == 16 for n in rounded for s in schedules(n))
    for scheduled in rounded[:: max(1, len(rounded) // 3)]:
        check(scheduled)
        check(scheduled, epilogue=Epilogue(True, "relu"))


@pytest.mark.parametrize("cpu", [AVX2, NEON], ids=["avx2", "neon"])
def test_shorter_vectors_are_filled_as_well(cpu) -> None:
    nest = conv(16, cpu.lanes * 4 - 1, 8)
    rounded = [n for n in schedule_space(nest, cpu) if schedules(n)[0].rounded == cpu.lanes]
    assert rounded
    check(rounded[0])


@pytest.mark.parametrize(
    "genes",
    [
        [],
        [gene("split", loop="co", factor=16), gene("prefetch", operand="weight", loop="co.0")],
        [gene("fuse", loops=("ho", "wo"))],
        [
            gene("interchange", order=("n", "ho", "wo", "ci", "kh", "kw", "co")),
            gene("vectorize", loop="co"),
        ],
    ],
    ids=["written at the end", "prefetch", "flat", "vectors of one group"],
)
def test_channels_are_rounded_up_in_any_schedule(genes) -> None:
    odd = conv(8, 60, 20, groups=2, bias=True)
    check(after(odd, gene("round_up", factor=32), *genes))


def test_statements_with_one_weight_may_round_it_up_or_not() -> None:
    halves = after(conv(16, 30, 8, bias=True), gene("split_domain", loop="ho", parts=2))
    assert len(halves.weights) == 1
    rounded = after(
        halves, gene("round_up", 1, factor=16), gene("pack", 1, operand="weight", lanes=16)
    )
    assert len(kernel_packings(rounded)) == 2
    check(rounded)


@pytest.mark.parametrize("channels", [8, 12, 16, 24, 40, 64])
def test_channels_are_rounded_up_only_where_no_vector_is_good(channels) -> None:
    for scheduled in schedule_space(conv(16, channels, 8), AVX512):
        assert "round_up" not in ops(scheduled)


def test_what_needs_a_copy_of_the_input_does_not_displace_what_needs_none():
    nest = conv(144, 20, 56, kernel=1, input_lanes=16)
    assert vector(default_schedule(nest, AVX512)).startswith("co")
    assert {"co", "ho"} <= {vector(k)[:2] for k in schedule_space(nest, AVX512)}


def test_padding_of_a_depthwise_convolution_is_read_in_place_where_lanes_have_masks():
    def padded_at(cpu, **changes):
        nest = default_schedule(conv(64, 64, 14, groups=64, **changes), cpu)
        return nest.statements[0].scheduled(1).anchor("pad")

    assert padded_at(AVX512) == "kw"
    assert padded_at(AVX512, stride=(2, 2)) == "kw"
    assert padded_at(AVX512, padding_mode="reflect") != "kw"
    assert padded_at(AVX2) != "kw"


def test_one_pixel_of_one_channel_still_has_a_schedule():
    nest = conv(3, 1, 1, kernel=1)
    assert tiles(statement_forms(nest)[0], AVX512) == [Tile(False, 1, 1, 1, 1, False)]
    check(default_schedule(nest, AVX512))


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_what_the_taps_of_a_row_share_is_not_spilled(parts) -> None:
    nest = conv(64, 64, 32, input_lanes=16, output_lanes=16, bias=True)
    if parts > 1:
        nest = after(nest, gene("split_domain", loop="co", parts=parts))
    target = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "znver4", "num-cores": 2}
    kernel = build_kernel(default_schedule(nest, AVX512), target, Epilogue(activation="relu"))
    vectors = [x for x in kernel.module.inspect_source("asm").splitlines() if "%zmm" in x]
    assert len(vectors) > 100
    assert not [x for x in vectors if "(%rsp)" in x]


def test_one_channel_of_a_block_may_be_copied_alone():
    nest = conv(32, 64, (9, 15), groups=32, input_lanes=8)
    for candidate in schedule_candidates(nest, NEON):
        check(candidate)


def test_rows_of_a_depthwise_convolution_are_vectors_and_columns_share_their_loads() -> None:
    nest = default_schedule(conv(4, 4, 56, groups=4), AVX512)
    extents = {x.name: x.extent for x in nest.statements[0].scheduled(1).loops if x.mark}
    assert extents["wo"] == 56
    order = [x.name for x in nest.statements[0].scheduled(1).loops]
    assert order.index("kw") < order.index("kh")
    check(nest)


def test_strided_rows_of_a_depthwise_convolution_share_the_loads_of_a_row() -> None:
    for nest in schedule_space(conv(4, 4, 56, groups=4, stride=(2, 2)), AVX512):
        loops = nest.statements[0].scheduled(1).loops
        order = [x.name for x in loops]
        assert order.index("kh") < order.index("kw")
        assert all(x.extent != 28 for x in loops if x.mark == "vectorize")
