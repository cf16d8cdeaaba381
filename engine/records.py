"""What a search leaves behind as plain data: a line per generation, and the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from backends.base import Failed
from engine.evaluation import Evaluation, Generation
from engine.finalists import Finalist
from engine.network import NetworkTimes
from engine.problem import Problem
from genomes.genome import Genome

RESULT_VERSION = 1

EndToEndOutcome = NetworkTimes | Failed | None


def summary(evaluation: Evaluation, end_to_end: EndToEndOutcome = None) -> dict[str, Any]:
    """The figures of one network; `latency_s` is estimated from its kernels."""
    record: dict[str, Any] = {
        "latency_s": evaluation.latency_s,
        "capacity": evaluation.capacity,
        "macs": evaluation.macs,
        "parameters": evaluation.parameters,
    }
    if isinstance(end_to_end, NetworkTimes):
        record["end_to_end_s"] = end_to_end.median_s
        record["end_to_end_times_s"] = list(end_to_end.times_s)
        record["end_to_end_error"] = end_to_end.error
    elif isinstance(end_to_end, Failed):
        record["end_to_end_failure"] = f"{end_to_end.kind.value}: {end_to_end.message}"
    return record


def history_record(generation: Generation) -> dict[str, Any]:
    """The line of one generation in `history.jsonl`."""
    genes = Counter(
        gene.op for e in generation.population for _, site in e.genome.sites for gene in site
    )
    return {
        "generation": generation.number,
        "best": {**summary(generation.best), "key": generation.best.genome.key},
        "candidates": [_candidate(e) for e in generation.evaluated],
        "population": [e.genome.key for e in generation.population],
        "genes": dict(sorted(genes.items())),
        "rejected": dict(generation.rejected),
        "dropped_genes": dict(generation.dropped_genes),
        "seconds": dict(generation.seconds),
        "evaluations": generation.evaluations,
        "measurements": generation.measurements,
        "store_hits": generation.store_hits,
        "elapsed_s": generation.elapsed_s,
    }


def _candidate(evaluation: Evaluation) -> dict[str, Any]:
    record = {
        **summary(evaluation),
        "key": evaluation.genome.key,
        "status": evaluation.status,
        "fitness": list(evaluation.fitness),
    }
    return {**record, "message": evaluation.message} if evaluation.message else record


def result_record(
    problem: Problem,
    original: tuple[Evaluation, EndToEndOutcome],
    found: Finalist | None,
    finalists: Sequence[Finalist],
    front: Sequence[Evaluation],
    progress: Mapping[str, Any],
) -> dict[str, Any]:
    """What `result.json` holds.

    Args:
        problem: What was searched.
        original: The untransformed network and its end-to-end times.
        found: The best candidate; None if the original was not beaten.
        finalists: Best first.
        front: Non-dominated candidates; empty in the constrained mode.
        progress: `state`, `reason`, `counts`, `work` and `seconds`, as they are.
    """
    best = found.evaluation if found else original[0]
    best_times = found.end_to_end if found else original[1]
    return {
        "version": RESULT_VERSION,
        "name": problem.config.name,
        **progress,
        "improved": found is not None,
        "note": "" if found else "no candidate beat the original network: it is kept as it is",
        "original": summary(*original),
        "found": {
            "name": found.name if found else "original",
            **summary(best, best_times),
            "genome": best.genome.to_json(),
        },
        "finalists": [_finalist(f) for f in finalists],
        "sites": _sites(problem, best.genome),
        "pareto": [{**summary(e), "genome": e.genome.to_json()} for e in front],
        "schedules": _schedules(problem, (Genome(), best.genome)),
        "device": problem.facts()["device"],
        "drift": [list(timing) for timing in problem.backend.drift],
        "versions": problem.facts()["versions"],
        "config": problem.config.model_dump(mode="json"),
    }


def _schedules(problem: Problem, genomes: Sequence[Genome]) -> dict[str, Any]:
    """The fastest known schedules of the kernels of some networks, by structure key."""
    found = {k: v for genome in genomes for k, v in problem.variant(genome).schedules.items()}
    return {key: [gene.to_json() for gene in genes] for key, genes in sorted(found.items())}


def _finalist(finalist: Finalist) -> dict[str, Any]:
    evaluation = finalist.evaluation
    return {
        "name": finalist.name,
        **summary(evaluation, finalist.end_to_end),
        "genome": evaluation.genome.to_json(),
    }


def finalist_metrics(finalist: Finalist, original: EndToEndOutcome) -> dict[str, float]:
    """What a tracker keeps of a finalist, units in the names."""
    metrics: dict[str, float] = {}
    if isinstance(finalist.end_to_end, NetworkTimes):
        metrics["end_to_end_ms"] = finalist.end_to_end.median_s * 1e3
        metrics["end_to_end_error"] = finalist.end_to_end.error
        if isinstance(original, NetworkTimes):
            metrics["original_end_to_end_ms"] = original.median_s * 1e3
    return metrics


def _sites(problem: Problem, genome: Genome) -> list[dict[str, Any]]:
    before, after = problem.site_latencies_s(Genome()), problem.site_latencies_s(genome)
    return [
        {
            "name": site.name,
            "shape": str(site.shape),
            "calls": site.calls,
            "genes": " ".join(map(str, genome.genes(site.name))),
            "before_us": _microseconds(before_s),
            "after_us": _microseconds(after_s),
        }
        for site, before_s, after_s in zip(problem.sites.sites, before, after, strict=True)
    ]


def _microseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e6


def final_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a result that a tracker keeps, units in their names."""
    metrics: dict[str, float] = {}
    for name in ("original", "found"):
        figures = record[name]
        for key in ("latency_s", "end_to_end_s"):
            if figures.get(key) is not None:
                metrics[f"{name}_{key.removesuffix('_s')}_ms"] = figures[key] * 1e3
        for key in ("capacity", "macs", "parameters"):
            if figures[key] is not None:
                metrics[f"{name}_{key}"] = float(figures[key])
    for key in ("latency", "end_to_end"):
        before, after = (metrics.get(f"{name}_{key}_ms") for name in ("original", "found"))
        if before and after:
            metrics[f"{key}_speedup"] = before / after
    return metrics
