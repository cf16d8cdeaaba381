from __future__ import annotations

import pytest
from rich.console import Console

from engine.bench.kernel_report import (
    CHANNELS_LAST,
    EAGER,
    METASCHEDULE,
    ONNXRUNTIME,
    OURS,
    TARGETS,
    Row,
    explain,
    figures,
    summary,
    table,
)
from engine.bench.workloads import workloads

WORKLOADS = {w.name: w for w in workloads()}
LARGE, GROUPED, SMALL = "128->128 3x3 16x16", "128->128 3x3 16x16: 8 groups", "192->48 3x3 4x4"
US = 1e-6


def row(name: str, ours: float, bound: float, **peers: float) -> Row:
    times = {OURS: ours * US, **{peer: us * US for peer, us in peers.items()}}
    return Row(WORKLOADS[name], times, bound * US, "arithmetic")


ROWS = (
    row(LARGE, 400, 380, **{ONNXRUNTIME: 800, EAGER: 900, CHANNELS_LAST: 400, METASCHEDULE: 480}),
    row(GROUPED, 100, 50, **{ONNXRUNTIME: 50, EAGER: 400, CHANNELS_LAST: 500, METASCHEDULE: 300}),
    row(SMALL, 10, 10, **{ONNXRUNTIME: 10, EAGER: 80, CHANNELS_LAST: 90}),
)


def test_ratios_are_over_the_better_torch_and_over_the_recorded_workloads_only() -> None:
    report = figures(ROWS)
    assert report["geomean_vs_onnxruntime"] == pytest.approx(1)
    assert report["min_vs_onnxruntime"] == 0.5
    assert report["geomean_vs_torch"] == pytest.approx(32 ** (1 / 3), abs=1e-4)
    assert report["geomean_vs_metaschedule256"] == pytest.approx(3.6**0.5, abs=1e-4)
    assert report["min_vs_metaschedule256"] == 1.2
    assert (report["workloads"], report["workloads_metaschedule256"]) == (3, 2)


def test_every_peer_is_compared_over_the_workloads_that_it_ran(capsys) -> None:
    Console(width=80).print(summary(ROWS))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[4:-1] == [
        "onnxruntime 3 1.000 0.500",
        "best torch 3 3.175 1.000",
        "eager 3 4.160 2.250",
        "channels_last 3 3.557 1.000",
        "metaschedule256 2 1.897 1.200",
    ]
    report = figures(ROWS)
    assert report["geomean_vs_eager"] == pytest.approx(72 ** (1 / 3), abs=1e-4)
    assert report["min_vs_channels_last"] == 1


def test_only_large_dense_convolutions_have_to_come_near_the_peak() -> None:
    assert [r.large for r in ROWS] == [True, False, False]
    report = figures(ROWS)
    assert report["large_vs_bound"] == pytest.approx(400 / 380, abs=1e-4)
    assert report["small_vs_bound"] == 2


def test_figures_of_peers_that_did_not_run_are_left_out() -> None:
    report = figures(ROWS[2:])
    assert "geomean_vs_metaschedule256" not in report
    assert "large_vs_bound" not in report
    assert report["workloads_metaschedule256"] == 0
    assert {t.figure for t in TARGETS} <= figures(ROWS).keys()


def test_the_workloads_that_miss_a_target_are_named(capsys) -> None:
    explain(Console(width=60), ROWS)
    assert capsys.readouterr().out.splitlines() == [
        f"below 0.95 of ONNX Runtime: 1: {GROUPED} (0.50)",
        f"other convolutions above 1.5 of their bound: 1: {GROUPED} (2.00)",
    ]


def test_bounds_that_a_kernel_beats_say_nothing(capsys) -> None:
    rows = (*ROWS, row(SMALL, 5, 10, **{ONNXRUNTIME: 10, EAGER: 80}))
    assert not [name for name in figures(rows) if name.endswith("vs_bound")]
    explain(Console(width=60), rows)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("1 of 4 kernels are faster than their bound")


def test_the_table_has_a_dash_where_there_is_no_record(capsys) -> None:
    Console(width=120).print(table(ROWS, 2))
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    (large,) = (line for line in lines if line.startswith(f"{LARGE} "))
    (small,) = (line for line in lines if line.startswith(f"{SMALL} "))
    cells = " ".join(large.removeprefix(LARGE).split())
    assert cells == "400 380 a 1.05 800 400 - 480 - 2.00 1.00 1.20"
    assert small.endswith(" -")
