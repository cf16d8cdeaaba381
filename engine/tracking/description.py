"""What a run says of itself in MLflow: tags to filter by, and a text for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.numbers import span_text, time_text


def tags_of(config: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, str]:
    """The tags by which runs are found and compared; what is not known is left out."""
    found = {
        "model": _at(config, "model", "spec"),
        "backend": _at(config, "backend", "name"),
        "device": device_name(facts),
        "strategy": _at(config, "search", "strategy"),
        "mode": _at(config, "search", "mode"),
        "loopgene.version": _at(facts, "versions", "loopgene"),
    }
    return {key: str(value) for key, value in found.items() if value is not None}


def device_name(facts: Mapping[str, Any]) -> str | None:
    """The device's name for people."""
    name = _at(facts, "device", "name")
    return None if name is None else str(name)


def describe(
    config: Mapping[str, Any],
    facts: Mapping[str, Any],
    metrics: Mapping[str, float],
    state: str,
    run_dir: Path,
) -> str:
    """The description of a run, in Markdown.

    Args:
        config: The resolved experiment.
        facts: As `Tracker.start` gets them.
        metrics: The last ones; {} before the first generation.
        state: How the search stands.
        run_dir: Where its files are.
    """
    lines = [_headline(facts, metrics, state), "", *_table(config, facts, metrics)]
    lines += ["", f"Everything else is in `{run_dir}` (`loopgene show {run_dir.name}`)."]
    return "\n".join(lines)


def _headline(facts: Mapping[str, Any], metrics: Mapping[str, float], state: str) -> str:
    original_s = _at(facts, "original", "latency_s")
    if original_s is None or "latency/best_ms" not in metrics:
        return f"**{state}**"
    best_s = metrics["latency/best_ms"] / 1e3
    return (
        f"**{original_s / best_s:.2f}x** ({state}): {time_text(original_s)} → "
        f"{time_text(best_s)}, sum of the measured kernels"
    )


def _table(
    config: Mapping[str, Any], facts: Mapping[str, Any], metrics: Mapping[str, float]
) -> list[str]:
    shape = _at(config, "model", "input_shape")
    sites = facts.get("sites")
    end_to_end = metrics.get("final/end_to_end_speedup")
    elapsed_s = metrics.get("search/elapsed_s")
    rows = {
        "network": _joined(_at(config, "model", "spec"), shape and "x".join(map(str, shape))),
        "convolutions searched": len(sites) if isinstance(sites, list | tuple) else sites,
        "device": _joined(device_name(facts), _at(config, "backend", "name")),
        "strategy": _joined(_at(config, "search", "strategy"), _at(config, "search", "mode")),
        "whole network": end_to_end and f"{end_to_end:.2f}x, measured end to end",
        "candidates": metrics.get("search/evaluations"),
        "searched for": elapsed_s and span_text(elapsed_s),
    }
    known = {key: value for key, value in rows.items() if value}
    cells = (f"{value:g}" if isinstance(value, float) else value for value in known.values())
    return ["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in zip(known, cells, strict=True))]


def _joined(*parts: Any) -> str:
    return ", ".join(str(part) for part in parts if part)


def _at(data: Mapping[str, Any], *keys: str) -> Any:
    """A value of nested plain data; None where a part is missing."""
    for key in keys:
        if not isinstance(data, Mapping) or key not in data:
            return None
        data = data[key]
    return data
