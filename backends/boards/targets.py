"""Targets of boards, validated: TVM itself accepts names that do not exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.base import BackendError
from backends.boards.presets import AARCH64, CUDA, PRESETS, preset_names
from backends.devices import cpu_target, host
from genomes.suggest import nearest

NATIVE = "native"
"""This machine's own CPU, or one that runs the same code."""

_CPU_KEYS = ("kind", "mtriple", "mcpu", "mattr", "num-cores")
_CUDA_KEYS = (
    "kind",
    "arch",
    "host",
    "max_num_threads",
    "max_threads_per_block",
    "max_shared_memory_per_block",
    "registers_per_block",
    "thread_warp_size",
    "l2_cache_size_bytes",
)


def board_target(spec: str | Mapping[str, Any], threads: int | None = None) -> dict[str, Any]:
    """The target of a board, for `tvm.target.Target`.

    Args:
        spec: The name of a preset ("raspberry-pi-4", "jetson-orin-nano/cuda"), "native", one of
            TVM's target tags ("raspberry-pi/4b-aarch64"), or a mapping with the keys `mtriple`,
            `mcpu`, `mattr` and `num-cores`; for CUDA `kind`, `arch`, limits, and such a mapping
            as `host`.
        threads: Threads that kernels run on; all cores of the board when not given.

    Returns:
        {"kind": "llvm", "mtriple", "mcpu", "mattr" if any, "num-cores"}, or {"kind": "cuda",
        "arch", limits, "host": such a mapping}.

    Raises:
        BackendError: A name is unknown, or it is not known on how many threads kernels run.
    """
    if threads is not None and threads < 1:
        raise BackendError(f"threads = {threads}: a kernel runs on at least one thread.")
    if not isinstance(spec, str):
        return _checked(spec, threads, "the target")
    if spec == NATIVE:
        return cpu_target(threads or host().cores)
    name, cuda = spec.removesuffix(CUDA), spec.endswith(CUDA)
    board = PRESETS.get(name)
    if board is None:
        return _checked(_tag(spec), threads, f"target {spec!r}")
    cpu = cpu_target(threads or board.cores, board.mcpu, mtriple=AARCH64)
    if not cuda:
        return cpu
    if board.arch is None:
        raise BackendError(
            f"The {board.title} has no GPU that nvcc 13 compiles for; its CPU is {name!r}."
        )
    return board.cuda() | {"host": cpu}


def _tag(name: str) -> Mapping[str, Any]:
    """What one of TVM's tags stands for."""
    from tvm.target import Target
    from tvm.target.tag import list_tags

    tags = {str(tag) for tag in list_tags()}
    if name not in tags:
        hint = nearest(name, [*preset_names(), NATIVE, *sorted(tags)])
        presets = ", ".join(preset_names())
        raise BackendError(f"Unknown target {name!r}; {hint} Presets: {presets}.")
    return _plain(Target(name).export())


def _plain(exported: Mapping[str, Any]) -> dict[str, Any]:
    """What a target says of the device, without what TVM derives from it."""
    kind = str(exported["kind"])
    keys = _CUDA_KEYS if kind == "cuda" else _CPU_KEYS
    given = {key: exported[key] for key in keys if key in exported}
    # A CPU tag names its own CPU once more as its host.
    if "host" in given:
        given["host"] = _plain(given["host"])
    if "mattr" in given:
        given["mattr"] = [str(attribute) for attribute in given["mattr"]]
    return {k: v if isinstance(v, int | dict | list) else str(v) for k, v in given.items()}


def _checked(spec: Mapping[str, Any], threads: int | None, whose: str) -> dict[str, Any]:
    kind = spec.get("kind", "llvm")
    known = {"llvm": _CPU_KEYS, "cuda": _CUDA_KEYS}.get(kind)
    if known is None:
        raise BackendError(f"{whose} has kind {kind!r}; boards are of kind 'llvm' or 'cuda'.")
    for key in spec:
        if key not in known:
            raise BackendError(f"{whose} has an unknown key {key!r}; {nearest(key, known)}")
    return (_checked_cuda if kind == "cuda" else _checked_cpu)(spec, threads, whose)


def _checked_cpu(spec: Mapping[str, Any], threads: int | None, whose: str) -> dict[str, Any]:
    triple, attributes = spec.get("mtriple"), spec.get("mattr", ())
    if isinstance(attributes, str) or not all(isinstance(a, str) for a in attributes):
        raise BackendError(f"mattr of {whose} must be a list of names, not {attributes!r}.")
    if triple is not None and str(triple).startswith(("armv", "arm-", "thumb")):
        raise BackendError(
            f"{whose} is for 32-bit ARM ({triple}), for which there are no vectors; give the"
            f" board a 64-bit system and take a preset: {', '.join(preset_names())}."
        )
    cores = threads or spec.get("num-cores") or (host().cores if triple is None else None)
    if not isinstance(cores, int):
        raise BackendError(f"{whose} does not say how many cores there are: set threads.")
    return cpu_target(cores, spec.get("mcpu"), attributes, triple)


def _checked_cuda(spec: Mapping[str, Any], threads: int | None, whose: str) -> dict[str, Any]:
    from tvm.target import Target

    if not str(spec.get("arch", "")).startswith("sm_"):
        raise BackendError(f"{whose} needs the GPU's arch, like 'sm_87'.")
    if not isinstance(spec.get("host"), Mapping):
        raise BackendError(
            f"{whose} needs the CPU of the board as its host, like {{'mtriple': '{AARCH64}',"
            " 'mcpu': 'cortex-a78ae', 'num-cores': 6}."
        )
    target = {**spec, "host": _checked_cpu(spec["host"], threads, f"the host of {whose}")}
    try:
        Target(target)
    except (ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise BackendError(f"TVM does not take {whose}: {reason}") from error
    return target
