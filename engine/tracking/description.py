"""What a run says of itself in MLflow: tags to filter by, and a text for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.numbers import ratio_text, span_text, time_text


def tags_of(config: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, str]:
    """The tags by which runs are found and compared; what is not known is left out."""
    found = {
        "model": _at(config, "model", "spec"),
        "backend": _at(config, "backend", "name"),
        "device": _at(facts, "device", "name"),
        "strategy": _at(config, "search", "strategy"),
        "mode": _at(config, "search", "mode"),
        "loopgene.version": _at(facts, "versions", "loopgene"),
    }
    return {key: str(value) for key, value in found.items() if value is not None}


def describe(
    config: Mapping[str, Any],
    facts: Mapping[str, Any],
    metrics: Mapping[str, float],
    state: str,
    run_dir: Path,
) -> str:
    """The description of a run, in Markdown; MLflow shows its first lines.

    Args:
        config: The resolved experiment.
        facts: As `Tracker.start` gets them.
        metrics: The last ones; {} before the first generation.
        state: How the search stands.
        run_dir: Where its files are.
    """
    paragraphs = [
        _headline(facts, metrics, state),
        _searched(config, facts, metrics),
        f"Files: `{run_dir}`; `loopgene show {run_dir.name}`",
    ]
    return "\n\n".join(paragraphs)


def _headline(facts: Mapping[str, Any], metrics: Mapping[str, float], state: str) -> str:
    """How much faster, and what was timed: the whole network if it could be."""
    before_ms = metrics.get("result/original_end_to_end_ms")
    after_ms = metrics.get("result/found_end_to_end_ms")
    timed = "whole network"
    if before_ms is None or after_ms is None:
        original_s = _at(facts, "original", "latency_s")
        before_ms = None if original_s is None else original_s * 1e3
        after_ms = metrics.get("best/latency_ms")
        timed = "estimated from kernels"
    if before_ms is None or after_ms is None:
        return f"**{state}**"
    times = f"{time_text(before_ms / 1e3)} → {time_text(after_ms / 1e3)}"
    return f"**{ratio_text(before_ms, after_ms)} faster**, {times} ({timed}); {state}"


def _searched(
    config: Mapping[str, Any], facts: Mapping[str, Any], metrics: Mapping[str, float]
) -> str:
    shape, sites = _at(config, "model", "input_shape"), facts.get("sites")
    count = len(sites) if isinstance(sites, list | tuple) else sites
    candidates, elapsed_s = metrics.get("search/evaluations"), metrics.get("search/elapsed_s")
    known = [
        _at(config, "model", "spec"),
        shape and "x".join(map(str, shape)),
        count and f"{count} convolutions",
        _at(facts, "device", "name"),
        candidates and f"{candidates:.0f} candidates",
        elapsed_s and span_text(elapsed_s),
    ]
    return " · ".join(str(part) for part in known if part)


def _at(data: Mapping[str, Any], *keys: str) -> Any:
    """A value of nested plain data; None where a part is missing."""
    for key in keys:
        if not isinstance(data, Mapping) or key not in data:
            return None
        data = data[key]
    return data
