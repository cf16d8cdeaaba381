"""Everything a search needs, built from a config: network, sites, capacity, backend, space."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from backends.base import Backend, BackendError, Failed, Measured, Outcome
from backends.store import MeasurementStore
from backends.stored import StoredBackend
from engine.capacity.base import CapacityMetric
from engine.config import ExperimentConfig
from engine.counted_space import CountedSpace
from engine.executors import Spread, create_executor
from engine.executors.scoring import Scoring, SpreadMetric
from engine.finalists import EndToEnd, end_to_end
from engine.fitness import Objective
from engine.kernels import Kernels
from engine.metric import capacity_metric
from engine.network import Variant, build_model, laid_out, search_backend
from engine.stages import Stages
from genomes.errors import LoopGeneError
from genomes.genome import Genome, replay
from genomes.nest import LoopNest
from genomes.presets import PRESETS
from genomes.sites import NotASite, Site, Sites, find_sites
from genomes.suggest import nearest
from genomes.transformations import REGISTRY, Phase, get_transformation

if TYPE_CHECKING:
    from torch import nn

STORE_NAME = "measurements.sqlite"
PACKAGES = ("loopgene", "torch", "apache-tvm", "deap", "numpy", "mlflow")

MakeMetric = Callable[[Sites], CapacityMetric]


class ProblemError(LoopGeneError):
    """An experiment cannot be searched: nothing to transform, or nothing that can be compared."""


@dataclass
class Problem:
    """A network, what may be done to it, and how candidates are judged.

    Attributes:
        config: The experiment.
        model: The untransformed network.
        sites: What is transformed; a convolution that the backend cannot run is in `others`.
        metric: Scores capacity.
        backend: Measures kernels and remembers them.
        store: Its memory, and that of capacities.
        kernels: Latencies; those of the original are known.
        space: What the strategies may propose.
        stages: Where the time goes.
        objective: What is minimised.
        measure_end_to_end: Measures whole networks; None where the backend runs none.
    """

    config: ExperimentConfig
    model: nn.Module
    sites: Sites
    metric: CapacityMetric
    backend: StoredBackend
    store: MeasurementStore
    kernels: Kernels
    space: CountedSpace
    stages: Stages
    objective: Objective
    measure_end_to_end: EndToEnd | None = None

    def nest(self, site: Site, genome: Genome) -> LoopNest:
        """What `genome` makes of a site."""
        return replay(site.shape, genome.genes(site.name))

    def site_latencies_s(self, genome: Genome) -> list[float | None]:
        """Seconds of all calls of each site in one forward pass; None where they are not known."""
        sites = self.sites.sites
        outcomes = [self._outcome(self.nest(site, genome)) for site in sites]
        known = iter(self.kernels.together([o for o in outcomes if isinstance(o, Measured)]))
        return [
            site.calls * next(known) if isinstance(outcome, Measured) else None
            for site, outcome in zip(sites, outcomes, strict=True)
        ]

    def _outcome(self, nest: LoopNest) -> Outcome | None:
        with contextlib.suppress(KeyError):
            return self.kernels.best(nest)
        return None

    def variant(self, genome: Genome) -> Variant:
        """`genome` as a network to compile, with the fastest known schedules."""
        nests = [self.nest(site, genome) for site in self.sites.sites]
        return Variant(genome, self.kernels.schedules(nests))

    def facts(self) -> dict[str, Any]:
        """What a record needs besides the config, as plain data."""
        device = self.backend.describe()
        sites = [
            {"name": s.name, "shape": str(s.shape), "calls": s.calls} for s in self.sites.sites
        ]
        return {
            "device": {
                "name": device.name,
                "fingerprint": device.fingerprint,
                "target": self.backend.target,
                "facts": dict(device.facts),
            },
            "versions": _versions(),
            "sites": sites,
        }


@contextlib.contextmanager
def open_problem(
    config: ExperimentConfig,
    run_id: str = "",
    backend: Backend | None = None,
    make_metric: MakeMetric | None = None,
) -> Iterator[Problem]:
    """Build what `config` describes, measure the original's kernels, and close it all at the end.

    The global generators are neither read nor advanced.

    Args:
        config: The experiment, resolved.
        run_id: Stored with every measurement.
        backend: Instead of the one that `config` names; closed at the end.
        make_metric: Makes the capacity metric, instead of the one that `config` names; its scores
            are computed in this process, whatever the executor.

    Raises:
        LoopGeneError: A part cannot be built: its message says which and why.
    """
    model = build_model(config.model)
    sites = find_sites(model, config.model.input_shape)
    with contextlib.ExitStack() as stack:
        # First of all, so that nothing is measured where an executor cannot be had.
        executor = stack.enter_context(
            create_executor(config.executor.name, config.executor.options)
        )
        store = stack.enter_context(MeasurementStore(config.home / STORE_NAME))
        inner = stack.enter_context(backend or search_backend(config, sites))
        stages = Stages()
        kernels = Kernels(StoredBackend(inner, store, run_id), config.search.schedules, stages)
        target = inner.network_target() or inner.library_target()
        sites = _measurable(laid_out(model, sites, target), kernels)
        metric = make_metric(sites) if make_metric else capacity_metric(config, model, sites)
        scoring = None if make_metric else Scoring.like_here(config, sites, metric)
        metric = _spread(executor.spread(scoring, inner.workshop()), metric, inner)
        problem = Problem(
            config=config,
            model=model,
            sites=sites,
            metric=metric,
            backend=kernels.backend,
            store=store,
            kernels=kernels,
            space=_space(config, sites, inner, kernels),
            stages=stages,
            objective=_objective(config, sites, kernels, metric),
            measure_end_to_end=end_to_end(config, inner),
        )
        yield problem


def _spread(spread: Spread, metric: CapacityMetric, backend: Backend) -> CapacityMetric:
    """`metric`, with the scores of an executor that computes them; it builds kernels as well."""
    if spread.builder is not None:
        backend.build_with(spread.builder)
    return metric if spread.scores is None else SpreadMetric(metric, spread.scores)


def _measurable(sites: Sites, kernels: Kernels) -> Sites:
    """The sites whose original convolution the backend can run, all measured."""
    originals = {site.name: LoopNest.fresh(site.shape) for site in sites.sites}
    kernels.measure(originals.values(), lambda: None)
    kept, others = [], list(sites.others)
    for site in sites.sites:
        outcome = kernels.best(originals[site.name])
        if not isinstance(outcome, Failed):
            kept.append(site)
        elif outcome.kind.charged_to_candidate:
            reason = f"the backend cannot run it: {outcome.kind.value}: {outcome.message}"
            others.append(NotASite(site.name, "Conv2d", reason))
        else:
            raise BackendError(
                f"the original convolution {site.name} could not be measured "
                f"({outcome.kind.value}: {outcome.message}); see that the device is free and "
                "try again"
            )
    if not kept:
        why = f", for example {others[0].name}: {others[0].reason}" if others else ""
        raise ProblemError(
            f"the network has no convolution that can be transformed{why}; "
            "`loopgene inspect` lists them all"
        )
    return replace(sites, sites=tuple(kept), others=tuple(others))


def _space(
    config: ExperimentConfig, sites: Sites, backend: Backend, kernels: Kernels
) -> CountedSpace:
    search, lowered = config.search, backend.transformations()
    names = frozenset(REGISTRY) & lowered
    if search.transformations is not None:
        names = frozenset(get_transformation(name).name for name in search.transformations)
        missing = sorted(names - lowered)
        if missing:
            raise ProblemError(
                f"the backend {config.backend.name!r} cannot lower {', '.join(missing)}; remove "
                "it from search.transformations"
            )
    presets = tuple(PRESETS) if search.presets is None else tuple(search.presets)
    for name in presets:
        if name not in PRESETS:
            raise ProblemError(f"unknown preset {name!r}; {nearest(name, PRESETS)}")
    scheduled = any(REGISTRY[name].phase is Phase.SCHEDULE for name in names)
    schedules = kernels.proposals if scheduled else None
    return CountedSpace(sites.sites, names, presets, search.max_genes, schedules)


def _objective(
    config: ExperimentConfig, sites: Sites, kernels: Kernels, metric: CapacityMetric
) -> Objective:
    nests = [LoopNest.fresh(site.shape) for site in sites.sites]
    parameters = sum(nest.parameters for nest in nests)
    found = [o for o in map(kernels.best, nests) if isinstance(o, Measured)]
    seconds = zip(sites.sites, kernels.together(found), strict=True)
    original_s = math.fsum(site.calls * per_call_s for site, per_call_s in seconds)
    capacity = metric.original
    if not 0 <= capacity < float("inf"):
        raise ProblemError(
            f"the capacity of the original network is {capacity}: no candidate can be compared "
            "with it; see that its weights and the images are finite"
        )
    return Objective(
        config.search.mode,
        original_s,
        capacity,
        config.capacity.tolerance,
        config.capacity.penalty,
        config.capacity.parameters * parameters,
    )


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
