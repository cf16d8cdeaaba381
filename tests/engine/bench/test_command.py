from __future__ import annotations

import json

import pytest

from engine.bench import command
from engine.bench.command import BenchError, Target


def test_the_report_is_the_last_line(capsys) -> None:
    targets = [Target("speedup", 3.0), Target("seconds", 60.0, at_most=True), Target("other", 1)]
    assert command.run("toy", lambda _: {"speedup": 2.5, "seconds": 60.0}, targets) == 0
    *told, report = capsys.readouterr().out.splitlines()
    assert json.loads(report) == {"speedup": 2.5, "seconds": 60.0}
    assert told == [
        "target MISSED: speedup >= 3, measured 2.5",
        "target met: seconds <= 60, measured 60",
    ]


def test_an_error_is_one_line(capsys) -> None:
    def broken(_: object) -> dict[str, float]:
        raise BenchError("[red] there is no network 'x'; " + 20 * "known: y, ")

    assert command.run("toy", broken) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("bench-toy: error: [red] there is no network 'x'; known: y")


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        command.run("toy", lambda _: {"ratio": 1 // 0})
