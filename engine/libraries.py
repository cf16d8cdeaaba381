"""Whole networks on a device that is not this machine: compiled here, checked and timed there."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.base import BackendError, Failed, FailureKind, LibraryTarget, NoDeviceError
from backends.workers import Finished, WorkerPool, WorkerSpec
from backends.workers.outcomes import ONE_THREAD, failure_of
from engine.config import ExperimentConfig
from engine.network import (
    LIMITS_S,
    TOLERANCE,
    NetworkTimes,
    Variant,
    build_model,
    compile_variant,
    network_input,
    relative_error,
    wrong,
)
from engine.turns import quiet

if TYPE_CHECKING:
    from numpy.typing import NDArray

ATTEMPTS = 2
"""A board that fails with several networks may be to blame itself: another one is asked."""

logger = logging.getLogger(__name__)


def measure_libraries(
    config: ExperimentConfig,
    variants: Mapping[str, Variant],
    target: LibraryTarget,
    rounds: int = 21,
) -> dict[str, NetworkTimes | Failed]:
    """Compile whole networks here, check them and time them in turns on one device.

    Args:
        config: Names the network and its input shape.
        variants: What is measured, by name.
        target: From the backend.
        rounds: Timings of each network, of which the quieter half is kept.

    Returns:
        One answer for each variant: a network that cannot be compiled, does not run there or
        computes something else is `Failed`, and the others are measured without it.
    """
    x = network_input(config)
    with tempfile.TemporaryDirectory(prefix="loopgene-networks-") as folder:
        built = _build(config, variants, target, Path(folder))
        answers: dict[str, NetworkTimes | Failed] = {
            name: answer for name, answer in built.items() if isinstance(answer, Failed)
        }
        expected = {n: b for n, b in built.items() if not isinstance(b, Failed)}
        files = {name: Path(folder) / f"{name}.so" for name in expected}

        def measure(names: Mapping[str, Path]) -> dict[str, NetworkTimes | Failed]:
            runs = target.run(names, x, rounds)
            errors = {n: relative_error(run.output, expected[n]) for n, run in runs.items()}
            kept = quiet({n: r.times_s for n, r in runs.items() if errors[n] <= TOLERANCE})
            return {
                n: NetworkTimes(tuple(kept[n]), errors[n]) if n in kept else wrong(errors[n])
                for n in names
            }

        if files:
            answers.update(_together(files, measure))
    return {name: answers[name] for name in variants}


def _together(
    files: Mapping[str, Path],
    measure: Callable[[Mapping[str, Path]], dict[str, NetworkTimes | Failed]],
) -> dict[str, NetworkTimes | Failed]:
    """Measure all on one device; where that fails, those that run alone."""
    answers = _at_once(files, measure)
    if len(files) == 1 or not all(_has_crashed(answer) for answer in answers.values()):
        return answers
    for name, path in files.items():
        answers.update(_at_once({name: path}, measure))
    good = {name: files[name] for name, a in answers.items() if isinstance(a, NetworkTimes)}
    # Times of different boards say nothing about the networks.
    return {**answers, **(_at_once(good, measure) if len(good) > 1 else {})}


def _at_once(
    files: Mapping[str, Path],
    measure: Callable[[Mapping[str, Path]], dict[str, NetworkTimes | Failed]],
) -> dict[str, NetworkTimes | Failed]:
    for _ in range(ATTEMPTS):
        try:
            return measure(files)
        except NoDeviceError as error:
            return dict.fromkeys(files, Failed(FailureKind.QUEUE_TIMEOUT, str(error)))
        except BackendError as error:
            trouble = str(error)
            logger.warning("whole networks were not measured: %s", trouble)
    return dict.fromkeys(files, Failed(FailureKind.CRASHED, trouble))


def _has_crashed(answer: NetworkTimes | Failed) -> bool:
    return isinstance(answer, Failed) and answer.kind is FailureKind.CRASHED


def _build(
    config: ExperimentConfig,
    variants: Mapping[str, Variant],
    target: LibraryTarget,
    folder: Path,
) -> dict[str, NDArray[np.float32] | Failed]:
    """Write every network as a library; gives what PyTorch computes."""
    spec = WorkerSpec(
        function="engine.libraries:build_job",
        limits_s={"build": LIMITS_S["build"]},
        environment=ONE_THREAD,
    )
    # What runs libraries stays here.
    payload = {"config": config, "target": replace(target, run=None), "folder": folder}  # type: ignore[arg-type]
    built: dict[str, NDArray[np.float32] | Failed] = {}
    with WorkerPool(spec) as pool:
        for name, variant in variants.items():
            result = pool.run({**payload, "name": name, "variant": variant})
            built[name] = result.value if isinstance(result, Finished) else failure_of(result)
    return built


def build_job(payload: Mapping[str, Any], _enter: Callable[[str], None]) -> NDArray[np.float32]:
    """Worker side of `measure_libraries`: writes one library, gives PyTorch's output."""
    import torch

    config: ExperimentConfig = payload["config"]
    target: LibraryTarget = payload["target"]
    torch.set_num_threads(1)
    network, compiled = compile_variant(
        build_model(config.model), config, payload["variant"], target
    )
    compiled.export_library(payload["folder"] / f"{payload['name']}.so", target.link)
    with torch.no_grad():
        output: NDArray[np.float32] = network(torch.from_numpy(network_input(config))).numpy()
    return output
