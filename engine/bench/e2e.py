"""Whole networks, end to end: found and original, against the other ways to run the original.

    python -m engine.bench.e2e [EXPERIMENT.yaml ...] [--only NAME]

Every argument is an experiment; its recorded result is the `.json` beside it.  All networks of an
experiment are compiled in this process, compared with PyTorch eager on random input, and timed in
turns: the original as LoopGene compiles it and as each peer runs it, and the found network where
a result is recorded.  The kernels have the schedules of the result, or the default ones.

An experiment for a GPU is compared with what PyTorch does on it.

The last line is one JSON object: for each network the medians in milliseconds; `speedup`, the
best of the originals divided by the found network; `original_ratio`, the best of the peers
divided by the original of LoopGene.  Peers that compute in TF32 are shown, not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from engine.bench import command, gpu_peers, metaschedule_network, peers
from engine.bench.command import BenchError, Target

if TYPE_CHECKING:
    from torch import Tensor, nn

    from backends.base import NetworkTarget
    from engine.config import ExperimentConfig
    from engine.network import Variant

TOLERANCE = 1e-3
"""Largest accepted deviation from PyTorch, relative to the largest output."""

TF32_TOLERANCE = 1e-2
"""The same for a peer that rounds factors to 10 bits."""

PATIENCE_S = 2.0
"""A peer of which one call takes longer is not timed."""

ORIGINAL = Target("original_ratio", 1.0)
FOUND = Target("speedup", 3.0)
TARGETS: Mapping[str, Sequence[Target]] = {
    "resnet18_cifar": (ORIGINAL,),
    "resnet34_cifar": (ORIGINAL, FOUND),
    "resnext29_2x64d_cifar": (ORIGINAL, FOUND),
    "densenet161_cifar": (ORIGINAL, FOUND),
    "mobilenet_v2": (ORIGINAL,),
}


@dataclass(frozen=True)
class Original:
    """The untransformed network, for a peer.

    Attributes:
        module: In eval mode; not to be changed.
        x: Input, float32 (N, C, H, W).
        target: A TVM target, as a mapping.
        threads: Of every peer.
    """

    module: nn.Module
    x: Tensor
    target: Mapping[str, Any]
    threads: int


FOUND_MS, OURS_MS = "found_ms", "ours_ms"
MakePeer = Callable[[Original], peers.Peer | None]
PEERS: Mapping[str, MakePeer] = {
    "onnxruntime_ms": lambda of: peers.onnxruntime(of.module, of.x, of.threads),
    "inductor_ms": lambda of: peers.inductor(of.module, of.x),
    "eager_ms": lambda of: peers.eager(of.module, of.x),
    "channels_last_ms": lambda of: peers.channels_last(of.module, of.x),
    "metaschedule_ms": lambda of: metaschedule_network.metaschedule(of.module, of.x, of.threads),
    "tvm_default_ms": lambda of: _patiently(peers.tvm_default(of.module, of.x, of.target)),
}
"""What else runs the original; None from one that cannot be timed on it."""

TF32 = "tf32"
GPU_PEERS: Mapping[str, MakePeer] = {
    "eager_ms": lambda of: gpu_peers.eager(of.module, of.x),
    "channels_last_ms": lambda of: gpu_peers.eager(of.module, of.x, channels_last=True),
    "channels_last_tf32_ms": lambda of: gpu_peers.eager(
        of.module, of.x, channels_last=True, tf32=True
    ),
    "inductor_ms": lambda of: gpu_peers.compiled(of.module, of.x),
    "graph_ms": lambda of: gpu_peers.compiled(of.module, of.x, mode="reduce-overhead"),
    "graph_tf32_ms": lambda of: gpu_peers.compiled(
        of.module, of.x, mode="reduce-overhead", tf32=True
    ),
}
"""The same on a GPU."""

TITLES = {
    FOUND_MS: "found",
    OURS_MS: "LoopGene",
    "onnxruntime_ms": "ONNX Runtime",
    "inductor_ms": "torch.compile",
    "eager_ms": "torch eager",
    "channels_last_ms": "eager NHWC",
    "metaschedule_ms": "MetaSchedule",
    "tvm_default_ms": "TVM default",
    "channels_last_tf32_ms": "eager NHWC TF32",
    "graph_ms": "torch.compile, graph",
    "graph_tf32_ms": "torch.compile, graph, TF32",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = command.parser(__doc__)
    parser.add_argument(
        "experiments", nargs="*", default=metaschedule_network.EXPERIMENTS, type=Path
    )
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error("--rounds must be at least 2")
    peers.share_process(options.threads)
    return command.run("e2e", lambda console: _benchmark(options, console))


def _benchmark(options: argparse.Namespace, console: Console) -> dict[str, dict[str, float]]:
    recorded = [_read(path) for path in options.experiments]
    chosen = [(c, result) for c, result in recorded if options.only in c.model.spec]
    if not chosen:
        raise BenchError(
            f"no network has {options.only!r} in its name; there are "
            + ", ".join(config.model.spec for config, _ in recorded)
        )
    report = {}
    for config, result in chosen:
        times = _time(config, result, options.threads, options.rounds)
        title = f"{config.model.spec}, input {'x'.join(map(str, config.model.input_shape))}"
        console.print(_details(title, times))
        report[config.model.spec] = figures(
            {key: 1e3 * statistics.median(values) for key, values in times.items()}
        )
    console.print(_summary(report, options.threads))
    for name, row in report.items():
        command.judge(console, row, TARGETS.get(name, (ORIGINAL,)), name)
    return report


def _read(path: Path) -> tuple[ExperimentConfig, dict[str, Any] | None]:
    """The experiment and its recorded result, None where there is none."""
    from engine.config import load_config, parse_config

    config, beside = load_config(path), path.with_suffix(".json")
    if not beside.exists():
        return config, None
    try:
        result: dict[str, Any] = json.loads(beside.read_text())
        return parse_config(result["config"]), result
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchError(
            f"cannot read the recorded result {beside}: {' '.join(str(error).split())}; record "
            f"it again: `loopgene run {path}`, then `python experiments/record.py {path}`"
        ) from error


def _time(
    config: ExperimentConfig, result: Mapping[str, Any] | None, threads: int, rounds: int
) -> dict[str, list[float]]:
    """Seconds per call in every round, of all that runs the network."""
    import torch

    from engine.network import build_model, compile_variant
    from engine.turns import interleaved

    target = _target(config, threads)
    torch.set_num_threads(threads)
    model = build_model(config.model).eval()
    x = torch.randn(config.model.input_shape, generator=torch.Generator().manual_seed(0))
    runs: dict[str, Callable[[], object]] = {}
    for key, variant in _variants(result).items():
        network, compiled = compile_variant(model, config, variant, target)
        if trouble := compiled.trouble():
            raise BenchError(trouble)
        _check(key, compiled(x.numpy()), network, x)
        runs[key] = compiled.runner(x.numpy())
    original = Original(model, x, dict(target.target), threads)
    for key, build in (GPU_PEERS if target.target["kind"] == "cuda" else PEERS).items():
        made = build(original)
        if made is not None:
            run, output = made
            _check(key, output, model, x, TF32_TOLERANCE if TF32 in key else TOLERANCE)
            runs[key] = run
    with torch.no_grad():
        return interleaved(runs, rounds, rested=True)


def _variants(result: Mapping[str, Any] | None) -> dict[str, Variant]:
    from engine.network import Variant, network_schedules
    from genomes.genome import Genome

    if result is None:
        return {OURS_MS: Variant(Genome(), {})}
    schedules = network_schedules(result)
    found = Genome.from_json(result["found"]["genome"])
    return {FOUND_MS: Variant(found, schedules), OURS_MS: Variant(Genome(), schedules)}


def _target(config: ExperimentConfig, threads: int) -> NetworkTarget:
    from backends.registry import backend_type, create_backend

    options = dict(config.backend.options)
    if "threads" in backend_type(config.backend.name).Options.model_fields:
        options["threads"] = threads
    with create_backend(config.backend.name, options) as backend:
        target = backend.network_target()
    if target is None:
        raise BenchError(
            f"the backend {config.backend.name!r} runs no whole networks; name another"
        )
    return target


def _check(
    key: str, output: np.ndarray, network: nn.Module, x: Tensor, tolerance: float = TOLERANCE
) -> None:
    import torch

    from engine.network import relative_error

    with torch.no_grad():
        error = relative_error(output, network(x).numpy())
    if not error <= tolerance:
        raise BenchError(f"{TITLES[key]} deviates from PyTorch by {error:.1e}; nothing is timed")


def _patiently(peer: peers.Peer) -> peers.Peer | None:
    """`peer`, unless it takes longer than anybody would wait."""
    start = time.perf_counter()
    peer[0]()
    return peer if time.perf_counter() - start <= PATIENCE_S else None


def figures(medians: Mapping[str, float]) -> dict[str, float]:
    """The report on one network from the medians of all that runs it."""
    ours = (FOUND_MS, OURS_MS)
    best_peer = min(v for key, v in medians.items() if key not in ours and TF32 not in key)
    report = {**medians, "original_ratio": best_peer / medians[OURS_MS]}
    if FOUND_MS in medians:
        report["speedup"] = min(best_peer, medians[OURS_MS]) / medians[FOUND_MS]
    return {key: round(value, 4) for key, value in report.items()}


def _details(title: str, times: Mapping[str, Sequence[float]]) -> Table:
    table = Table("network", title=title)
    for column in ("median ms", "IQR ms", "minimum ms"):
        table.add_column(column, justify="right")
    for key, values in times.items():
        low, middle, high = (1e3 * q for q in statistics.quantiles(values, n=4))
        least = 1e3 * min(values)
        table.add_row(TITLES[key], f"{middle:.3f}", f"{high - low:.3f}", f"{least:.3f}")
    return table


def _summary(report: Mapping[str, Mapping[str, float]], threads: int) -> Table:
    table = Table(
        title=f"milliseconds, medians; batch 1, {threads} threads", box=box.SIMPLE, padding=0
    )
    table.add_column("network", no_wrap=True)
    ratios = {"speedup": "best / found", "original_ratio": "best peer / LoopGene"}
    shown = [key for key in TITLES if any(key in row for row in report.values())]
    for title in (*(TITLES[key] for key in shown), *ratios.values()):
        table.add_column(title, justify="right")
    for name, row in report.items():
        cells = [f"{row[key]:.3g}" if key in row else "-" for key in shown]
        cells += [f"{row[key]:.2f}x" if key in row else "-" for key in ratios]
        table.add_row(name, *cells)
    return table


if __name__ == "__main__":
    sys.exit(main())
