"""The boards that are known by name; another one is a few lines here, or a target of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

AARCH64 = "aarch64-linux-gnu"
CUDA = "/cuda"
"""What follows the name of a board where its GPU is meant."""


@dataclass(frozen=True)
class Board:
    """A board's CPU and, where it has one that TVM can use, its GPU.

    Attributes:
        title: For people.
        mcpu: LLVM's name of the CPU.
        cores: CPU cores, of which all run a kernel unless said otherwise.
        arch: The GPU's architecture for CUDA, "sm_87"; None without one that nvcc 13 compiles for.
    """

    title: str
    mcpu: str
    cores: int
    arch: str | None = None

    def cuda(self) -> dict[str, Any]:
        """The GPU's part of a TVM target."""
        return {
            "kind": "cuda",
            "arch": self.arch,
            "max_threads_per_block": 1024,
            "max_shared_memory_per_block": 48 << 10,
            "registers_per_block": 65536,
            "thread_warp_size": 32,
        }


PRESETS: Mapping[str, Board] = MappingProxyType(
    {
        "raspberry-pi-3": Board("Raspberry Pi 3", "cortex-a53", 4),
        "raspberry-pi-4": Board("Raspberry Pi 4", "cortex-a72", 4),
        "raspberry-pi-5": Board("Raspberry Pi 5", "cortex-a76", 4),
        "jetson-nano": Board("NVIDIA Jetson Nano", "cortex-a57", 4),
        "jetson-orin-nano": Board("NVIDIA Jetson Orin Nano", "cortex-a78ae", 6, "sm_87"),
        "jetson-agx-orin": Board("NVIDIA Jetson AGX Orin 64GB", "cortex-a78ae", 12, "sm_87"),
        "aarch64": Board("any 64-bit ARM board", "generic", 4),
    }
)


def preset_names() -> list[str]:
    """All names that `board_target` knows by itself, GPUs after their boards."""
    names: list[str] = []
    for name, board in PRESETS.items():
        names += [name] if board.arch is None else [name, name + CUDA]
    return names
