from __future__ import annotations

import math
from dataclasses import replace

import pytest

from backends.lowering import build_kernel, default_schedule, schedule_space
from backends.lowering.geometry import statement_forms
from backends.lowering.tiles import Tile, tiles
from backends.lowering.traffic import CONFLICT_SLOTS, far_slots, weight_load_slots
from genomes.nest import ConvShape, LoopNest
from tests.backends.lowering.kernels import AVX512, check, conv

PAGES = conv(256, 256, 32, kernel=1)
"""Of its input, rows of channels are 4096 bytes apart."""
BETWEEN = conv(256, 256, 28, kernel=1)
COLUMNS = Tile(False, 8, 1, 16, 16, False)
CHANNELS = Tile(True, 32, 1, 8, 32, False)
FOUR_COLUMNS = Tile(True, 64, 1, 4, 64, False)


def far(nest, tile, cpu=AVX512, *, pixels_first=False, **how):
    (form,) = statement_forms(nest)
    return far_slots(form, cpu, tile, pixels_first=pixels_first, **how)


@pytest.mark.parametrize("tile", [COLUMNS, CHANNELS])
def test_channels_that_are_pages_apart_displace_each_other(tile) -> None:
    assert far(PAGES, tile) > 2 * far(BETWEEN, tile)
    few = conv(4, 256, 32, kernel=1)
    assert far(few, COLUMNS) == 0
    packed = conv(256, 256, 32, kernel=1, input_lanes=16)
    assert far(packed, CHANNELS) < far(PAGES, CHANNELS)


def test_what_was_copied_side_by_side_is_near_unless_it_is_too_large() -> None:
    weights = far(BETWEEN, COLUMNS, pixels_first=True, gathered=True)
    wide, large = replace(COLUMNS, columns=32), replace(AVX512, l1_bytes=48 << 10)
    assert far(PAGES, COLUMNS, pixels_first=True) > weights
    assert far(PAGES, COLUMNS, pixels_first=True, gathered=True) == weights
    assert far(PAGES, wide, pixels_first=True, gathered=True) > weights
    assert far(PAGES, wide, large, pixels_first=True, gathered=True) == weights


@pytest.mark.parametrize("how", ["gathered", "in_place"])
def test_what_is_copied_or_read_by_many_taps_does_not_displace_itself(how) -> None:
    pages = conv(64, 64, (30, 32), padding=(1, 1, 0, 0))
    assert far(pages, CHANNELS, **{how: True}) < far(pages, CHANNELS)


def test_one_tap_hides_nothing() -> None:
    pages = conv(256, 256, 32, kernel=1, padding=(1, 1, 1, 1))
    assert far(pages, CHANNELS, in_place=True) == CONFLICT_SLOTS * 256


def test_channels_that_are_taken_apart_lie_as_in_planes() -> None:
    packed = conv(256, 256, 32, kernel=1, input_lanes=16)
    assert far(packed, COLUMNS) == far(PAGES, COLUMNS) > 0


def test_a_strided_tile_that_reads_in_place_reads_what_is_between() -> None:
    (form,) = statement_forms(LoopNest.fresh(ConvShape(1, 4, 64, (17, 32), (3, 1), stride=(2, 2))))
    assert COLUMNS.read_plane(form) == (3, 16)
    assert COLUMNS.read_plane(form, in_place=True) == (3, 31)


@pytest.mark.parametrize(
    ("size", "kernel", "copied", "lines"),
    [
        ((16, 32), (1, 1), (8, 16), 1),
        ((16, 34), (1, 3), (8, 33), 33 / 16),
        ((17, 32), (3, 1), (17, 16), 3),
    ],
)
def test_what_one_tap_leaves_out_is_not_copied(size, kernel, copied, lines) -> None:
    (form,) = statement_forms(LoopNest.fresh(ConvShape(1, 4, 64, size, kernel, stride=(2, 2))))
    assert COLUMNS.copied_plane(form) == copied
    assert math.prod(COLUMNS.read_plane(form)) == 16 * lines


def test_tiles_of_pixels_in_turn_load_the_weights_of_all_channels() -> None:
    many = conv(256, 4096, 28, kernel=1)
    assert far(many, CHANNELS, pixels_first=True) > far(BETWEEN, CHANNELS, pixels_first=True)
    assert [weight_load_slots(n, AVX512) for n in (1, 1 << 14, 1 << 20)] == [1.0, 1.5, 3.0]


def test_parts_of_lines_are_stored_before_they_are_displaced() -> None:
    assert far(PAGES, FOUR_COLUMNS) > far(PAGES, CHANNELS)
    stored_whole = conv(256, 256, 32, kernel=1, output_lanes=16)
    assert far(stored_whole, FOUR_COLUMNS) < far(PAGES, FOUR_COLUMNS)
    lines = Tile(True, 16, 1, 16, 16, False)
    halves = Tile(True, 16, 2, 8, 16, False)
    assert far(PAGES, halves) > far(PAGES, lines) + 100


def test_tiles_without_others_share_nothing() -> None:
    nest = conv(64, 16, 28, kernel=1)
    assert far(nest, replace(CHANNELS, channels=16, width=16)) == 0


def ops(nest):
    return [g.op for g in nest.statements[0].schedule_genes]


def loops(nest):
    return [x.name for x in nest.statements[0].scheduled(1).loops]


@pytest.mark.parametrize("size", [32, 64])
def test_pages_of_a_1x1_convolution_are_copied_for_all_channels(size) -> None:
    nest = default_schedule(conv(256, 256, size, kernel=1), AVX512)
    assert "prefetch" in ops(nest)
    assert loops(nest).index("co.0") == loops(nest).index("ci") - 1
    check(default_schedule(conv(64, 32, size, kernel=1), AVX512))


@pytest.mark.parametrize("lanes", [0, 16])
def test_parts_of_two_rows_are_not_copied(lanes) -> None:
    found = 0
    for nest in schedule_space(conv(256, 256, 28, kernel=1, input_lanes=lanes), AVX512):
        inside = [x for x in nest.statements[0].scheduled(1).loops if x.name.startswith("ho+wo.1")]
        if {"prefetch", "compute_at"} & set(ops(nest)) and inside:
            found += 1
            columns = math.prod(x.extent for x in inside)
            assert columns % 28 == 0 or 28 % columns == 0
    assert found


def test_the_operand_of_fewer_registers_is_kept_in_them() -> None:
    """With 12 weights that two rows share LLVM would run out of registers."""
    nest = conv(384, 192, 16, kernel=1)
    target = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "znver4", "num-cores": 2}
    (form,) = statement_forms(nest)
    assert Tile(False, 12, 2, 16, 16, False) in tiles(form, AVX512)
    found = 0
    for scheduled in schedule_space(nest, AVX512):
        order = loops(scheduled)
        extents = {x.name: x.extent for x in scheduled.statements[0].scheduled(1).loops}
        if (extents.get("co.1"), extents.get("ho.1"), extents.get("wo")) == (12, 2, 16):
            found += 1
            assert order.index("co.1") < order.index("ho.1")
            if found == 1:
                assembly = build_kernel(scheduled, target).module.inspect_source("asm")
                vectors = [line for line in assembly.splitlines() if "%zmm" in line]
                assert len(vectors) > 90
                assert not [line for line in vectors if "(%rsp)" in line]
    assert found
