"""Whole networks, end to end: found and original, against the other ways to run the original.

    python -m engine.bench.e2e [EXPERIMENT.json ...]

Every argument is a recorded result (as in experiments/); all networks of one result are compiled
in this process, compared with PyTorch eager on random input, and timed in turns.  The last line
is one JSON object: for each network the medians in milliseconds and `speedup`, the best of the
originals divided by the found network.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from engine.bench import peers
from genomes.errors import LoopGeneError

if TYPE_CHECKING:
    from torch import Tensor, nn

RESULTS = ("experiments/resnet18_cifar10_cpu.json", "experiments/resnet34_cifar10_cpu.json")
TOLERANCE = 1e-3
TITLES = {
    "original_ms": "original, LoopGene",
    "found_ms": "found, LoopGene",
    "tvm_default_ms": "original, TVM default",
    "torch_ms": "original, torch eager",
    "inductor_ms": "original, torch.compile frozen",
    "onnxruntime_ms": "original, ONNX Runtime",
}
Runs = dict[str, peers.Peer]


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("results", nargs="*", default=RESULTS, type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args(arguments)
    peers.share_process(options.threads)
    # PyTorch's own, one for each tree that torch.export copies.
    warnings.filterwarnings("ignore", "`isinstance", FutureWarning)
    console = Console()
    report = {}
    try:
        for path in options.results:
            name, medians = _benchmark(Path(path), options.threads, options.rounds, console)
            report[name] = medians
    except LoopGeneError as error:
        console.print(f"bench-e2e: error: {error}", style="red", soft_wrap=True)
        return 1
    console.file.write(json.dumps(report) + "\n")
    return 0


def _benchmark(
    path: Path, threads: int, rounds: int, console: Console
) -> tuple[str, dict[str, float]]:
    import torch

    from engine.config import parse_config
    from engine.network import (
        Variant,
        build_model,
        compile_variant,
        interleaved,
        network_schedules,
    )
    from genomes.genome import Genome

    record = _read(path)
    config = parse_config(record["config"])
    target = _target(config, threads)
    torch.set_num_threads(threads)
    model = build_model(config.model).eval()
    shape = config.model.input_shape
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(x).numpy()
    runs: Runs = {}
    for key, genome in (
        ("original_ms", Genome()),
        ("found_ms", Genome.from_json(record["found"]["genome"])),
    ):
        variant = Variant(genome, network_schedules(record))
        network, compiled = compile_variant(model, config, variant, target)
        with torch.no_grad():
            reference = network(x).numpy()
        runs[key] = (compiled.runner(x.numpy()), reference)
        _agree(key, compiled(x.numpy()), reference)
    _add_peers(runs, model, x, expected, dict(target.target), threads)
    with torch.no_grad():
        times = interleaved({key: run for key, (run, _) in runs.items()}, rounds)
    medians = {key: 1e3 * statistics.median(values) for key, values in times.items()}
    originals = [value for key, value in medians.items() if key != "found_ms"]
    medians["speedup"] = min(originals) / medians["found_ms"]
    console.print(_table(f"{config.name}: {config.model.spec}, input {shape}", times))
    console.print(f"speedup over the best original: {medians['speedup']:.2f}x\n")
    return config.model.spec, {key: round(value, 4) for key, value in medians.items()}


def _read(path: Path) -> dict[str, Any]:
    from engine.network import NetworkError

    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise NetworkError(
            f"cannot read the recorded result {path}: {error}; "
            "record it with `loopgene run` and `loopgene show --json`"
        ) from error
    return record


def _target(config: Any, threads: int) -> Any:
    from backends.registry import create_backend
    from engine.network import NetworkError

    options = {**config.backend.options, "threads": threads}
    with create_backend(config.backend.name, options) as backend:
        target = backend.network_target()
    if target is None:
        raise NetworkError(f"backend {config.backend.name} does not compile whole networks")
    return target


def _agree(name: str, result: np.ndarray, expected: np.ndarray) -> None:
    from engine.network import NetworkError, relative_error

    error = relative_error(result, expected)
    if not error <= TOLERANCE:
        raise NetworkError(f"{TITLES[name]} deviates from PyTorch by {error:.1e}; not timed")


def _add_peers(
    runs: Runs,
    model: nn.Module,
    x: Tensor,
    expected: np.ndarray,
    target: Mapping[str, Any],
    threads: int,
) -> None:
    builders: dict[str, Callable[[], peers.Peer]] = {
        "tvm_default_ms": lambda: peers.tvm_default(model, x, target),
        "torch_ms": lambda: peers.eager(model, x),
        "inductor_ms": lambda: peers.inductor(model, x),
        "onnxruntime_ms": lambda: peers.onnxruntime(model, x, threads),
    }
    for key, build in builders.items():
        run, result = build()
        _agree(key, result, expected)
        runs[key] = (run, result)


def _table(title: str, times: Mapping[str, list[float]]) -> Table:
    table = Table(title=title)
    table.add_column("network")
    for column in ("median ms", "IQR ms", "minimum ms"):
        table.add_column(column, justify="right")
    for key, values in times.items():
        low, middle, high = (1e3 * q for q in statistics.quantiles(values, n=4))
        smallest = 1e3 * min(values)
        table.add_row(TITLES[key], f"{middle:.3f}", f"{high - low:.3f}", f"{smallest:.3f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
