from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.executors import ExecutorError
from engine.executors.scoring import Scoring, SpreadMetric
from engine.metric import capacity_metric
from engine.network import build_model
from genomes.genome import Genome
from genomes.presets import grouping, seq3
from genomes.sites import find_sites
from tests.engine.toys import experiment

GENOMES = [Genome.of({"2": grouping(2)}), Genome(), Genome.of({"2": seq3(2), "4": grouping(4)})]


@pytest.fixture
def built(tmp_path, monkeypatch):
    """A metric, and how it is built again."""
    monkeypatch.chdir(tmp_path)
    config = experiment(tmp_path, capacity__batch=16)
    model = build_model(config.model)
    sites = find_sites(model, config.model.input_shape)
    metric = capacity_metric(config, model, sites)
    return metric, Scoring.like_here(config, sites, metric)


def test_another_process_gives_the_same_scores(built):
    metric, scoring = built
    score = pickle.loads(pickle.dumps(scoring)).prepare()
    assert [score(genome) for genome in GENOMES] == metric.score(GENOMES)


def test_threads_and_folder_are_those_of_the_search(built, tmp_path):
    _, scoring = built
    (tmp_path / "there").mkdir()
    threads = torch.get_num_threads() + 1
    replace(scoring, threads=threads, folder=tmp_path / "there").prepare()
    assert torch.get_num_threads() == threads
    assert Path.cwd() == tmp_path / "there"


def test_another_metric_is_refused(built):
    _, scoring = built
    config = scoring.config
    other = config.model_copy(update={"model": config.model.model_copy(update={"seed": 5})})
    with pytest.raises(ExecutorError, match="capacity is computed otherwise here"):
        replace(scoring, config=other).prepare()


def test_a_folder_that_is_not_shared_is_said(built, tmp_path):
    _, scoring = built
    with pytest.raises(ExecutorError, match=r"No such file.*that all machines share"):
        replace(scoring, folder=tmp_path / "nowhere").prepare()


def test_only_scores_are_computed_elsewhere(built):
    metric, _ = built
    asked = []

    def scores(genomes):
        asked.append(list(genomes))
        return metric.score(genomes)

    spread = SpreadMetric(metric, scores)
    assert (spread.original, spread.identity) == (metric.original, metric.identity)
    assert spread.per_site(GENOMES[0]) == metric.per_site(GENOMES[0])
    assert asked == []
    assert spread.score(GENOMES) == metric.score(GENOMES)
    assert asked == [[genome.neural for genome in GENOMES]]
