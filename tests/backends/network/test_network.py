"""Compiled networks compute what PyTorch computes, with BatchNorm and epilogues fused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from backends.network import compile_network
from backends.network.capture import capture
from backends.network.fusion import CapturedNetwork
from genomes.errors import ModelError
from genomes.gene import Gene
from genomes.genome import Genome
from genomes.sites import find_sites, transform
from tests.backends.network.networks import GENES, SHAPE, TARGET, Block, check, unscheduled


def site_calls(captured: CapturedNetwork) -> list[tuple[str, bool, str]]:
    """(site, whether it adds a residual, activation) of every call, in order."""
    nodes = captured.program.graph.nodes
    calls = [n.args for n in nodes if n.target is torch.ops.loopgene.site.default]
    return [(captured.kernels[a[2]].name, a[1] is not None, a[4]) for a in calls]


@pytest.mark.parametrize("genes", [{}, GENES], ids=["original", "transformed"])
def test_network_agrees_with_torch(genes: dict[str, tuple[Gene, ...]]) -> None:
    torch.manual_seed(0)
    model = Block().eval()
    check(transform(model, find_sites(model, SHAPE), Genome.of(genes)))


def test_followers_are_fused() -> None:
    captured = capture(Block(), SHAPE)
    assert site_calls(captured) == [
        ("stem", False, "relu6"),
        ("first", False, "silu"),
        ("second", False, ""),
        ("shortcut", True, "relu"),
        ("twice", False, ""),
        ("twice", True, ""),
    ]


def test_batch_norm_of_repeated_channels_stays_where_scales_differ() -> None:
    model = Block().eval()
    genome = Genome.of({"stem": GENES["stem"]})
    captured = capture(transform(model, find_sites(model, SHAPE), genome), SHAPE)
    norms = [n for n in captured.program.graph.nodes if n.target is torch.ops.aten.mul.Tensor]
    assert len(norms) == 2  # after `stem`, and after `twice`, which is called twice


def test_capture_leaves_the_model_alone() -> None:
    model = Block().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    capture(model, SHAPE)
    assert model.training
    assert isinstance(model.stem, nn.Conv2d)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_convolutions_that_are_no_sites_are_compiled_too() -> None:
    class Sizes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.conv(x)[:, :, ::2])

    check(Sizes())


@pytest.mark.parametrize("genes", [{}, {"other": GENES["first"]}])
def test_a_network_may_read_the_geometry_of_its_convolutions(
    genes: dict[str, tuple[Gene, ...]],
) -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)
            self.other = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x) if self.conv.stride == (1, 1) else x
            return self.other(y) * self.other.out_channels

    model = Reader()
    check(transform(model, find_sites(model, SHAPE), Genome.of(genes)).eval())


def test_data_dependent_control_flow_is_one_clear_error() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x) if x.sum() > 0 else x

    with pytest.raises(
        ModelError, match=r"torch\.export cannot trace the network: .*control flow"
    ):
        capture(Branch(), SHAPE)


def test_exported_library_runs_with_tvm_alone(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    compiled = compile_network(model, SHAPE, TARGET, unscheduled)
    compiled.export_library(tmp_path / "network.so")
    x = torch.randn(SHAPE)
    np.save(tmp_path / "x.npy", x.numpy())
    script = (
        "import numpy as np, tvm; from tvm import relax; "
        "library = tvm.runtime.load_module('network.so'); "
        "main = relax.VirtualMachine(library, tvm.cpu())['main']; "
        "np.save('y.npy', main(tvm.runtime.tensor(np.load('x.npy'))).numpy())"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    with torch.no_grad():
        expected = model(x).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("channels", "size"), [(256, 12), (64, 32), (3, 5)])
def test_reductions_of_every_size_are_scheduled(channels: int, size: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, channels, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    check(model, (1, 3, size, size))


def test_a_network_is_compiled_for_this_machine_by_default() -> None:
    torch.manual_seed(0)
    model = Block().eval()
    x = torch.randn(SHAPE)
    with torch.no_grad():
        expected = model(x).numpy()
    result = compile_network(model, SHAPE)(x.numpy())
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)
