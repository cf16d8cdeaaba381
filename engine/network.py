"""Whole networks on the device: compiled, checked against PyTorch, timed side by side.

Everything runs in one worker process, so that a network that crashes or hangs costs its own
result only; the variants are timed in turns, so that drift of the machine meets all alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, log2
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.base import Backend, Failed, FailureKind, LibraryTarget, NetworkTarget
from backends.registry import backend_type, create_backend
from backends.timing import PATIENCE_S, patient_s
from backends.workers import Finished, JobResult, WorkerPool, WorkerSpec
from backends.workers.outcomes import failure_of
from engine.config import ExperimentConfig, ModelConfig
from engine.turns import SETTLE_S, interleaved, quiet
from genomes.errors import ModelError
from genomes.gene import Gene
from genomes.genome import FORMAT, VERSION, Genome
from genomes.nest import LoopNest

if TYPE_CHECKING:
    from torch import nn

    from backends.network import CompiledNetwork
    from genomes.sites import Sites

GPU_SETTLE_S = 0.05
"""As `SETTLE_S`, on a GPU, which has no threads that have to find a core, but clocks that fall."""
WEIGHTS, PATIENCE = "weights_mb", "patience_s"
"""Options of a backend: how many weights a network reads, and how long a busy machine is waited
for."""

PATIENCE_SHARE = 0.1
"""The share of a search's time for which it waits for a busy machine at first."""

SIZE_STEPS = 16
"""Weights are rounded up to multiples of such a part of the power of two above them."""

MOST_WEIGHTS_MB = 64
"""As many are read in turns, at most; where the last cache is larger, they stay in it."""

LIMITS_S = {"build": 300.0, "run": 300.0}
"""Limits of compiling and checking one network, and of timing it."""

APART = 1e-3
"""The relative difference of weights that training would make different."""

TOLERANCE = 1e-3
"""Largest accepted deviation from PyTorch, relative to the largest output."""


@dataclass(frozen=True)
class Variant:
    """One network to measure.

    Attributes:
        genome: Its transformations; `Genome()` for the original.
        schedules: Schedule genes by the structure key of a nest; a nest that is not there gets
            the backend's default schedule.
    """

    genome: Genome
    schedules: Mapping[str, tuple[Gene, ...]]


@dataclass(frozen=True)
class NetworkTimes:
    """End-to-end times of one network, transfers excluded.

    Attributes:
        times_s: Seconds per call, one entry for each round of the quieter half.
        error: Largest deviation from PyTorch, relative to the largest output.
    """

    times_s: tuple[float, ...]
    error: float

    @property
    def median_s(self) -> float:
        return statistics.median(self.times_s)


def build_model(config: ModelConfig) -> nn.Module:
    """The network of a config: seeded random weights, or those of `config.weights`.

    Raises:
        ModelError: It cannot be imported or built, or the weights do not fit.
    """
    import torch

    from engine.models import load_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = load_model(config.spec, **config.kwargs)
    if config.weights is not None:
        try:
            state = torch.load(config.weights, weights_only=True, map_location="cpu")
            model.load_state_dict(state)
        except Exception as error:  # torch.load raises unrelated types on a bad file
            line = (str(error).strip().splitlines() or [""])[0]
            raise ModelError(
                f"the weights {config.weights} do not fit the network {config.spec}: {line}; "
                "save them with torch.save(model.state_dict(), ...)"
            ) from error
    return model


def search_backend(config: ExperimentConfig, sites: Sites) -> Backend:
    """The backend of an experiment.

    Kernels find their weights as they do in its network, and the less time there is, the less is
    waited for a busy machine.

    Raises:
        BackendError: Unknown name or option, or a device or tool chain that is missing.
    """
    name, options = config.backend.name, dict(config.backend.options)
    known = backend_type(name).Options.model_fields
    if PATIENCE in known and config.budget.wall_clock_s is not None:
        shared_s = PATIENCE_SHARE * config.budget.wall_clock_s
        options.setdefault(PATIENCE, min(shared_s, PATIENCE_S))
    if WEIGHTS in known:
        elements = sum(LoopNest.fresh(site.shape).parameters for site in sites.sites)
        needed_mb = 4 * elements / 2**20
        # Networks of similar size share their measurements.
        step_mb = max(1.0, 2.0 ** ceil(log2(max(needed_mb, 1.0))) / SIZE_STEPS)
        rounded_mb = max(1, int(step_mb * ceil(needed_mb / step_mb)))
        options.setdefault(WEIGHTS, min(rounded_mb, MOST_WEIGHTS_MB))
    return create_backend(name, options)


def laid_out(
    model: nn.Module, sites: Sites, target: NetworkTarget | LibraryTarget | None
) -> Sites:
    """`sites` with the layouts of their activations in the compiled network.

    They stay in NCHW where whole networks are not compiled: on a backend without networks, and
    for a network that cannot be traced.
    """
    if target is None:
        return sites
    from backends.network import with_layouts

    try:
        return with_layouts(model, sites, target.features.lanes)
    except ModelError:
        return sites


def schedule_of(
    target: NetworkTarget | LibraryTarget, schedules: Mapping[str, tuple[Gene, ...]]
) -> Any:
    """A function that gives a nest its schedule: the one in `schedules`, or the default."""
    from backends.network import platform_of
    from genomes.transformations import apply

    platform = platform_of(target.target, target.features)

    def schedule(nest: LoopNest) -> LoopNest:
        genes = schedules.get(nest.structure_key)
        if genes is None:
            return platform.default_schedule(nest)
        for gene in genes:
            nest = apply(nest, gene)
        return nest

    return schedule


def compile_variant(
    model: nn.Module,
    config: ExperimentConfig,
    variant: Variant,
    target: NetworkTarget | LibraryTarget,
) -> tuple[nn.Module, CompiledNetwork]:
    """The transformed torch network, in eval mode, and the compiled one, to be timed.

    The weights differ a little from those of `model` where statements begin with the same ones:
    of equal constants, a compiled network has one only, and after training they are equal no more.
    """
    from backends.network import compile_network
    from genomes.sites import find_sites, transform

    shape = config.model.input_shape
    network = transform(model, find_sites(model, shape), variant.genome).eval()
    _tell_apart(network)
    compiled = compile_network(
        network,
        shape,
        dict(target.target),
        schedule_of(target, variant.schedules),
        target.features.lanes,
    )
    return network, compiled


def _tell_apart(network: nn.Module) -> None:
    import torch

    from genomes.modules import SiteConv2d

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, SiteConv2d):
                for number, weight in enumerate(module.weights):
                    weight.mul_(1.0 + APART * number)


def network_input(config: ExperimentConfig) -> np.ndarray:
    """(N, C, H, W) float32, the same for ever: what networks are compared and timed on."""
    return np.random.default_rng(0).standard_normal(config.model.input_shape).astype(np.float32)


def wrong(error: float) -> Failed:
    """The failure of a network with such a `relative_error`."""
    deviation = f"deviates from PyTorch by {error:.1e} of the largest output"
    return Failed(FailureKind.WRONG_RESULT, deviation)


def relative_error(result: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute deviation, relative to the largest expected magnitude."""
    scale = float(np.abs(expected).max()) or 1.0
    return float(np.abs(result - expected).max()) / scale


def network_job(
    payload: Mapping[str, Any], enter: Callable[[str], None]
) -> dict[str, NetworkTimes | Failed]:
    """Worker side of `measure_networks`."""
    import torch

    from backends.network import platform_of

    torch.set_num_threads(1)
    config: ExperimentConfig = payload["config"]
    target: NetworkTarget = payload["target"]
    model = build_model(config.model)
    x = network_input(config)
    answers: dict[str, NetworkTimes | Failed] = {}
    runs, errors = {}, {}
    for name, variant in payload["variants"].items():
        network, compiled = compile_variant(model, config, variant, target)
        with torch.no_grad():
            expected = network(torch.from_numpy(x)).numpy()
        errors[name] = relative_error(compiled(x), expected)
        if errors[name] <= TOLERANCE:
            runs[name] = compiled.runner(x)
        else:
            answers[name] = wrong(errors[name])
    enter("run")
    with platform_of(target.target, target.features).undisturbed() as look:
        settle_s = GPU_SETTLE_S if look is None else patient_s(SETTLE_S)
        times = quiet(interleaved(runs, payload["rounds"], settle_s, look))
    answers.update({name: NetworkTimes(tuple(times[name]), errors[name]) for name in runs})
    return answers


def measure_networks(
    config: ExperimentConfig,
    variants: Mapping[str, Variant],
    target: NetworkTarget,
    rounds: int = 21,
) -> dict[str, NetworkTimes | Failed]:
    """Compile, check and time whole networks, interleaved in one worker process.

    Args:
        config: Names the network and its input shape.
        variants: What is measured, by name.
        target: From the backend.
        rounds: Timings of each network, of which the quieter half is kept.

    Returns:
        One answer for each variant: a network that crashes, hangs or computes something else
        is `Failed`, and the others are measured without it.
    """
    spec = WorkerSpec(
        function="engine.network:network_job",
        limits_s={name: s * len(variants) for name, s in LIMITS_S.items()},
        environment=target.environment,
    )
    payload = {"config": config, "target": target, "rounds": rounds}
    with WorkerPool(spec) as pool:
        result = pool.run({**payload, "variants": dict(variants)})
        if isinstance(result, Finished):
            return result.value
        # One of them may be to blame: find out which, and measure the others together.
        answers: dict[str, NetworkTimes | Failed] = {}
        for name, variant in variants.items():
            alone = pool.run({**payload, "variants": {name: variant}, "rounds": 1})
            answers[name] = _answer(name, alone)
        good = {n: v for n, v in variants.items() if isinstance(answers[n], NetworkTimes)}
        if good:
            together = pool.run({**payload, "variants": good})
            answers.update({name: _answer(name, together) for name in good})
    return answers


def _answer(name: str, result: JobResult) -> NetworkTimes | Failed:
    """What became of one network of a job."""
    if isinstance(result, Finished):
        answer: NetworkTimes | Failed = result.value[name]
        return answer
    return failure_of(result)


def network_schedules(record: Mapping[str, Any]) -> dict[str, tuple[Gene, ...]]:
    """The schedules in a recorded result, by structure key.

    Raises:
        GenomeFormatError: They cannot be read.
    """
    return {
        key: Genome.from_json({"format": FORMAT, "version": VERSION, "sites": {key: genes}}).genes(
            key
        )
        for key, genes in record.get("schedules", {}).items()
    }
