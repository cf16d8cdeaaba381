from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import pandas as pd
import pytest

from engine.tracking.recorder import (
    GENOME_CHARACTERS,
    PARAM_CHARACTERS,
    Recorder,
    finite,
    flatten,
)
from genomes.gene import Gene
from genomes.genome import Genome
from tests.engine.tracking.synthetic import FACTS, evaluation, generation

ORIGINAL = FACTS["original"]


def test_parameters_are_named_by_dotted_paths():
    config = {"name": "a", "model": {"shape": [1, 3], "weights": None, "kwargs": {}}, "on": True}
    assert flatten(config) == {
        "name": "a",
        "model.shape": "[1, 3]",
        "model.weights": "null",
        "model.kwargs": "{}",
        "on": "true",
    }


def test_parameters_stay_within_the_limits_of_mlflow():
    flat = flatten({"sites": ["layer1.0.conv1"] * 2000, "odd (key)": "x", "k" * 400: 1})
    assert len(flat["sites"]) == PARAM_CHARACTERS
    assert flat["sites"].endswith("…")
    assert flat["odd _key_"] == "x"
    assert max(map(len, flat)) == 250


def test_metrics_of_a_generation_carry_units():
    metrics = Recorder(ORIGINAL, {}).metrics(generation(0))
    assert metrics == pytest.approx(
        {
            "best/latency_ms": 8.0,
            "best/speedup": 1.25,
            "best/capacity_ratio": 1.05,
            "population/median_latency_ms": 8.5,
            "population/min_latency_ms": 8.0,
            "search/evaluations": 3,
            "search/measurements": 5,
            "search/store_hits": 0,
            "search/elapsed_s": 2.5,
            "rejected/capacity": 1,
            "seconds/build": 2.0,
            "seconds/measure": 0.5,
        }
    )


def test_rejections_and_seconds_add_up_over_generations_and_resumptions():
    first = Recorder(ORIGINAL, {})
    before = [first.metrics(generation(number)) for number in range(2)][-1]
    resumed = Recorder(ORIGINAL, before)
    later = replace(generation(2), rejected={"build timeout!": 2})
    metrics = resumed.metrics(later)
    assert metrics["rejected/capacity"] == 2
    assert metrics["rejected/build timeout_"] == 2
    assert metrics["seconds/build"] == 6.0
    assert metrics["search/evaluations"] == 9


def test_what_is_not_known_is_left_out():
    nothing = replace(generation(0), best=evaluation(2, None), population=())
    metrics = Recorder({}, {}).metrics(nothing)
    assert "best/latency_ms" not in metrics
    assert not any(name.startswith("population/") for name in metrics)


def test_no_inf_and_no_nan():
    assert finite({"a": math.inf, "b": math.nan, "c": -math.inf, "d": None, "e": 1}) == {"e": 1.0}
    broken = replace(generation(0), best=evaluation(2, math.inf, math.nan), elapsed_s=math.inf)
    metrics = Recorder(ORIGINAL, {}).metrics(broken)
    assert all(map(math.isfinite, metrics.values()))
    assert "search/elapsed_s" not in metrics


def test_table_reads_as_a_data_frame_best_first():
    table = Recorder(ORIGINAL, {}).table(generation(0))
    frame = pd.read_json(io.StringIO(table), orient="split")
    assert list(frame["rank"]) == [1, 2, 3]
    assert list(frame["latency_ms"][:2]) == [8.0, 9.0]
    assert frame["latency_ms"].isna()[2]
    assert list(frame["speedup"][:2]) == [1.25, 1.111]
    assert list(frame["status"]) == ["ok", "ok", "capacity"]
    assert frame["genome"][0] == "conv1: bottleneck(factor=2, loop=co)"
    assert frame["key"][0] == generation(0).best.genome.key


def test_table_has_no_words_that_json_does_not_know():
    broken = replace(generation(0), population=(evaluation(2, math.inf, math.nan),))
    table = Recorder(ORIGINAL, {}).table(broken)
    row = json.loads(table, parse_constant=lambda word: pytest.fail(f"{word} in JSON"))["data"][0]
    assert (row[1], row[3]) == (None, None)


def test_long_genomes_are_cut_in_the_table():
    genome = Genome.of(
        {f"layer{i}.conv": [Gene.of("bottleneck", loop="co", factor=2)] for i in range(100)}
    )
    long = replace(evaluation(2, 0.1), genome=genome)
    table = json.loads(Recorder(ORIGINAL, {}).table(replace(generation(0), population=(long,))))
    text = dict(zip(table["columns"], table["data"][0], strict=True))["genome"]
    assert len(text) == GENOME_CHARACTERS
    assert text.endswith("…")
