from __future__ import annotations

import math
from dataclasses import replace

import pytest

from backends.devices import CpuFeatures
from backends.lowering import default_schedule, schedule_space
from backends.tuning.features import (
    BROADCAST_SLOTS,
    MOST_UNROLLED,
    NAMES,
    cpu_schedule_features,
)
from backends.tuning.mutations import rewritten
from engine.bench.workloads import workloads
from genomes.gene import Gene
from genomes.nest import ConvShape, LoopNest
from tests.backends.samples import fresh

CPU = CpuFeatures(lanes=16, registers=32, l1_bytes=32 << 10, l2_bytes=1 << 20, cores=2, threads=2)


ORDER = ("n", "co.0", "ho", "wo.0", "ci", "kh", "kw", "wo.1", "co.1")


def genes(nest):
    return nest.statements[0].schedule_genes


def named(nest, cpu=CPU):
    features = cpu_schedule_features(nest, cpu)
    assert features is not None
    return dict(zip(("estimate", *NAMES, "statements"), features, strict=True))


@pytest.mark.parametrize("workload", workloads(), ids=lambda w: w.name)
def test_every_workload_has_finite_features(workload) -> None:
    for nest in schedule_space(workload.nest, CPU)[:8]:
        assert all(math.isfinite(x) for x in named(nest).values())


def test_they_count_what_a_tile_takes() -> None:
    genes = [
        Gene.of("split", loop="co", factor=32),
        Gene.of("split", loop="wo", factor=4),
        Gene.of("interchange", order=ORDER),
        Gene.of("cache_write", loop="wo.0"),
        Gene.of("pack", operand="weight", lanes=32),
        Gene.of("vectorize", loop="co.1"),
        Gene.of("unroll", loop="wo.1"),
        Gene.of("unroll", loop="kw"),
    ]
    found = named(rewritten(fresh(64, 16), 0, genes))
    # Two vectors of weights from behind the first cache, and four broadcast inputs.
    assert (found["registers"], found["loads"]) == (8, 2 * 1.5 + 4 * BROADCAST_SLOTS)
    assert found["by_channel"] == found["vector_fill"] == 1
    assert (found["unrolled"], found["unrolled_reduction"]) == (math.log2(12), math.log2(3))
    assert found["macs"] == pytest.approx(math.log2(64 * 64 * 9 * 256))
    assert found["parallel"] == found["tasks"] == 0
    assert found["weight_bytes_l1"] == pytest.approx(math.log2(4 * 32 * 64 * 9 / CPU.l1_bytes))
    assert (found["pads"], found["pads_inside"]) == (1, 0)


def test_two_halves_of_a_register_take_the_time_of_one() -> None:
    nest = fresh(96, 56, out_channels=24)
    halves = next(
        n for n in schedule_space(nest, CPU) if Gene.of("split", loop="co", factor=8) in genes(n)
    )
    found = named(halves)
    pixels = 2 ** found["tile_pixels"]
    assert found["registers"] == 3 * pixels
    assert (
        found["loads"] == 3 * (1 + (found["weight_bytes_l1"] > 0) / 2) + BROADCAST_SLOTS * pixels
    )
    whole = named(halves, replace(CPU, lanes=8))
    assert whole["registers"] == found["registers"]
    assert whole["estimate"] > found["estimate"]


def test_a_parallel_loop_that_does_not_divide_is_imbalanced() -> None:
    split = Gene.of("split", loop="ho", factor=2)
    order = Gene.of("interchange", order=("ho.0", "n", "co"))
    found = named(rewritten(fresh(8, 6), 0, [split, order, Gene.of("parallel", loop="ho.0")]))
    assert found["tasks"] == math.log2(3)
    assert found["imbalance"] == pytest.approx(4 / 3)


def test_schedules_that_cannot_be_fast_have_none() -> None:
    nest = default_schedule(fresh(64, 16), CPU)
    assert cpu_schedule_features(nest, CPU) is not None
    assert cpu_schedule_features(nest, replace(CPU, registers=4)) is None
    copies = [Gene.of("unroll", loop=loop) for loop in ("kw", "kh", "wo", "ho")]
    assert 3 * 3 * 16 <= MOST_UNROLLED < 3 * 3 * 16 * 16
    assert cpu_schedule_features(rewritten(fresh(4, 16), 0, copies[:2]), CPU) is not None


def test_the_estimate_knows_what_is_slow() -> None:
    nest = default_schedule(fresh(64, 16), CPU)
    (s,) = nest.statements
    best = named(nest)["estimate"]
    for op in ("parallel", "unroll"):
        kept = [gene for gene in s.schedule_genes if gene.op != op]
        assert named(rewritten(nest, 0, kept))["estimate"] > best + math.log2(1.5), op
    fetch = Gene.of("prefetch", operand="weight", loop="ho")
    fetched = named(rewritten(nest, 0, [*s.schedule_genes, fetch]))["estimate"]
    assert best < fetched < best + 2
    scalar = [gene for gene in s.schedule_genes if gene.op not in ("unroll", "vectorize")]
    assert cpu_schedule_features(rewritten(nest, 0, scalar), CPU) is None


def test_padding_that_is_left_out_is_neither_copied_nor_multiplied() -> None:
    nest = default_schedule(fresh(64, 4), CPU)
    kept = [g for g in nest.statements[0].schedule_genes if g.op != "compute_inline"]
    assert len(kept) + 1 == len(nest.statements[0].schedule_genes)
    left_out, copied = named(nest), named(rewritten(nest, 0, kept))
    assert (left_out["pads_inline"], copied["pads_inline"]) == (1, 0)
    assert left_out["pad_redundancy"] == 0 < copied["pad_redundancy"]
    # Of 4 rows times 3 taps, 10 read a row of the input; columns alike.
    assert left_out["estimate"] < copied["estimate"] + math.log2(0.8)


@pytest.mark.parametrize("kernel", [(1, 1), (1, 3), (3, 1), (3, 3)])
def test_a_copy_made_beforehand_is_made_once_and_of_no_more_than_is_read(kernel) -> None:
    size = (33, 31 + kernel[1])
    nest = LoopNest.fresh(ConvShape(1, 64, 64, size, kernel, stride=(2, 2)))
    found = 0
    for scheduled in schedule_space(nest, CPU):
        numbers = named(scheduled)
        if {"pads": 1, "pads_inside": 0, "pads_inline": 0}.items() <= numbers.items():
            found += 1
            assert numbers["pad_redundancy"] == 1
    assert found


def test_a_place_for_a_copy_that_is_not_made_changes_nothing() -> None:
    nest = LoopNest.fresh(ConvShape(1, 64, 128, (32, 32), (1, 1), stride=(2, 2)))
    found = 0
    for scheduled in schedule_space(nest, CPU):
        (s,) = scheduled.statements
        if named(scheduled)["pads"] == 0 and "prefetch" not in [g.op for g in s.schedule_genes]:
            found += 1
            place = Gene.of("compute_at", loop=s.scheduled(1).loops[0].name)
            at = next(i for i, g in enumerate(s.schedule_genes) if g.op == "decompose_reduction")
            placed = [*s.schedule_genes[:at], place, *s.schedule_genes[at:]]
            assert named(rewritten(scheduled, 0, placed)) == named(scheduled)
    assert found


def test_the_estimate_of_a_nest_is_the_sum_of_its_statements() -> None:
    nest = next(w.nest for w in workloads() if w.name.endswith("seq1 1,2,4,8"))
    dense = next(w.nest for w in workloads() if w.name == "128->128 3x3 16x16")
    parts = named(default_schedule(nest, CPU))
    whole = named(default_schedule(dense, CPU))
    share = nest.macs / dense.macs
    assert parts["statements"] == 4
    assert 2 ** (parts["estimate"] - whole["estimate"]) == pytest.approx(share, rel=0.4)
