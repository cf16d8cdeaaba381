"""What kernels are compiled for and measured on: CPUs, their features, targets for TVM."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.base import BackendError, Device
from genomes.suggest import nearest

_SYSTEM = Path("/sys/devices/system/cpu")
_CPU_INFO = Path("/proc/cpuinfo")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")

# (LLVM feature, fp32 lanes, vector registers), widest first.
_VECTORS = (
    ("avx512f", 16, 32),
    ("avx", 8, 16),
    ("sse2", 4, 16),
    ("neon", 4, 32),
)
_INSTRUCTION_SETS = re.compile(r"(avx|fma|f16c|sse|ssse|bmi|neon|sve)")
_ARM_NAMES = {"neon": "asimd"}
# Data caches of other machines' cores, on the boards that have them; shared ones as a whole.
_CACHES: Mapping[str, Mapping[str, int]] = {
    "cortex-a53": {"L1": 32 << 10, "L2": 512 << 10},
    "cortex-a57": {"L1": 32 << 10, "L2": 2 << 20},
    "cortex-a72": {"L1": 32 << 10, "L2": 1 << 20},
    "cortex-a76": {"L1": 64 << 10, "L2": 512 << 10},
    "cortex-a78ae": {"L1": 64 << 10, "L2": 256 << 10},
}
_DEFAULT_L1_BYTES = 32 << 10
_DEFAULT_L2_BYTES = 512 << 10


@dataclass(frozen=True)
class CpuFeatures:
    """What a schedule needs to know of a CPU.

    Attributes:
        lanes: fp32 elements of one vector register.
        registers: Vector registers.
        l1_bytes: First-level data cache of one core.
        l2_bytes: Second-level cache of one core.
        cores: Physical cores that this process may use.
        threads: Threads that a kernel runs on.
    """

    lanes: int
    registers: int
    l1_bytes: int
    l2_bytes: int
    cores: int
    threads: int


@dataclass(frozen=True)
class Host:
    """Facts about this machine's CPU, as the operating system tells them.

    Attributes:
        model: Model name with family and model numbers, or implementer and part.
        flags: Names of instruction set extensions, as in /proc/cpuinfo.
        caches: Bytes by "L1", "L2", "L3" of one core; those that are not known are missing.
        cores: Physical cores that this process may use.
        logical: Logical CPUs that this process may use.
        together: Whether they have a cache in common.
        governor: Frequency governor, or None when it cannot be read.
    """

    model: str
    flags: frozenset[str]
    caches: Mapping[str, int]
    cores: int
    logical: int
    together: bool
    governor: str | None


@functools.cache
def host() -> Host:
    """The machine on which this process runs."""
    usable = sorted(os.sched_getaffinity(0))
    info = _cpu_info()
    first = _SYSTEM / f"cpu{usable[0]}"
    cores = {_text(_SYSTEM / f"cpu{i}/topology/thread_siblings_list") or str(i) for i in usable}
    return Host(
        model=_model(info),
        flags=frozenset((info.get("flags") or info.get("Features") or "").split()),
        caches=_caches(first / "cache"),
        cores=min(len(cores), _quota_cores()),
        logical=len(usable),
        together=_together(usable),
        governor=_text(first / "cpufreq/scaling_governor"),
    )


def describe_cpu(target: Mapping[str, Any], threads: int) -> Device:
    """This machine as a device for kernels of `target` that run on `threads` threads.

    The facts are stable from run to run; clock speeds, which are not, are left out.
    """
    import tvm
    from tvm.target import codegen

    machine = host()
    vectors = sorted(f for f in machine.flags if _INSTRUCTION_SETS.match(f) or f == "asimd")
    features = cpu_features(target, threads)
    facts = {
        "kind": "cpu",
        "model": machine.model,
        "llvm_cpu": str(codegen.llvm_get_system_cpu()),
        "flags": vectors,
        "lanes": features.lanes,
        "caches": dict(machine.caches),
        "cores": machine.cores,
        "logical_cpus": machine.logical,
        "threads": threads,
        "governor": machine.governor,
        "tvm": str(tvm.__version__),
        "llvm": int(codegen.llvm_version_major()),
    }
    name = machine.model.split(" (")[0]
    return Device(f"{name}, {threads} thread{'s' if threads > 1 else ''}", facts)


def cpu_target(
    threads: int,
    mcpu: str | None = None,
    mattr: Sequence[str] = (),
    mtriple: str | None = None,
) -> dict[str, Any]:
    """A target for `tvm.target.Target`, validated: TVM itself accepts names that do not exist.

    Args:
        threads: Threads that kernels run on.
        mcpu: LLVM's name of the CPU; None means this machine's, without the instruction sets
            that a hypervisor hides.
        mattr: Features to add or remove: "+avx2", "-avx512f".
        mtriple: Target triple when it is not this machine's; kernels for it cannot run here.

    Raises:
        BackendError: A name is unknown, or this machine cannot run code for `mcpu`.
    """
    from tvm.target import codegen

    triple = mtriple or str(codegen.llvm_get_system_triple())
    base: dict[str, Any] = {"kind": "llvm"}
    if mtriple is not None:
        architectures = [str(name) for name in codegen.llvm_get_targets()]
        if mtriple.split("-")[0] not in architectures:
            hint = nearest(mtriple.split("-")[0], architectures)
            raise BackendError(f"Unknown architecture in mtriple {mtriple!r}; {hint}")
        base["mtriple"] = mtriple
    system = str(codegen.llvm_get_system_cpu())
    name = mcpu or (system if mtriple is None else "generic")
    if not codegen.llvm_is_valid_cpu(name, triple):
        hint = nearest(name, _known_cpus(base))
        own = f" Leave mcpu unset for this machine's own ({system})." if mtriple is None else ""
        raise BackendError(f"Unknown mcpu {name!r} for {triple}; {hint}{own}")
    base["mcpu"] = name
    attributes = [*mattr]
    for attribute in mattr:
        _check_attribute(attribute, base)
    if mtriple is None:
        hidden = _hidden_features(base, attributes)
        if hidden and mcpu is not None:
            raise BackendError(
                f"This machine ({system}) cannot run code for mcpu {name!r}: it lacks"
                f" {', '.join(hidden)}. Leave mcpu unset, or remove them with mattr."
            )
        attributes += [f"-{feature}" for feature in hidden]
    if attributes:
        base["mattr"] = attributes
    return base | {"num-cores": threads}


def cpu_features(target: Mapping[str, Any], threads: int) -> CpuFeatures:
    """What schedules for `target` may use; caches are those of its CPU where they are known."""
    enabled = _features(target)
    lanes, registers = next(
        ((lanes, registers) for name, lanes, registers in _VECTORS if name in enabled), (1, 16)
    )
    here = "mtriple" not in target
    caches = host().caches if here else _CACHES.get(str(target.get("mcpu")), {})
    return CpuFeatures(
        lanes=lanes,
        registers=registers,
        l1_bytes=caches.get("L1", _DEFAULT_L1_BYTES),
        l2_bytes=caches.get("L2", _DEFAULT_L2_BYTES),
        cores=host().cores if here else int(target.get("num-cores", threads)),
        threads=threads,
    )


def target_text(target: Mapping[str, Any]) -> str:
    """A target as canonical text."""
    return json.dumps(dict(target), sort_keys=True, separators=(",", ":"))


def _features(target: Mapping[str, Any]) -> frozenset[str]:
    from tvm.target import Target, codegen

    return frozenset(str(f) for f in codegen.llvm_get_cpu_features(Target(dict(target))))


def _known_cpus(base: Mapping[str, Any]) -> list[str]:
    from tvm.target import Target, codegen

    return [str(name) for name in codegen.llvm_get_cpu_archlist(Target(dict(base)))]


def _check_attribute(attribute: str, base: Mapping[str, Any]) -> None:
    if attribute[:1] not in ("+", "-"):
        raise BackendError(f"mattr {attribute!r} must begin with + or -: '+{attribute}'.")
    known = _known_features(target_text({k: v for k, v in base.items() if k != "mcpu"}))
    if attribute[1:] not in known:
        hint = nearest(attribute[1:], known)
        raise BackendError(f"Unknown mattr {attribute!r} for {base['mcpu']}; {hint}")


@functools.cache
def _known_features(base: str) -> frozenset[str]:
    """Features of any CPU of the architecture; LLVM has no list of its own."""
    content = json.loads(base)
    return frozenset().union(*(_features({**content, "mcpu": c}) for c in _known_cpus(content)))


def _hidden_features(base: Mapping[str, Any], attributes: Collection[str]) -> list[str]:
    """Instruction sets that LLVM would use and that the operating system does not report."""
    flags = {_plain(flag) for flag in host().flags}
    if not flags:
        return []
    target = {**base, "mattr": [*attributes]} if attributes else base
    used = [f for f in _features(target) if _INSTRUCTION_SETS.match(f)]
    return sorted(f for f in used if _plain(_ARM_NAMES.get(f, f)) not in flags)


def _plain(feature: str) -> str:
    """LLVM writes avx512vnni and sse4.1 for what Linux calls avx512_vnni and sse4_1."""
    plain = re.sub(r"[_.]", "", feature)
    return {"pni": "sse3", "bmi1": "bmi"}.get(plain, plain)


def _cpu_info() -> dict[str, str]:
    """The first processor of /proc/cpuinfo."""
    text = _text(_CPU_INFO) or ""
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _model(info: Mapping[str, str]) -> str:
    if "model name" in info:
        family, number = info.get("cpu family", "?"), info.get("model", "?")
        return f"{info['model name']} (family {family}, model {number})"
    if "CPU part" in info:
        return f"ARM {info.get('CPU implementer', '?')}:{info['CPU part']}"
    return os.uname().machine


def _caches(folder: Path) -> dict[str, int]:
    caches: dict[str, int] = {}
    for index in sorted(folder.glob("index*")):
        size = re.fullmatch(r"(\d+)([KM])", _text(index / "size") or "")
        if size and _text(index / "type") in ("Data", "Unified"):
            scale = {"K": 1 << 10, "M": 1 << 20}[size[2]]
            caches[f"L{_text(index / 'level')}"] = int(size[1]) * scale
    return caches


def _together(cpus: Sequence[int]) -> bool:
    """Whether one cache is that of all `cpus`, as far as the system tells."""
    shared = _SYSTEM / f"cpu{cpus[0]}" / "cache"
    lists = (_text(path) or "" for path in shared.glob("index*/shared_cpu_list"))
    return any(set(cpus) <= _numbers(listed) for listed in lists)


def _numbers(ranges: str) -> set[int]:
    """Those of a list of ranges as the kernel writes it: "0-3,8"."""
    ends = (part.split("-") for part in ranges.split(",") if part)
    return {n for end in ends for n in range(int(end[0]), int(end[-1]) + 1)}


def _quota_cores() -> int:
    """Cores that the control group grants, at least one."""
    quota, _, period = (_text(_QUOTA) or "max 100000").partition(" ")
    if quota == "max":
        return os.cpu_count() or 1
    return max(1, round(int(quota) / int(period)))


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
