from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.report import publish, render_result, write_report
from engine.runs import RunDir, RunError
from engine.search import run_experiment
from engine.tracking import NullTracker
from tests.engine.samples import ORIGINAL, result, run_folder, summary
from tests.engine.toys import experiment


@pytest.fixture
def config(tmp_path: Path) -> Any:
    return run_folder(tmp_path / "home").config()


def lines(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_the_ratio_comes_first_and_says_what_was_timed(config):
    head = render_result(result(config)).splitlines()
    assert head[0] == "# small"
    assert head[2] == (
        "**1.60x faster**: 12.0 ms → 7.50 ms (the whole network, compiled and measured end to "
        "end, in turns with the original)."
    )


def test_without_whole_networks_it_is_estimated(config):
    original, found = summary(ORIGINAL), {**summary(ORIGINAL), "latency_s": 0.005}
    finalist = {"name": "finalist-1", **found}
    text = render_result(result(config, original=original, found=finalist, finalists=[finalist]))
    assert "**2.00x faster**: 10.0 ms → 5.00 ms (estimated from the measured kernels)" in text
    assert "End to end" not in text


def test_times_of_an_emulator_are_no_figures(config):
    device = {**result(config)["device"], "facts": {"board": {"emulated": True}}}
    text = render_result(result(config, device=device))
    assert "faster" not in text.splitlines()[2]
    assert "the device is an emulator: its times are no performance figures." in text
    board = {**device, "facts": {"board": {"emulated": False}}}
    assert "emulator" not in render_result(result(config, device=board))


def test_no_improvement_is_said(config):
    text = render_result(result(config, improved=False, note="no candidate beat the original"))
    assert "No improvement: no candidate beat the original." in text
    assert "faster**" not in text


def test_what_was_searched_and_where(config):
    text = render_result(result(config))
    assert "- **network**: `resnet20_cifar`, input 1x3x32x32, weights random, seed 0" in text
    assert "- **device**: Some CPU, 2 threads, fingerprint `abcd`" in text
    assert "- **target**: `llvm -mcpu=x`" in text
    assert "- **versions**: apache-tvm 0.27, torch 2.13" in text
    assert "- **ended**: finished (generations)" in text


@pytest.mark.parametrize(
    ("drift", "line"),
    [
        ([], []),
        ([[0, 1e-3]], ["- **drift**: the same kernel took 1.00 ms at first"]),
        (
            [[0, 1e-3], [50, 2e-3], [100, 1.1e-3]],
            [
                "- **drift**: the same kernel took 1.00 ms at first, 1.10 ms to 2.00 ms later "
                "(2 timings)"
            ],
        ),
    ],
)
def test_drift_of_the_device_shows(config, drift, line):
    assert lines(render_result(result(config, drift=drift)), "- **drift**") == line


def test_finalists_with_spread_and_count(config):
    text = render_result(result(config))
    assert lines(text, "| original") == [
        "| original | 10.0 ms | 1.00x | 12.0 ms | 2.5 % | 1.00x | 1.000 | 40 M | 270 k |"
    ]
    assert lines(text, "| **finalist-1**") == [
        "| **finalist-1** | 7.00 ms | 1.43x | 7.50 ms | 1.3 % | 1.60x | 1.000 | 20 M | 100 k |"
    ]
    assert "median of 3 timings" in text


def test_a_finalist_that_failed_says_why(config):
    failed = {"name": "finalist-2", **summary(ORIGINAL), "end_to_end_failure": "crashed: boom"}
    text = render_result(result(config, finalists=[*result(config)["finalists"], failed]))
    assert "| crashed: boom | - | - |" in lines(text, "| finalist-2")[0]


def test_sites_slowest_first(config):
    rows = lines(render_result(result(config)), "| `")
    assert [row.split("`")[1] for row in rows] == ["conv1", "layer1.0.conv1", "fc"]
    assert rows[1].endswith("| 2 | 270 us | 90.0 us | 3.00x |")
    assert rows[2].endswith("| - | - | - |")


def test_genome_rejections_and_time(config):
    text = render_result(result(config))
    assert "- `layer1.0.conv1`: `depthwise()`" in text
    assert "| capacity | 7 |\n| build_timeout | 1 |\n\n" in text
    assert "| a \\| b | 2 |" in text
    assert "| build | 9.0 s | 75.0 % |\n| measure | 3.0 s | 25.0 % |\n\n" in text


def test_commands_to_get_it_again(config):
    text = render_result(result(config), None, "my experiments/small.yaml", "small-1")
    assert "loopgene run 'my experiments/small.yaml'\nloopgene show small-1\n" in text


def test_pictures_are_linked(config):
    text = render_result(result(config), {"sites": "plots/sites.png"})
    assert "![Convolutions before and after](plots/sites.png)" in text
    assert "Pictures" not in render_result(result(config))


def test_the_report_of_a_folder_links_what_is_there(tmp_path: Path):
    run = run_folder(tmp_path)
    report, *pictures = write_report(run.path)
    assert report == run.artifacts / "report.md"
    text = report.read_text()
    assert str(run.config_path) in text
    for picture in pictures:
        assert f"]({picture.relative_to(run.artifacts).as_posix()})" in text


def test_a_run_without_a_result_has_no_report(tmp_path: Path):
    run = run_folder(tmp_path, finished=False)
    with pytest.raises(RunError, match="has no result yet"):
        write_report(run.path)


class Kept(NullTracker):
    """Remembers the files that it was given."""

    def __init__(self) -> None:
        self.paths: list[Path] = []

    def artifact(self, path: Path) -> None:
        self.paths.append(path)


def test_the_report_and_the_plots_are_kept_with_the_tracker(tmp_path: Path):
    tracker = Kept()
    publish(run_folder(tmp_path).path, tracker)
    assert [path.name for path in tracker.paths] == [
        "report.md",
        "best_latency.png",
        "pareto.png",
        "sites.png",
        "genes.png",
        "time.png",
    ]


def test_a_report_that_fails_is_one_warning(tmp_path: Path, caplog):
    tracker = Kept()
    run = run_folder(tmp_path)
    run.history_path.write_text("damaged\n")
    publish(run.path, tracker)
    (record,) = caplog.records
    assert "line 1 is damaged" in record.getMessage()
    assert "result.json is complete" in record.getMessage()
    assert tracker.paths == []


@pytest.mark.usefixtures("cheap_metric")
def test_the_report_of_a_real_search(tmp_path: Path):
    config = experiment(tmp_path)
    run = RunDir.create(config)
    run_experiment(config, run.path)
    report, *pictures = write_report(run.path)
    text = report.read_text()
    assert "## What was found" in text
    assert {path.stem for path in pictures} >= {"best_latency", "pareto", "sites", "time"}
