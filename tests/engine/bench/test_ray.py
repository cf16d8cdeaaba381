from __future__ import annotations

import json
import sys

import pytest

from engine.bench import ray as bench

QUICK = ["--model", "resnet20_cifar", "--generations", "1", "--population", "4"]


@pytest.mark.ray
def test_the_last_line_has_the_figures(capsys):
    pytest.importorskip("ray", reason="ray is not installed: pip install 'loopgene[ray]'")
    assert bench.main(QUICK) == 0
    lines = capsys.readouterr().out.splitlines()
    report = json.loads(lines[-1])
    assert report["equal"] is True
    assert report["candidates"] == 8
    ratio = report["search_s_1"] / report["search_s_2"]
    assert report["speedup_2"] == pytest.approx(ratio, abs=0.02)
    assert 0 < report["overhead_ms"] < 1000


def test_without_ray_it_says_so_in_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert bench.main(QUICK) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("bench-ray: error: the executor 'ray' needs the package ray")


def test_mistakes_are_one_line(capsys):
    assert bench.main(["--model", "resnet35_cifar"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("bench-ray: error: unknown model 'resnet35_cifar'")
