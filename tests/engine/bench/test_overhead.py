from __future__ import annotations

import json

import pytest

from engine.bench import overhead


def test_the_last_line_has_the_figures(capsys):
    arguments = ["--generations", "6", "--population", "8", "--model", "resnet20_cifar"]
    assert overhead.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    report = json.loads(lines[-1])
    assert list(report) == ["ms_per_candidate", "growth"]
    assert 0 < report["ms_per_candidate"] < 1000
    assert report["growth"] > 0
    assert any("48 candidates in 6 generations" in line for line in lines)


def test_too_few_generations_are_refused(capsys):
    with pytest.raises(SystemExit):
        overhead.main(["--generations", "3"])
    assert "at least 6" in capsys.readouterr().err


def test_mistakes_are_one_line(capsys):
    assert overhead.main(["--generations", "6", "--model", "resnet35_cifar"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("bench-overhead: error: unknown model 'resnet35_cifar'")
