"""A search with known figures, as plain data: what a run folder holds, without running one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.config import ExperimentConfig, parse_config
from engine.evaluation import CAPACITY, OK, Evaluation, Generation
from engine.records import history_record, summary
from engine.runs import RunDir
from genomes.gene import Gene
from genomes.genome import Genome

ORIGINAL = Evaluation(Genome(), OK, (0.010,), 0.010, 100.0, 40_000_000, 270_000)


def candidate(latency_ms: float | None, capacity: float, factor: int = 2) -> Evaluation:
    """A candidate; without a latency it lost too much capacity."""
    genes = [Gene.of("bottleneck", loop="co", factor=factor), Gene.of("depthwise", 1)]
    genome = Genome.of({"layer1.0.conv1": genes})
    if latency_ms is None:
        return Evaluation(genome, CAPACITY, (1.0,), None, capacity, 20_000_000, 100_000, "lost")
    latency_s = latency_ms / 1e3
    return Evaluation(genome, OK, (latency_s,), latency_s, capacity, 20_000_000, 100_000)


def generation(number: int, evaluated: Sequence[Evaluation], best: Evaluation) -> Generation:
    """A generation of as many candidates as every other one."""
    rejected = Counter(e.status for e in evaluated if e.status != OK)
    return Generation(
        number=number,
        population=tuple(evaluated),
        evaluated=tuple(evaluated),
        best=best,
        rejected=dict(rejected),
        seconds={"build": 3.0, "measure": 1.0, "propose": 0.0},
        evaluations=len(evaluated) * (number + 1),
        elapsed_s=4.0 * (number + 1),
    )


def history() -> list[dict[str, Any]]:
    """Three generations of three candidates; 9, 8 and 7 ms are the best legal ones."""
    found = [
        [ORIGINAL, candidate(9.0, 110.0), candidate(None, 50.0)],
        [candidate(8.0, 100.0), candidate(8.5, 120.0), candidate(30.0, 101.0)],
        [candidate(6.0, 90.0), candidate(7.0, 100.0), candidate(7.5, 103.0)],
    ]
    best = [found[0][1], found[1][0], found[2][1]]
    generations = [generation(i, found[i], best[i]) for i in range(3)]
    return [history_record(each) for each in generations]


def site(
    name: str, before_us: float | None, after_us: float | None, **more: Any
) -> dict[str, Any]:
    """A line of the result's sites."""
    shape = "1x16x32x32 -> 16, 3x3"
    known = {"shape": shape, "calls": 1, "genes": "", "before_us": before_us, "after_us": after_us}
    return {"name": name, **known, **more}


def result(config: ExperimentConfig, **changes: Any) -> dict[str, Any]:
    """A result of the form of `engine.records.result_record`."""
    found = candidate(7.0, 100.0)
    times = {"end_to_end_s": 0.0075, "end_to_end_times_s": [0.0074, 0.0075, 0.0076]}
    original_times = {"end_to_end_s": 0.012, "end_to_end_times_s": [0.012, 0.012, 0.0126]}
    finalist = {"name": "finalist-1", **summary(found), **times, "genome": found.genome.to_json()}
    return {
        "version": 1,
        "name": "small",
        "state": "finished",
        "reason": "generations",
        "counts": {
            "generations": 3,
            "evaluations": 9,
            "rejected": {"capacity": 7, "build_timeout": 1, "crashed": 0},
            "dropped_genes": {"a | b": 2},
        },
        "work": {"measurements": 40, "store_hits": 2, "capacities": 9},
        "seconds": {"elapsed": 12.0, "build": 9.0, "measure": 3.0, "wait": 0.0},
        "improved": True,
        "note": "",
        "original": {**summary(ORIGINAL), **original_times},
        "found": finalist,
        "finalists": [finalist],
        "sites": [
            site("layer1.0.conv1", 270.0, 90.0, genes="depthwise()", calls=2),
            site("conv1", 900.0, 900.0),
            site("fc", None, None),
        ],
        "pareto": [],
        "device": {
            "name": "Some CPU, 2 threads",
            "fingerprint": "abcd",
            "target": "llvm -mcpu=x",
            "facts": {},
        },
        "versions": {"apache-tvm": "0.27", "torch": "2.13"},
        "config": config.model_dump(mode="json"),
        **changes,
    }


def run_folder(home: Path, finished: bool = True) -> RunDir:
    """A run folder of this search."""
    model = {"spec": "resnet20_cifar", "input_shape": [1, 3, 32, 32]}
    config = parse_config({"name": "small", "model": model, "home": str(home)})
    run = RunDir.create(config)
    for record in history():
        run.append_history(record)
    if finished:
        run.result_path.write_text(json.dumps(result(config)))
    return run
