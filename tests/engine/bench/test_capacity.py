from __future__ import annotations

import json

import pytest
import torch

from engine.bench import capacity
from engine.models import get_model
from genomes.genome import Genome
from genomes.sites import find_sites

SMALL = ["--model", "resnet20_cifar", "--images", "2"]


def test_the_last_line_has_the_figures(capsys):
    arguments = [*SMALL, "--candidates", "8", "--check", "4"]
    assert capacity.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    report = json.loads(lines[-1])
    assert report["seconds_per_1000"] > 0
    assert report["verdict_agreement"] in (0, 0.25, 0.5, 0.75, 1)
    assert report["greatest_error"] < 0.05
    assert (report["candidates"], report["checked"], report["images"]) == (8, 4, 2)
    assert any("scored 8 candidates" in line for line in lines)


def test_candidates_of_a_search(capsys):
    arguments = [*SMALL, "--candidates", "60", "--check", "2", "--searched"]
    assert capacity.main(arguments) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 30 < report["candidates"] <= 60
    assert report["verdict_agreement"] in (0, 0.5, 1)


def test_candidates_are_distinct_and_the_same_every_time():
    sites = find_sites(get_model("resnet20_cifar").factory(), (1, 3, 32, 32))
    found = capacity.candidates(sites, 40, seed=0)
    assert found == capacity.candidates(sites, 40, seed=0)
    assert len({genome.key for genome in found}) == 40
    assert Genome() not in found
    shares = [len(genome.sites) / len(sites.sites) for genome in found]
    assert min(shares) < 0.3 < 0.7 < max(shares)


def test_mistakes_are_one_line(capsys, tmp_path):
    assert capacity.main([*SMALL, "--data", str(tmp_path / "none.npz")]) == 1
    output = capsys.readouterr().out.replace("\n", " ")
    assert output.startswith("bench-capacity: error: ")
    assert "no such file" in output
    assert capacity.main(["--model", "resnet35"]) == 1
    with pytest.raises(SystemExit):
        capacity.main(["--candidates", "3", "--check", "4"])
    assert "--check" in capsys.readouterr().err


def test_the_generator_is_left_alone(capsys):
    before = torch.get_rng_state()
    capacity.main([*SMALL, "--candidates", "1", "--check", "1"])
    assert torch.equal(torch.get_rng_state(), before)
