"""Kernels for boards are made of NEON's vectors; that they compute the right thing is test_arm."""

from __future__ import annotations

import re

import pytest

from backends.boards import board_target
from backends.devices import cpu_features
from backends.lowering import build_kernel, default_schedule
from tests.backends.lowering.kernels import after, conv, gene

FORMS = {
    "dense": conv(16, 16, 8),
    "pointwise": conv(16, 32, 8, kernel=1),
    "strided": conv(16, 16, 9, stride=(2, 2)),
    "depthwise": after(conv(16, 16, 8), gene("depthwise")),
    "grouped": after(conv(32, 32, 8), gene("group", over="co", groups=4, layout="interleaved")),
    "bottleneck": after(conv(16, 16, 8), gene("bottleneck", loop="co", factor=2)),
    "two statements": after(conv(16, 32, 8), gene("split_domain", loop="co", parts=2)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("board", ["raspberry-pi-3", "jetson-orin-nano", "aarch64"])
def test_default_schedules_multiply_four_lanes_at_once(board, form):
    target = board_target(board)
    nest = default_schedule(FORMS[form], cpu_features(target, target["num-cores"]))
    assembly = build_kernel(nest, target).module.inspect_source("asm")
    vectors = len(re.findall(r"\bfmla\s+v\d+\.4s", assembly))
    scalars = len(re.findall(r"\bfmadd\s+s\d+", assembly))
    assert vectors > scalars
