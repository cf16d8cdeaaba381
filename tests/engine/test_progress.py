from __future__ import annotations

import io
import re

from rich.console import Console

from engine.evaluation import OK, Evaluation, Generation
from engine.progress import Limits, Pace, Progress
from genomes.genome import Genome

ORIGINAL_S = 6.4e-3


def generation(number: int, best_s: float = ORIGINAL_S, seconds: float = 3.0) -> Generation:
    best = Evaluation(Genome(), OK, (best_s,), best_s)
    return Generation(
        number=number,
        population=(best,),
        evaluated=(best,),
        best=best,
        rejected={"build_error": 2, "capacity": 12},
        seconds={"measure": 0.6 * seconds, "build": 0.395 * seconds, "propose": 0.005 * seconds},
        evaluations=32 * (number + 1),
        measurements=40,
        store_hits=7,
        elapsed_s=seconds * (number + 1),
    )


def plain(width: int = 200) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=width, markup=False, highlight=False), file


class TestPace:
    def test_nothing_is_known_at_first(self) -> None:
        pace = Pace(Limits(20, None, None))
        assert pace.remaining_s is None
        pace.add(generation(0))
        assert pace.remaining_s is None

    def test_generations(self) -> None:
        pace = Pace(Limits(20, None, None))
        for number in range(6):
            pace.add(generation(number))
        assert pace.remaining_s == 15 * 3.0

    def test_recent_generations_count(self) -> None:
        pace = Pace(Limits(20, None, None))
        pace.add(generation(0, seconds=1000.0))
        for number in range(1000, 1010):
            pace.add(generation(number, seconds=2.0))
        assert pace.remaining_s == 0.0
        pace.limits = Limits(1019, None, None)
        assert pace.remaining_s == 10 * 2.0

    def test_the_first_limit_decides(self) -> None:
        for limits, expected_s in (
            (Limits(20, None, 20.0), 14.0),
            (Limits(20, 96, None), 3.0),
            (Limits(2, 1000, 1000.0), 3.0),
            (Limits(20, None, 1.0), 0.0),
        ):
            pace = Pace(limits)
            pace.add(generation(0))
            pace.add(generation(1))
            assert pace.remaining_s == expected_s


class TestLog:
    def test_one_line_for_each_generation(self) -> None:
        console, file = plain(width=40)
        with Progress(console, Limits(20, None, None), "small") as progress:
            progress.show(generation(0), ORIGINAL_S)
            progress.show(generation(1, best_s=3.2e-3), ORIGINAL_S)
            progress.show(generation(20), ORIGINAL_S)
            progress.concluding()
        *lines, last, end = file.getvalue().splitlines()
        assert end == "tuning and measuring the finalists"
        assert last.endswith(" | 1 min 03 s (measure 60 %, build 40 %)")
        assert lines == [
            "measuring the original network and the initial population",
            "generation 0/20 | 32 evaluated | best 6.40 ms, 1.00x (original 6.40 ms) | "
            "rejected 12 capacity, 2 build_error | 3.0 s (measure 60 %, build 40 %)",
            "generation 1/20 | 64 evaluated | best 3.20 ms, 2.00x (original 6.40 ms) | "
            "rejected 12 capacity, 2 build_error | 6.0 s (measure 60 %, build 40 %) | 57 s left",
        ]

    def test_no_control_characters(self) -> None:
        console, file = plain()
        with Progress(console, Limits(3, None, None), "[red]small[/]") as progress:
            progress.show(generation(0), None)
        assert "\x1b" not in file.getvalue()
        assert "best 6.40 ms |" in file.getvalue()


class TestLive:
    def test_table(self) -> None:
        file = io.StringIO()
        console = Console(file=file, width=100, force_terminal=True, color_system=None)
        with Progress(console, Limits(20, 640, None), "small-run") as progress:
            assert progress.last is None
            progress.show(generation(0), ORIGINAL_S)
            progress.show(generation(1, best_s=3.2e-3), ORIGINAL_S)
            progress.concluding()
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())
        last = text[text.rindex("small-run") :]
        assert "measuring the original network" in text
        assert "now tuning and measuring the finalists" in text
        assert "1 of 20" in last
        assert "64 of 640" in last
        assert "best 3.20 ms, 2.00x (original 6.40 ms)" in last
        assert "24 capacity, 4 build_error" in last
        assert "measure 60 %, build 40 %" in last
        assert "40 measured, 7 known before" in last
        assert "about 5" in text
        assert "about" not in last
