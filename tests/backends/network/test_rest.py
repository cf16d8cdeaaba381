"""What is no site: dense layers, concatenations, BatchNorm that stands alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from backends.network import compile_network
from backends.network.capture import capture
from backends.network.parts import Cuts, find_cuts, greatest_divisor
from backends.network.rest import schedule_rest
from tests.backends.network.networks import TARGET, batch_norm, check, unscheduled

ATEN = torch.ops.aten


class Dense(nn.Module):
    """A dense block: BatchNorm and ReLU read all before them, by way of concatenations."""

    def __init__(self, channels: int, growth: int, layers: int) -> None:
        super().__init__()
        widths = [channels + i * growth for i in range(layers)]
        self.norms = nn.ModuleList(batch_norm(width) for width in widths)
        self.convs = nn.ModuleList(nn.Conv2d(width, growth, 3, padding=1) for width in widths)
        self.last = batch_norm(channels + layers * growth)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(torch.relu(norm(x)))], 1)
        return torch.relu(self.last(x))


def targets(model: nn.Module, shape: tuple[int, ...]) -> list[object]:
    return [n.target for n in capture(model, shape).program.graph.nodes]


@pytest.mark.parametrize(
    ("channels", "growth", "size"),
    [(8, 4, 8), (3, 5, 7), (64, 32, 32)],
    ids=["vectors", "odd", "parallel"],
)
def test_a_dense_block_agrees_with_torch(channels: int, growth: int, size: int) -> None:
    check(Dense(channels, growth, 3), (1, channels, size, size))


def test_several_images() -> None:
    check(Dense(4, 4, 2), (2, 4, 6, 6))


def test_concatenations_of_a_dense_block_read_the_layers() -> None:
    nodes = capture(Dense(8, 4, 3), (1, 8, 8, 8)).program.graph.nodes
    joined = [n for n in nodes if n.target is ATEN.cat.default]
    assert [len(n.args[0]) for n in joined] == [2, 3, 4]
    assert all(len(n.users) == 1 for n in joined)


def test_a_concatenation_has_no_more_than_so_many_parts() -> None:
    nodes = capture(Dense(4, 2, 20), (1, 4, 4, 4)).program.graph.nodes
    joined = [len(n.args[0]) for n in nodes if n.target is ATEN.cat.default]
    assert joined == [*range(2, 17), *range(2, 7)]


def test_concatenations_along_other_axes_stay() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            wide = torch.cat([x, self.conv(x)], dim=-1)
            high = torch.cat([wide, wide.neg()], dim=2)
            return torch.cat([high, torch.cat([high, high], dim=-3)], 1)

    check(Both(), (1, 4, 6, 6))
    nodes = capture(Both(), (1, 4, 6, 6)).program.graph.nodes
    assert [len(n.args[0]) for n in nodes if n.target is ATEN.cat.default] == [2, 2, 3]


def test_batch_norm_is_one_multiplication_and_one_addition() -> None:
    found = targets(nn.Sequential(batch_norm(3), nn.Conv2d(3, 4, 1)), (1, 3, 8, 8))
    assert ATEN._native_batch_norm_legit_no_training.default not in found
    assert found.count(ATEN.mul.Tensor) == found.count(ATEN.add.Tensor) == 1


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_that_is_called_twice(affine: bool) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(4, affine=affine, eps=0.1)
            self.norm.running_mean.copy_(torch.arange(4.0))
            self.norm.running_var.copy_(1 + torch.arange(4.0))
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(torch.relu(self.norm(x))))

    model = Twice()
    check(model, (1, 4, 6, 6))
    assert ATEN._native_batch_norm_legit_no_training.default not in targets(model, (1, 4, 6, 6))


def test_statistics_that_something_else_reads_stay() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = batch_norm(4)
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.norm(x)) + self.norm.running_mean.reshape(1, 4, 1, 1)

    check(Reader(), (1, 4, 6, 6))
    found = targets(Reader(), (1, 4, 6, 6))
    assert ATEN._native_batch_norm_legit_no_training.default in found


@pytest.mark.parametrize("outputs", [10, 16, 37, 1000])
@pytest.mark.parametrize("batch", [1, 3])
def test_dense_layers_agree_with_torch(outputs: int, batch: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 24, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    check(nn.Sequential(model, nn.Linear(96, outputs)), (batch, 3, 4, 4))


def scheduled(*parts: int) -> tuple[object, object]:
    """(the only block of relu(concatenation), the function with its schedule)."""
    import tvm
    from tvm import s_tir, te, topi

    inputs = [te.placeholder((1, count, 32, 32), name=f"p{i}") for i, count in enumerate(parts)]
    output = topi.nn.relu(topi.concatenate(inputs, axis=1))
    function = te.create_prim_func([*inputs, output])
    sch = s_tir.Schedule(function)
    sch.compute_inline("T_concat")
    block = sch.get(sch.get_sblock("compute"))
    return block, schedule_rest(tvm.IRModule({"main": function}), 16)["main"]


def test_every_part_has_loops_without_a_choice() -> None:
    block, function = scheduled(16, 8, 40)
    assert find_cuts(block) == Cuts(1, ((0, 16), (16, 24), (24, 64)))
    text = function.script()
    assert "if_then_else" not in text
    assert text.count("T.parallel(T.int64(8))") + text.count("T.parallel(8)") == 1
    assert text.count("T.vectorized") == 3


def test_a_small_concatenation_runs_in_one_thread() -> None:
    _, function = scheduled(8, 8)
    assert "parallel" not in function.script()


@pytest.mark.parametrize(("number", "most", "found"), [(48, 8, 8), (125, 8, 5), (7, 4, 1)])
def test_greatest_divisor(number: int, most: int, found: int) -> None:
    assert greatest_divisor(number, most) == found


def test_the_model_keeps_its_tensors() -> None:
    model = nn.Sequential(batch_norm(3), nn.Conv2d(3, 4, 1))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    compiled = compile_network(model, (1, 3, 8, 8), TARGET, unscheduled)
    assert np.isfinite(compiled(np.ones((1, 3, 8, 8), np.float32))).all()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
