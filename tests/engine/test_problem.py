from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from backends.base import BackendError
from backends.table import TableBackend
from engine.problem import ProblemError, open_problem
from genomes.errors import GenomeFormatError, LoopGeneError, ModelError
from genomes.genome import Genome
from genomes.presets import grouping
from genomes.transformations import REGISTRY, Kind
from tests.engine import toys
from tests.engine.toys import experiment


@pytest.mark.usefixtures("cheap_metric")
class TestParts:
    def test_the_original_is_known(self, tmp_path):
        with open_problem(experiment(tmp_path)) as problem:
            names = [site.name for site in problem.sites.sites]
            assert names == ["0", "2", "4"]
            times = problem.site_latencies_s(Genome())
            assert sum(times) == pytest.approx(problem.objective.original_s)
            assert problem.objective.original_capacity == problem.metric.original
            assert problem.measure_end_to_end is None

    def test_an_unmeasured_site_has_no_latency(self, tmp_path):
        with open_problem(experiment(tmp_path)) as problem:
            genome = Genome.of({"2": grouping(2)})
            before, after = (problem.site_latencies_s(g) for g in (Genome(), genome))
            assert after == [before[0], None, before[2]]

    def test_the_space_is_what_the_backend_lowers(self, tmp_path):
        with open_problem(experiment(tmp_path)) as problem:
            names = problem.space.transformations
            assert names == TableBackend().transformations() & set(REGISTRY)
            assert not {n for n in names if REGISTRY[n].kind is Kind.MAPPING}
            nest = problem.nest(problem.sites.sites[0], Genome())
            assert problem.space.schedules is not None
            assert len(problem.space.schedules(nest)) >= 1

    def test_the_config_narrows_the_space(self, tmp_path):
        config = experiment(
            tmp_path,
            search__transformations=["group", "bottleneck"],
            search__presets=["grouping"],
            search__max_genes=3,
        )
        with open_problem(config) as problem:
            assert problem.space.transformations == {"group", "bottleneck"}
            assert problem.space.presets == ("grouping",)
            assert problem.space.max_genes == 3
            assert problem.space.schedules is None

    def test_weights_come_from_the_seed_and_leave_the_globals_alone(self, tmp_path):
        def weights(seed):
            with open_problem(experiment(tmp_path, model__seed=seed)) as problem:
                return problem.model[0].weight

        # Some packages draw from the globals when they are imported.
        weights(0)
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)
        before = torch.get_rng_state(), random.getstate(), np.random.random()
        np.random.seed(5)
        first, again, other = weights(1), weights(1), weights(2)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert random.getstate() == before[1]
        assert np.random.random() == before[2]

    def test_a_second_run_measures_nothing(self, tmp_path):
        for misses in (True, False):
            with open_problem(experiment(tmp_path)) as problem:
                assert bool(problem.backend.misses) == misses

    def test_facts_are_plain_data(self, tmp_path):
        with open_problem(experiment(tmp_path)) as problem:
            facts = problem.facts()
            assert facts["device"]["name"].startswith("latency table")
            assert facts["versions"]["torch"]
            assert [s["name"] for s in facts["sites"]] == ["0", "2", "4"]


class TestSitesThatCannotRun:
    def opened(self, tmp_path, **options):
        return open_problem(experiment(tmp_path, backend={"name": "table", **options}))

    @pytest.mark.usefixtures("cheap_metric")
    def test_they_are_left_alone(self, tmp_path):
        # The table fails by key: some share makes one shape fail and not the other.
        for share in (s / 20 for s in range(1, 20)):
            home = tmp_path / str(share)
            try:
                with self.opened(home, failures={"build_error": share}) as problem:
                    if problem.sites.others:
                        break
            except ProblemError:
                continue
        else:
            pytest.fail("no share of failures drops some sites and not all")
        kept = {site.name for site in problem.sites.sites}
        left = {other.name: other.reason for other in problem.sites.others}
        assert kept | set(left) == {"0", "2", "4"}
        assert all("cannot run it: build_error" in reason for reason in left.values())
        assert {site.name for site in problem.space.sites} == kept

    def test_none_is_an_error(self, tmp_path):
        with (
            pytest.raises(ProblemError, match=r"no convolution.*build_error"),
            self.opened(tmp_path, failures={"build_error": 1.0}),
        ):
            pass

    def test_a_lost_device_is_no_fault_of_the_site(self, tmp_path):
        with (
            pytest.raises(BackendError, match=r"0 could not be measured \(device_lost"),
            self.opened(tmp_path, failures={"device_lost": 1.0}),
        ):
            pass


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ({"model__spec": f"{toys.__file__}:no_cnn"}, ProblemError, "no convolution"),
        (
            {"model__spec": f"{toys.__file__}:no_cnn", "backend": {"name": "cpu", "threads": 1}},
            ProblemError,
            "no convolution",
        ),
        ({"model__spec": f"{toys.__file__}:segmenter"}, ModelError, "class scores"),
        ({"backend__name": "tabel"}, BackendError, "table"),
        ({"search__transformations": ["gruop"]}, GenomeFormatError, "did you mean 'group'"),
        ({"search__transformations": ["bind"]}, ProblemError, "cannot lower bind"),
        ({"search__presets": ["seq4"]}, ProblemError, "did you mean 'seq"),
        ({"capacity__batch": 10**6}, LoopGeneError, "minibatch"),
    ],
)
@pytest.mark.usefixtures("cheap_metric")
def test_what_is_wrong_is_said_in_one_line(tmp_path, overrides, error, message):
    with (
        pytest.raises(error, match=message) as caught,
        open_problem(experiment(tmp_path, **overrides)),
    ):
        pass
    assert "\n" not in str(caught.value)
