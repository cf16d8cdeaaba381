from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from engine import plots
from engine.plots import DPI, MOST_SITES, WIDTH_IN, draw_run
from engine.run_data import RunData
from genomes.errors import LoopGeneError
from tests.engine.samples import ORIGINAL, history, run_folder, site

KNOWN = {"latency_s": ORIGINAL.latency_s, "capacity": ORIGINAL.capacity}


@pytest.fixture
def run() -> RunData:
    return RunData("small-1", history(), KNOWN)


def axes_of(figure: Figure | None) -> Axes:
    assert figure is not None
    return figure.axes[0]


def texts(figure: Figure | None) -> list[str]:
    return [text.get_text() for text in axes_of(figure).texts]


def labelled(axes: Axes, label: str) -> Any:
    """The line or the dots of an entry of the legend."""
    handles, labels = axes.get_legend_handles_labels()
    return dict(zip(labels, handles, strict=True))[label]


def test_all_pictures_of_a_finished_run(tmp_path: Path):
    run = run_folder(tmp_path)
    paths = draw_run(run.path)
    assert [path.name for path in paths] == [
        "best_latency.png",
        "pareto.png",
        "sites.png",
        "genes.png",
        "time.png",
    ]
    assert {path.parent for path in paths} == {run.artifacts / "plots"}
    for path in paths:
        with Image.open(path) as image:
            assert image.width == WIDTH_IN * DPI
            assert len(image.convert("RGB").getcolors(1 << 24) or []) > 10
    assert sorted(p.name for p in (run.artifacts / "plots").iterdir()) == sorted(
        path.name for path in paths
    )


def test_pictures_of_a_search_that_goes_on(tmp_path: Path):
    run = run_folder(tmp_path, finished=False)
    names = [path.stem for path in draw_run(run.path, KNOWN)]
    assert names == ["best_latency", "pareto", "genes", "time"]


def test_nothing_to_draw_before_the_first_generation(tmp_path: Path):
    run = run_folder(tmp_path, finished=False)
    run.history_path.unlink()
    assert draw_run(run.path, KNOWN) == []


def test_a_damaged_history_is_the_users_to_know(tmp_path: Path):
    run = run_folder(tmp_path)
    run.history_path.write_text("damaged\n" + run.history_path.read_text())
    with pytest.raises(LoopGeneError, match="line 1 is damaged"):
        draw_run(run.path)


def test_the_state_of_matplotlib_is_left_alone(tmp_path: Path):
    import matplotlib.pyplot as plt

    before = dict(mpl.rcParams)
    draw_run(run_folder(tmp_path).path)
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == before


def test_best_latency_falls_with_legal_candidates_only(run: RunData):
    axes = axes_of(plots.best_latency(run))
    line = labelled(axes, "best so far")
    assert list(line.get_xdata()) == [0, 2, 4, 8, 9]
    assert list(line.get_ydata()) == pytest.approx([10.0, 9.0, 8.0, 7.0, 7.0])
    assert len(labelled(axes, "candidate that loses capacity").get_offsets()) == 1
    assert axes.get_xlabel() == "candidates evaluated"
    assert axes.get_ylabel() == "latency (ms)"


def test_best_latency_names_the_original_and_the_best(run: RunData):
    assert {"original 10.0 ms", "7.00 ms, 1.43x"} <= set(texts(plots.best_latency(run)))


def test_fast_networks_are_shown_in_microseconds(run: RunData):
    fast = {"latency_s": 80e-6, "capacity": 100.0}
    axes = axes_of(plots.best_latency(replace(run, original=fast)))
    assert axes.get_ylabel() == "latency (us)"
    assert labelled(axes, "best so far").get_ydata()[0] == pytest.approx(80)


def test_slow_candidates_do_not_squeeze_the_picture(run: RunData):
    assert axes_of(plots.best_latency(run)).get_ylim()[1] < 18


def test_front_of_latency_and_capacity(run: RunData):
    axes = axes_of(plots.pareto(run))
    front = labelled(axes, "front")
    assert list(front.get_xdata()) == pytest.approx([6.0, 7.0, 7.5, 8.5])
    assert list(front.get_ydata()) == pytest.approx([0.9, 1.0, 1.03, 1.2])
    assert list(labelled(axes, "capacity to keep").get_ydata()) == [1, 1]
    assert labelled(axes, "original").get_xdata()[0] == pytest.approx(10.0)


def test_capacities_far_apart_have_a_logarithmic_axis(run: RunData):
    assert axes_of(plots.pareto(run)).get_yscale() == "linear"
    records = [dict(record) for record in run.history]
    records[0]["candidates"] = [
        {**c, "capacity": 50 * (c["capacity"] or 1)} for c in records[0]["candidates"]
    ]
    assert axes_of(plots.pareto(replace(run, history=records))).get_yscale() == "log"


def test_tolerance_makes_candidates_legal(run: RunData):
    tolerant = replace(run, tolerance=0.15)
    assert all(c.legal for c in tolerant.candidates)
    line = labelled(axes_of(plots.best_latency(tolerant)), "best so far")
    assert min(line.get_ydata()) == pytest.approx(6.0)


def test_capacity_that_is_not_known_has_no_front(run: RunData):
    assert plots.pareto(replace(run, original={"latency_s": 0.01})) is None


def test_sites_slowest_first_with_ratios(run: RunData):
    rows = [site("fast", 100.0, 50.0), site("slow", 900.0, 900.0), site("lost", None, 1.0)]
    figure = plots.sites(replace(run, result={"sites": rows}))
    axes = axes_of(figure)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["slow", "fast"]
    assert {"=", "2.00x"} <= set(texts(figure))
    assert axes.get_xlabel() == "latency, all calls in one inference (us)"


def test_many_sites_with_long_names_stay_readable(run: RunData):
    rows = [
        site(f"features.denseblock3.denselayer{i}.conv2.conv", 5000.0 - i, 1000.0, calls=3)
        for i in range(161)
    ]
    figure = plots.sites(replace(run, name="r" * 200, result={"sites": rows}))
    assert figure is not None
    axes = axes_of(figure)
    assert len(axes.get_yticklabels()) == MOST_SITES
    assert figure.texts[0].get_text().endswith("the 24 slowest of 161")
    assert axes.get_xlabel().endswith("(ms)")
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    inside = Bbox([[0, 0], [figure.bbox.width, figure.bbox.height]])
    for artist in (*axes.get_yticklabels(), *axes.texts, *figure.texts):
        box = artist.get_window_extent()
        assert inside.contains(box.x0, box.y0)
        assert inside.contains(box.x1, box.y1), artist


def test_genes_per_candidate_over_the_generations(run: RunData):
    figure = plots.gene_frequencies(run)
    axes = axes_of(figure)
    assert set(axes.get_legend_handles_labels()[1]) == {"bottleneck", "depthwise"}
    # Every candidate but the original, which is a third of generation 0, has two genes.
    top = max(path.vertices[:, 1].max() for c in axes.collections for path in c.get_paths())
    assert top == pytest.approx(2.0)


def test_rare_genes_are_put_together(run: RunData):
    many = {f"op{i:02}": 20 - i for i in range(14)}
    records = [{**record, "genes": many} for record in run.history]
    labels = axes_of(
        plots.gene_frequencies(replace(run, history=records))
    ).get_legend_handles_labels()[1]
    assert labels == [*(f"op{i:02}" for i in range(8)), "6 others"]


def test_genes_of_one_generation_are_bars(run: RunData):
    axes = axes_of(plots.gene_frequencies(replace(run, history=run.history[:1])))
    assert axes.get_xlabel() == "genes per candidate in generation 0"
    assert [p.get_width() for p in axes.patches] == pytest.approx([2 / 3, 2 / 3])


def test_time_by_stage(run: RunData):
    figure = plots.where_time_went(run)
    assert figure is not None
    assert figure.texts[0].get_text() == "Where 12 s of work went"
    assert {"9.0 s  (75.0 %)", "3.0 s  (25.0 %)"} <= set(texts(figure))
    labels = [label.get_text() for label in axes_of(figure).get_yticklabels()]
    assert labels == ["build", "measure"]


def test_time_of_a_result_without_the_elapsed_time(run: RunData):
    seconds = {"elapsed": 100.0, "check": 4.0}
    assert replace(run, result={"seconds": seconds}).seconds == {"check": 4.0}
