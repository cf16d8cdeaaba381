from __future__ import annotations

import pytest

from backends.base import BackendError
from backends.boards import PRESETS, board_target
from backends.boards.presets import preset_names
from backends.devices import cpu_features, cpu_target


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_targets_that_tvm_and_llvm_know(name):
    from tvm.target import Target

    target = board_target(name)
    cpu = target.get("host", target)
    board = PRESETS[name.removesuffix("/cuda")]
    assert (cpu["mcpu"], cpu["num-cores"]) == (board.mcpu, board.cores)
    parsed = Target(target)
    assert str(parsed.kind.name) == ("cuda" if name.endswith("/cuda") else "llvm")
    if parsed.kind.name == "cuda":
        assert str(parsed.attrs["arch"]) == board.arch
    features = cpu_features(cpu, cpu["num-cores"])
    assert (features.lanes, features.registers, features.cores) == (4, 32, board.cores)


def test_threads_are_those_that_were_asked_for():
    assert board_target("raspberry-pi-4", 2)["num-cores"] == 2
    assert board_target("jetson-orin-nano/cuda", 1)["host"]["num-cores"] == 1


def test_caches_are_those_of_the_boards_cpu_and_not_of_this_machine():
    features = cpu_features(board_target("raspberry-pi-5"), 4)
    assert (features.l1_bytes, features.l2_bytes) == (64 << 10, 512 << 10)


def test_this_machine_is_a_target_too():
    assert board_target("native", 1) == cpu_target(1)
    assert board_target({"kind": "llvm"}, 1) == cpu_target(1)


def test_a_tag_of_tvm_is_what_tvm_says_it_is():
    assert board_target("raspberry-pi/4b-aarch64") == {
        "kind": "llvm",
        "mtriple": "aarch64-linux-gnu",
        "mcpu": "cortex-a72",
        "mattr": ["+neon"],
        "num-cores": 4,
    }
    orin = board_target("nvidia/jetson-agx-orin-32gb")
    assert (orin["kind"], orin["arch"], orin["host"]["num-cores"]) == ("cuda", "sm_87", 8)


def test_a_mapping_is_checked_and_kept():
    spec = {"mtriple": "aarch64-linux-gnu", "mcpu": "neoverse-n1", "mattr": ["-aes"]}
    assert board_target(spec, 3) == {"kind": "llvm", **spec, "num-cores": 3}
    assert board_target({**spec, "num-cores": 64})["num-cores"] == 64


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("raspbery-pi-4", r"Unknown target 'raspbery-pi-4'; did you mean 'raspberry-pi-4'\?"),
        ("nvidia/jetson-orin-nan", r"did you mean 'nvidia/jetson-orin-nano'\?"),
        ("raspberry-pi-4/cuda", "The Raspberry Pi 4 has no GPU that nvcc 13 compiles for"),
        ("arm/rasp3b", r"target 'arm/rasp3b' is for 32-bit ARM \(armv7l-.*raspberry-pi-3"),
        ("arm/rasp4b64", "does not say how many cores there are: set threads"),
        ("qcom/adreno-opencl-clml", "has kind 'opencl'; boards are of kind 'llvm' or 'cuda'"),
        ({"mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a27"}, "set threads"),
        (
            {"mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a67", "num-cores": 4},
            r"Unknown mcpu 'cortex-a67' for aarch64-linux-gnu; did you mean 'cortex-a\d+'\?$",
        ),
        (
            {"mtriple": "aarch64-linux-gnu", "mattr": ["+noen"], "num-cores": 4},
            r"Unknown mattr '\+noen' for generic; did you mean 'neon'\?",
        ),
        ({"mtriple": "aarch64-linux-gnu", "mattr": "+neon"}, "mattr of the target must be a list"),
        ({"mcpus": "cortex-a72"}, "unknown key 'mcpus'; did you mean 'mcpu'"),
        ({"kind": "cuda", "host": {}}, "needs the GPU's arch, like 'sm_87'"),
        ({"kind": "cuda", "arch": "sm_87"}, "needs the CPU of the board as its host"),
        (
            {"kind": "cuda", "arch": "sm_87", "thread_warp_size": "x", "host": {"num-cores": 1}},
            "TVM does not take the target: .*",
        ),
    ],
)
def test_what_is_not_known_is_one_line(spec, message):
    with pytest.raises(BackendError, match=message) as caught:
        board_target(spec)
    assert "\n" not in str(caught.value)


def test_no_threads_are_refused():
    with pytest.raises(BackendError, match="threads = 0"):
        board_target("raspberry-pi-4", 0)
