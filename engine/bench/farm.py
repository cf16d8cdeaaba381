"""How many candidates a farm measures per minute, against the number of its devices.

    python -m engine.bench.farm [--devices 1,2,4,8] [--service 2] [--rounds 8]

The devices are TVM RPC servers on this machine, each a supervised process of its own behind one
tracker.  Every candidate is another kernel: built here, sent to a device, run and compared with
PyTorch there; instead of being timed, it keeps the device for a fixed time.  The last line is
one JSON object with the candidates per minute and with `efficiency_at_N`: the rate of N devices
over N times the rate of one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from backends.base import Measured
from backends.rpc.loopback import Farm
from backends.rpc.modelled import ModelledOptions, ModelledRpcBackend
from engine.bench import command
from engine.bench.command import BenchError, Target
from genomes.nest import ConvShape, LoopNest

TARGETS = (Target("efficiency_at_8", 0.9),)


def kernels(count: int, first: int) -> list[LoopNest]:
    """Different small convolutions; `first` tells those of one call from those of another."""
    numbers = range(first, first + count)
    shapes = (ConvShape(1, 8, 8 + 8 * (n % 8), (6 + n // 8, 6), (3, 3)) for n in numbers)
    return [LoopNest.fresh(shape) for shape in shapes]


def per_minute(backend: ModelledRpcBackend, devices: int, rounds: int) -> float:
    """Candidates per minute; every device has worked before the clock starts.

    Raises:
        BenchError: A candidate was not measured.
    """
    _measure(backend, kernels(2 * devices, 0))
    candidates = kernels(rounds * devices, 2 * devices)
    start = time.perf_counter()
    _measure(backend, candidates)
    return 60 * len(candidates) / (time.perf_counter() - start)


def _measure(backend: ModelledRpcBackend, nests: Sequence[LoopNest]) -> None:
    for outcome in backend.measure(nests):
        if not isinstance(outcome, Measured):
            raise BenchError(f"a candidate was not measured: {outcome.kind}: {outcome.message}")


def measure(devices: Sequence[int], service_s: float, rounds: int) -> dict[int, float]:
    """Candidates per minute by number of devices."""
    rates = {}
    for count in devices:
        with Farm(count) as farm:
            options = ModelledOptions(
                tracker=farm.tracker,
                key=farm.key,
                target="native",
                threads=1,
                run_timeout_s=10 + 2 * service_s,
                service_s=service_s,
            )
            backend = ModelledRpcBackend(options)
            with backend:
                rates[count] = per_minute(backend, count, rounds)
    return rates


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = command.parser(__doc__)
    parser.add_argument("--devices", default="1,2,4,8", help="numbers of devices (1,2,4,8)")
    parser.add_argument("--service", type=float, default=2.0, help="seconds of a device (2)")
    parser.add_argument("--rounds", type=int, default=8, help="candidates of each device (8)")
    options = parser.parse_args(arguments)
    counts = sorted({int(n) for n in options.devices.split(",") if n.strip().isdecimal()})
    if not counts or counts[0] < 1:
        parser.error(f"--devices {options.devices}: expected numbers like 1,2,4,8")
    if options.rounds < 1 or options.service < 0:
        parser.error("--rounds must be at least 1, --service at least 0")

    def benchmark(console: Console) -> dict[str, float]:
        rates = measure(counts, options.service, options.rounds)
        one = rates[counts[0]] / counts[0]
        table = Table("devices", "candidates/min", "of linear")
        report: dict[str, float] = {"service_s": options.service}
        for count, rate in rates.items():
            efficiency = rate / (count * one)
            table.add_row(str(count), f"{rate:.1f}", f"{efficiency:.2f}")
            report[f"per_minute_at_{count}"] = round(rate, 2)
            report[f"efficiency_at_{count}"] = round(efficiency, 3)
        console.print(table)
        return report

    return command.run("farm", benchmark, TARGETS)


if __name__ == "__main__":
    sys.exit(main())
