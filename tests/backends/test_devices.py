from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from backends import devices
from backends.base import BackendError
from backends.devices import Host, cpu_features, cpu_target, describe_cpu, host, target_text

HASWELL_FLAGS = "sse sse2 pni sse4_1 sse4_2 ssse3 avx avx2 bmi1 bmi2 f16c fma"


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be another machine."""

    def pretend(**changes) -> None:
        changed = replace(host(), **changes)
        monkeypatch.setattr(devices, "host", lambda: changed)

    return pretend


def test_the_target_is_this_machine_unless_said_otherwise():
    from tvm.target import Target

    target = cpu_target(2)
    assert (target["kind"], target["num-cores"]) == ("llvm", 2)
    assert str(Target(target).attrs["mcpu"]) == target["mcpu"]
    assert target_text(target) == target_text(dict(reversed(target.items())))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mcpu": "znver44"}, r"Unknown mcpu 'znver44' .* did you mean 'znver4'\?"),
        ({"mcpu": "native"}, r"Unknown mcpu 'native' .* Leave mcpu unset for this machine"),
        ({"mattr": ["+avx521f"]}, r"Unknown mattr '\+avx521f' .* did you mean 'avx512f'\?"),
        ({"mattr": ["avx2"]}, r"must begin with \+ or -: '\+avx2'"),
        ({"mtriple": "aarch65-linux-gnu"}, r"Unknown architecture .* did you mean 'aarch64'\?"),
        (
            {"mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a27"},
            r"Unknown mcpu 'cortex-a27' for aarch64-linux-gnu; did you mean",
        ),
    ],
)
def test_names_that_llvm_does_not_know_are_refused(arguments, message):
    with pytest.raises(BackendError, match=message) as caught:
        cpu_target(2, **arguments)
    assert len(str(caught.value)) < 500


def test_code_that_this_machine_cannot_run_is_refused(machine):
    machine(flags=frozenset(HASWELL_FLAGS.split()))
    assert cpu_target(1, "haswell") == {"kind": "llvm", "mcpu": "haswell", "num-cores": 1}
    with pytest.raises(BackendError, match=r"cannot run code for mcpu 'skylake-avx512'.*avx512f"):
        cpu_target(1, "skylake-avx512")


def test_instruction_sets_that_a_hypervisor_hides_are_left_out(machine, monkeypatch):
    from tvm.target import codegen

    monkeypatch.setattr(codegen, "llvm_get_system_cpu", lambda: "skylake-avx512")
    machine(flags=frozenset(HASWELL_FLAGS.split()))
    target = cpu_target(1)
    assert "-avx512f" in target["mattr"]
    assert cpu_features(target, 1).lanes == 8


@pytest.mark.parametrize(
    ("target", "lanes", "registers"),
    [
        ({"kind": "llvm", "mcpu": "znver4"}, 16, 32),
        ({"kind": "llvm", "mcpu": "haswell"}, 8, 16),
        ({"kind": "llvm", "mcpu": "x86-64"}, 4, 16),
        ({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"}, 4, 32),
    ],
)
def test_vector_registers_are_those_of_the_target(target, lanes, registers):
    features = cpu_features(target, 3)
    assert (features.lanes, features.registers, features.threads) == (lanes, registers, 3)
    assert 8 << 10 <= features.l1_bytes < features.l2_bytes


def test_the_fingerprint_is_the_same_in_another_process():
    here = describe_cpu(cpu_target(1), 1)
    script = (
        "from backends.devices import *; print(describe_cpu(cpu_target(1), 1).fingerprint, end='')"
    )
    there = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert there.stdout == here.fingerprint


def test_what_changes_a_latency_changes_the_fingerprint(machine):
    prints = {describe_cpu(cpu_target(1), 1).fingerprint}
    prints.add(describe_cpu(cpu_target(1), 2).fingerprint)
    for change in ({"governor": "powersave"}, {"model": "another"}, {"caches": {"L1": 1}}):
        machine(**change)
        prints.add(describe_cpu(cpu_target(1), 1).fingerprint)
    assert len(prints) == 5


CPU_INFO_ARM = """\
processor\t: 0
Features\t: fp asimd evtstrm crc32
CPU implementer\t: 0x41
CPU part\t: 0xd08

processor\t: 1
Features\t: fp
"""


def fake_system(folder: Path) -> None:
    for cpu, siblings in ((0, "0-1"), (1, "0-1"), (2, "2-3"), (3, "2-3")):
        topology = folder / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{siblings}\n")
    caches = (("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2M"))
    for index, (level, kind, size) in enumerate(caches):
        cache = folder / "cpu0" / "cache" / f"index{index}"
        cache.mkdir(parents=True)
        shared = "0-3" if level == "2" else "0-1"
        facts = (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", shared))
        for name, content in facts:
            (cache / name).write_text(f"{content}\n")
    (folder / "cpu0" / "cpufreq").mkdir()
    (folder / "cpu0" / "cpufreq" / "scaling_governor").write_text("schedutil\n")


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 2), ("100000 100000", 1), ("", 2)])
def test_the_host_is_read_from_the_system(tmp_path, monkeypatch, quota, cores):
    fake_system(tmp_path)
    (tmp_path / "cpuinfo").write_text(CPU_INFO_ARM)
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(devices, "_SYSTEM", tmp_path)
    monkeypatch.setattr(devices, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(devices, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(devices.os, "cpu_count", lambda: 4)
    assert devices.host.__wrapped__() == Host(
        model="ARM 0x41:0xd08",
        flags=frozenset({"fp", "asimd", "evtstrm", "crc32"}),
        caches={"L1": 48 << 10, "L2": 2 << 20},
        cores=cores,
        logical=4,
        together=True,
        governor="schedutil",
    )


@pytest.mark.parametrize(
    ("listed", "usable", "together"),
    [("0-3", {0, 3}, True), ("0,2-3", {0, 3}, True), ("0-1", {0, 3}, False), ("", {0}, False)],
)
def test_cores_are_together_if_they_have_a_cache_in_common(
    tmp_path, monkeypatch, listed, usable, together
):
    fake_system(tmp_path)
    for path in tmp_path.glob("cpu0/cache/*/shared_cpu_list"):
        path.write_text(listed)
    monkeypatch.setattr(devices, "_SYSTEM", tmp_path)
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: usable)
    assert devices.host.__wrapped__().together is together


def test_a_system_that_tells_nothing_is_a_machine_all_the_same(tmp_path, monkeypatch):
    for name in ("_SYSTEM", "_CPU_INFO", "_QUOTA"):
        monkeypatch.setattr(devices, name, tmp_path / "missing")
    unknown = devices.host.__wrapped__()
    assert unknown.cores >= 1
    assert (unknown.flags, dict(unknown.caches), unknown.governor) == (frozenset(), {}, None)
    assert not unknown.together
