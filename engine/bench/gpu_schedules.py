"""What the estimate of GPU schedules is worth: kernels measured on a GPU, against their estimates.

    python -m engine.bench.gpu_schedules FILE [--measure] [--arch sm_90] [--schedules 14]

With --measure, which needs the GPU, FILE is written: for some convolutions of ResNet-18, the
schedules that are proposed first, filled up with others that are drawn at random, one line of JSON
for each kernel.  Without it, the kernels in FILE are ranked by what the estimate says now.  The
last line is one JSON object: `chosen_over_best`, the geometric mean over all workloads of the time
of the kernel with the best estimate, or the mean of several that have it, divided by that of the
fastest one in FILE; `spearman`, the mean correlation of ranks within a workload; `error`, the
median deviation of the estimate.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from backends.base import BackendError, Measured
from backends.gpus import GpuFeatures, gpu_features
from backends.tuning.gpu_features import gpu_schedule_features
from engine.bench import command
from engine.bench.command import BenchError
from engine.bench.workloads import conv
from engine.runs import write_atomic
from genomes.errors import LoopGeneError
from genomes.genome import FORMAT, VERSION, Genome, replay
from genomes.nest import ConvShape, LoopNest

SHAPES = (
    conv((64, 64), 32),
    conv((128, 128), 16),
    conv((256, 256), 8),
    conv((512, 512), 4),
    conv((64, 128), 32, stride=2),
    conv((256, 512), 8, stride=2),
    conv((256, 512), 8, kernel=1, stride=2),
    conv((64, 128), 32, kernel=1, stride=2),
)

LEAST = 4
"""Workloads with fewer kernels have no ranks worth the name."""


@dataclass(frozen=True)
class Kernel:
    """One that was measured.

    Attributes:
        nest: Scheduled; of one statement.
        seconds: A call takes so long, by the fastest of some timings of many calls.
    """

    nest: LoopNest
    seconds: float

    def to_json(self) -> dict[str, Any]:
        genes = [gene.to_json() for s in self.nest.statements for gene in s.schedule_genes]
        return {"shape": self.nest.shape.to_json(), "genes": genes, "seconds": self.seconds}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Kernel:
        """Inverse of `to_json`."""
        sites = {"kernel": data["genes"]}
        genome = Genome.from_json({"format": FORMAT, "version": VERSION, "sites": sites})
        shape = ConvShape.from_json(data["shape"])
        return cls(replay(shape, genome.genes("kernel")), float(data["seconds"]))


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = command.parser(__doc__)
    parser.add_argument("file", type=Path, help="kernels, one line of JSON for each")
    parser.add_argument("--measure", action="store_true", help="measure, and write the file")
    parser.add_argument("--arch", default="sm_90", help="of the GPU")
    parser.add_argument("--schedules", type=int, default=14, help="of each convolution")
    parser.add_argument("--builders", type=int, default=4, help="kernels compiled side by side")
    options = parser.parse_args(arguments)
    return command.run("gpu-schedules", lambda console: _benchmark(options, console))


def _benchmark(options: argparse.Namespace, console: Console) -> dict[str, float]:
    try:
        gpu = gpu_features(options.arch)
    except BackendError as error:
        raise BenchError(str(error)) from error
    if options.measure:
        kernels = list(_measure(options.arch, options.schedules, options.builders))
        lines = (json.dumps(kernel.to_json(), separators=(",", ":")) for kernel in kernels)
        try:
            write_atomic(options.file, "".join(f"{line}\n" for line in lines))
        except OSError as error:
            raise BenchError(f"cannot write {options.file}: {error}") from error
    return judged(read(options.file), gpu, console)


def _measure(arch: str, schedules: int, builders: int) -> Iterator[Kernel]:
    from backends.cuda import CudaBackend, CudaOptions

    rng = random.Random(0)
    with CudaBackend(CudaOptions(arch=arch, builders=builders, min_repeat_ms=1.0)) as backend:
        nests: list[LoopNest] = []
        for shape in SHAPES:
            fresh = LoopNest.fresh(shape)
            first = backend.schedule_candidates(fresh)[:schedules]
            others = [n for n in backend.schedule_space(fresh) if n not in first]
            wanted = min(len(others), schedules - len(first))
            nests += [*first, *rng.sample(others, wanted)]
        for nest, outcome in zip(nests, backend.measure_iter(nests), strict=True):
            if not isinstance(outcome, Measured):
                raise BenchError(f"{nest.shape}: {outcome.kind.value}: {outcome.message}")
            yield Kernel(nest, min(outcome.times_s))


def read(file: Path) -> list[Kernel]:
    """The kernels in a file that `--measure` has written.

    Raises:
        BenchError: It cannot be read.
    """
    try:
        return [Kernel.from_json(json.loads(line)) for line in file.read_text().splitlines()]
    except (OSError, ValueError, KeyError, TypeError, LoopGeneError) as error:
        line = " ".join(str(error).split())
        raise BenchError(f"cannot read {file}: {line}; write it with --measure") from error


def judged(kernels: Sequence[Kernel], gpu: GpuFeatures, console: Console) -> dict[str, float]:
    """Compare estimates with measurements, and say so for every workload.

    Raises:
        BenchError: No workload has enough kernels.
    """
    workloads: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for kernel in kernels:
        features = gpu_schedule_features(kernel.nest, gpu)
        if features is not None:
            workloads[str(kernel.nest.shape)].append((2.0 ** features[0], kernel.seconds))
    workloads = {name: of for name, of in workloads.items() if len(of) >= LEAST}
    if not workloads:
        raise BenchError(f"no workload has {LEAST} kernels with an estimate for {gpu.arch}")
    # Cycles of a clock that nobody has set: what the estimate means by a second is fitted.
    clock = statistics.median(
        cycles / seconds for of in workloads.values() for cycles, seconds in of
    )
    table = Table(box=box.SIMPLE)
    table.add_column("convolution")
    for title in ("kernels", "fastest us", "chosen us", "chosen / fastest", "Spearman"):
        table.add_column(title, justify="right")
    ratios, ranks, errors = [], [], []
    for name, of in workloads.items():
        best, fastest = min(of)[0], min(seconds for _, seconds in of)
        chosen = statistics.fmean(seconds for cycles, seconds in of if cycles == best)
        ratios.append(chosen / fastest)
        ranks.append(_spearman(of))
        errors += [abs(cycles / clock / seconds - 1) for cycles, seconds in of]
        cells = (f"{1e6 * fastest:.1f}", f"{1e6 * chosen:.1f}", f"{ratios[-1]:.2f}")
        table.add_row(name, str(len(of)), *cells, f"{ranks[-1]:.2f}")
    console.print(table)
    return {
        "workloads": len(workloads),
        "kernels": sum(map(len, workloads.values())),
        "chosen_over_best": round(exp(statistics.fmean(map(log, ratios))), 3),
        "spearman": round(statistics.fmean(ranks), 3),
        "error": round(statistics.median(errors), 3),
    }


def _spearman(pairs: Sequence[tuple[float, float]]) -> float:
    """Correlation of ranks; 0 where all estimates are the same."""
    from scipy.stats import spearmanr

    estimates, times = zip(*pairs, strict=True)
    if len(set(estimates)) == 1:
        return 0.0
    return float(spearmanr(estimates, times).statistic)


if __name__ == "__main__":
    sys.exit(main())
