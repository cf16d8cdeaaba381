"""What a search measures is what runs in a network, down to the instructions."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from backends.devices import cpu_features, cpu_target
from backends.lowering import build_kernel, default_schedule
from backends.lowering.epilogue import Epilogue
from backends.network import compile_network
from backends.network.capture import capture
from backends.network.layouts import choose_layouts
from genomes.gene import Gene
from genomes.genome import Genome
from genomes.sites import find_sites, transform

SHAPE = (1, 32, 16, 16)


def tasks(module: Any) -> list[list[str]]:
    """The instructions of every function that threads run, labels aside."""
    found: list[list[str]] = []
    inside = False
    for line in module.inspect_source("asm").splitlines():
        if re.match(r"\.L__tvm_parallel_lambda[.\d]*:", line):
            found.append([])
            inside = True
        elif line.startswith(".Lfunc_end"):
            inside = False
        elif inside and re.match(r"\t[a-z]", line):
            found[-1].append(re.sub(r"\.L\w+", "", line))
    return found


@pytest.mark.parametrize("genes", [(), (Gene.of("split_domain", loop="co", parts=2),)])
def test_a_kernel_in_a_network_is_the_one_that_was_measured(genes) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()).eval()
    genome = Genome.of({"0": genes} if genes else {})
    network = transform(model, find_sites(model, SHAPE), genome).eval()
    target = cpu_target(2)
    features = cpu_features(target, 2)
    (executable,) = compile_network(network, SHAPE, target).executable.mod.imports
    captured = capture(network, SHAPE)
    choose_layouts(captured, features.lanes)
    (kernel,) = captured.kernels
    nest = kernel.compiled(default_schedule(kernel.measured, features))
    alone = tasks(build_kernel(nest, target, Epilogue(activation="relu")).module)
    assert len(alone) >= len(nest.statements)
    assert all(len(task) > 50 for task in alone)
    in_network = tasks(executable)
    assert all(task in in_network for task in alone)
