"""What each part of the compiler gives: networks and kernels with one part taken away.

    python -m engine.bench.ablation [--networks NAME,...] [--measurements 16] [--builds 3]

The networks have default schedules; of each, the variants are compiled, compared with PyTorch
eager on random input, and timed in turns in this process.  Two builds of one network differ by
where their memory lies, so there are several of each, of which the fastest counts; how far the
builds of the whole compiler are apart is printed too.  Twelve kernels are timed alone, as well.
By them the learned ranking is judged: by what tuning finds with so many measurements, with it and
in the order of the estimate.

Without packed weights, kernels keep their tiles and read the weights as PyTorch stores them; with
padding, it is copied and multiplied; without fused epilogues, residual additions and activations
are functions of their own, and BatchNorm is still folded into the weights; without the choice of
tiles, every kernel has a tile of 16 channels x 8 columns, unless no ranked schedule has it: how
many do is printed.  A kernel that is the same without a part is left out of that part's mean.
The last line is one JSON object: how many times slower each network, and `kernels` in geometric
mean, are without a part, and `builds_apart`, the slowest build of a network by the fastest.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from engine.bench import command, peers
from engine.bench.command import BenchError
from engine.bench.kernels import own_kernel
from engine.bench.workloads import Workload, workloads
from engine.models import get_model, load_model
from engine.network import relative_error
from engine.turns import interleaved, least_s
from genomes.gene import Gene
from genomes.nest import LoopNest
from genomes.transformations import apply

if TYPE_CHECKING:
    from torch import Tensor, nn

    from backends.base import Backend, NetworkTarget
    from backends.network import CompiledNetwork

NETWORKS = "resnet18_cifar,mobilenet_v2"
TOLERANCE = 1e-3
"""Largest accepted deviation from PyTorch, relative to the largest output."""

FULL, WEIGHTS, TILES, PADDING = "nothing", "packed weights", "choice of tiles", "padding left out"
TUNED, RANKING = "tuned", "learned ranking"
MOST_KERNEL_ROUNDS = 7
ONE_TILE = (16, 8)
"""Channels and columns of the only tile, where the choice of tiles is taken away."""

Schedule = Callable[[LoopNest], LoopNest]


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = command.parser(__doc__)
    parser.add_argument("--networks", default=NETWORKS, help="built-in networks, by commas")
    parser.add_argument("--measurements", type=int, default=16, help="for each tuned kernel")
    parser.add_argument("--builds", type=int, default=3, help="of each variant of a network")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    if min(options.builds, options.rounds, options.measurements) < 1:
        parser.error("--builds, --rounds and --measurements must be at least 1")
    peers.share_process(options.threads)
    return command.run("ablation", lambda console: _benchmark(options, console))


def _benchmark(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    import torch

    from backends.registry import create_backend

    names = list(filter(None, options.networks.split(",")))
    for name in names:
        get_model(name)  # says at once that there is none
    threads = {"threads": options.threads}
    with create_backend("cpu", threads) as backend, create_backend("cpu", threads) as other:
        target = backend.network_target()
        assert target is not None
        kernels = _tuned(backend, _Unlearned(other), target, options.measurements)
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {}
    for name in names:
        report[name] = _network(name, target, options, console)
    report["kernels"] = _kernels(kernels, target, options.rounds, console)
    return report


def _network(
    name: str, target: NetworkTarget, options: argparse.Namespace, console: Console
) -> dict[str, float]:
    """How many times slower a network is without each part."""
    import torch

    torch.manual_seed(0)
    model, shape = load_model(name).eval(), (1, *get_model(name).input_shape)
    x = torch.randn(shape)
    one_tile = _OneTile(target)
    runs, variants = {}, _variants(target, one_tile)
    for variant, build in variants.items():
        for number in range(options.builds):
            compiled = build(model, shape)
            _compare(name, variant, compiled, model, x)
            runs[f"{variant} {number}"] = compiled.runner(x.numpy())
    fastest = {run: min(seconds) for run, seconds in interleaved(runs, options.rounds).items()}
    builds = {
        variant: [fastest[f"{variant} {number}"] for number in range(options.builds)]
        for variant in variants
    }
    least = {variant: min(seconds) for variant, seconds in builds.items()}
    table = Table("without", "ms", "times slower", "slowest build", title=name)
    for variant, seconds in least.items():
        slower, apart = seconds / least[FULL], max(builds[variant]) / seconds
        table.add_row(variant, f"{1e3 * seconds:.3f}", f"{slower:.2f}", f"{apart:.2f}")
    console.print(table)
    had, channels, columns = list(one_tile.found.values()), *ONE_TILE
    console.print(
        f"a tile of {channels} channels x {columns} columns: {sum(had)} of {len(had)} different "
        "convolutions"
    )
    slower_by = {v: round(s / least[FULL], 4) for v, s in least.items() if v != FULL}
    return {**slower_by, "builds_apart": round(max(builds[FULL]) / least[FULL], 4)}


def _compare(
    name: str, variant: str, compiled: CompiledNetwork, model: nn.Module, x: Tensor
) -> None:
    import torch

    with torch.no_grad():
        error = relative_error(compiled(x.numpy()), model(x).numpy())
    if not error <= TOLERANCE:
        raise BenchError(f"{name}: {variant} deviates from PyTorch by {error:.1e}")


def _variants(
    target: NetworkTarget, one_tile: _OneTile
) -> Mapping[str, Callable[..., CompiledNetwork]]:
    from backends.network import compile_network

    def compiler(schedule: Schedule, **options: Any) -> Callable[..., CompiledNetwork]:
        return lambda model, shape: compile_network(
            model, shape, dict(target.target), schedule, target.features.lanes, **options
        )

    schedules = _schedules(target, one_tile)
    return {
        **{variant: compiler(schedule) for variant, schedule in schedules.items()},
        "packed activations": compiler(schedules[FULL], blocks=0),
        "fused epilogues": compiler(schedules[FULL], fuse=False),
    }


def _schedules(target: NetworkTarget, one_tile: _OneTile) -> Mapping[str, Schedule]:
    """The default schedule, and what stands for it without each part that a kernel has alone."""
    from backends.lowering import default_schedule

    def default(nest: LoopNest) -> LoopNest:
        return default_schedule(nest, target.features)

    return {
        FULL: default,
        WEIGHTS: lambda nest: _with(default(nest), _keeps_layout),
        TILES: one_tile,
        PADDING: lambda nest: _with(default(nest), _copies_padding),
    }


def _keeps_layout(gene: Gene) -> bool:
    return gene.op != "pack" or gene.arguments["operand"] != "weight"


def _copies_padding(gene: Gene) -> bool:
    return gene.op != "compute_inline"


def _with(nest: LoopNest, wanted: Callable[[Gene], bool]) -> LoopNest:
    """The nest scheduled by those of its genes that are wanted."""
    genes = [gene for s in nest.statements for gene in s.schedule_genes]
    new = nest.unscheduled()
    for gene in filter(wanted, genes):
        new = apply(new, gene)
    return new


class _OneTile:
    """Gives a nest the best schedule whose tile is that of all, where there is one.

    Attributes:
        found: Whether there was, by `LoopNest.key`.
    """

    def __init__(self, target: NetworkTarget) -> None:
        self._features = target.features
        self.found: dict[str, bool] = {}

    def __call__(self, nest: LoopNest) -> LoopNest:
        from backends.lowering import default_schedule, schedule_space

        for scheduled in schedule_space(nest, self._features):
            if all(_tile(scheduled, i) == ONE_TILE for i in range(len(scheduled.statements))):
                self.found[nest.key] = True
                return scheduled
        self.found[nest.key] = False
        return default_schedule(nest, self._features)


def _tile(nest: LoopNest, index: int) -> tuple[int, int] | None:
    """(channels, columns) of a tile of one row; None for other tiles."""
    extents: dict[str, int] = {}
    for loop in nest.statements[index].scheduled(nest.shape.batch).loops:
        if loop.mark in ("vectorize", "unroll") and not loop.reduction:
            axis = loop.name.split(".")[0]
            extents[axis] = extents.get(axis, 1) * loop.extent
    if set(extents) - {"co", "wo", "ho+wo"}:
        return None
    return extents.get("co", 1), extents.get("wo", extents.get("ho+wo", 1))


class _Unlearned:
    """A backend whose schedules are measured in the order of the estimate."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def schedule_features(self, _nest: LoopNest) -> None:
        return None


def _tuned(
    backend: Backend, unlearned: _Unlearned, target: NetworkTarget, measurements: int
) -> dict[Workload, dict[str, LoopNest]]:
    """For each workload the kernels without a part, and those found with the learned ranking
    and without.

    Each backend knows of its own kernels only which are hopeless.
    """
    from backends.tuning import tune

    found = {}
    samples: list[Any] = []
    schedules = _schedules(target, _OneTile(target))
    for workload in workloads():
        if workload.quick:
            learned = tune(backend, workload.nest, measurements, samples=samples)
            samples.extend(learned.samples(backend))
            plain = tune(unlearned, workload.nest, measurements)  # type: ignore[arg-type]
            alone = {variant: schedule(workload.nest) for variant, schedule in schedules.items()}
            found[workload] = {**alone, TUNED: learned.nest, RANKING: plain.nest}
    return found


def _kernels(
    kernels: Mapping[Workload, Mapping[str, LoopNest]],
    target: NetworkTarget,
    rounds: int,
    console: Console,
) -> dict[str, float]:
    """How many times slower the kernels are without each part, in geometric mean."""
    from backends.kernel_job import operands_of

    runs: dict[str, dict[str, Callable[[], object]]] = {}
    for workload, nests in kernels.items():
        operands, built = operands_of(workload.nest), {}
        for nest in dict.fromkeys(nests.values()):
            built[nest.key], result = own_kernel(nest, dict(target.target), operands)
            if not relative_error(np.asarray(result), operands.expected) <= TOLERANCE:
                raise BenchError(f"{workload.name}: a kernel computes something else than PyTorch")
        runs[workload.name] = built
    fastest_s = least_s(runs, min(rounds, MOST_KERNEL_ROUNDS))
    compared = {WEIGHTS: FULL, TILES: FULL, PADDING: FULL, RANKING: TUNED}
    table = Table("kernel without", "us", *compared, title="times slower")
    ratios: dict[str, dict[str, float]] = {variant: {} for variant in compared}
    for workload, nests in kernels.items():
        name, seconds = workload.name, fastest_s[workload.name]
        for variant, base in compared.items():
            if nests[variant].key != nests[base].key:
                ratios[variant][name] = seconds[nests[variant].key] / seconds[nests[base].key]
        shown = (f"{x:.2f}" if (x := ratios[v].get(name)) else "same" for v in compared)
        table.add_row(name, f"{1e6 * seconds[nests[FULL].key]:.1f}", *shown)
    console.print(table)
    means = {v: statistics.geometric_mean(x.values()) for v, x in ratios.items() if x}
    return {variant: round(mean, 4) for variant, mean in means.items()}


if __name__ == "__main__":
    sys.exit(main())
