from __future__ import annotations

from pathlib import Path

from engine.tracking.description import describe, tags_of
from tests.engine.tracking.synthetic import CONFIG, FACTS

RUN_DIR = Path("/runs/small-1")


def test_tags_say_what_runs_are_compared_by():
    assert tags_of(CONFIG, FACTS) == {
        "model": "resnet20_cifar",
        "backend": "cpu",
        "device": "Some CPU, 2 threads",
        "strategy": "evolution",
        "mode": "constrained",
        "loopgene.version": "0.1.0",
    }


def test_what_is_not_known_has_no_tag():
    assert tags_of({"model": "odd"}, {}) == {}


def test_before_the_first_generation():
    text = describe(CONFIG, FACTS, {}, "running", RUN_DIR)
    assert text.splitlines()[0] == "**running**"
    assert "resnet20_cifar · 1x3x32x32 · 2 convolutions · Some CPU, 2 threads" in text
    assert "loopgene show small-1" in text


def test_during_the_search_the_estimate_is_named():
    metrics = {"best/latency_ms": 8.0, "search/evaluations": 30.0, "search/elapsed_s": 90.0}
    text = describe(CONFIG, FACTS, metrics, "running", RUN_DIR)
    assert text.splitlines()[0] == (
        "**1.25x faster**, 10.0 ms → 8.00 ms (estimated from kernels); running"
    )
    assert "30 candidates · 1 min 30 s" in text


def test_at_the_end_the_whole_network_counts():
    metrics = {
        "best/latency_ms": 8.0,
        "result/original_end_to_end_ms": 12.0,
        "result/found_end_to_end_ms": 8.0,
    }
    text = describe(CONFIG, FACTS, metrics, "finished", RUN_DIR)
    assert text.startswith("**1.50x faster**, 12.0 ms → 8.00 ms (whole network); finished")
