"""Small networks with everything that can follow a convolution, compared with torch."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from backends.network import compile_network
from genomes.gene import Gene
from genomes.nest import LoopNest

TARGET = {"kind": "llvm", "num-cores": 2}
SHAPE = (1, 3, 8, 8)


def unscheduled(nest: LoopNest) -> LoopNest:
    return nest


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """A BatchNorm as after training: every channel has its own statistics."""
    norm = nn.BatchNorm2d(channels)
    generator = torch.Generator().manual_seed(channels)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
        tensor.copy_(torch.randn(channels, generator=generator))
    norm.running_var.copy_(0.5 + torch.rand(channels, generator=generator))
    return norm


class Block(nn.Module):
    """Residual blocks with every kind of follower."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.stem_norm = batch_norm(8)
        self.first = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.first_norm = batch_norm(8)
        self.second = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.second_norm = batch_norm(16)
        self.shortcut = nn.Conv2d(8, 16, 1, stride=2)
        self.twice = nn.Conv2d(16, 16, 1)
        self.twice_norm = batch_norm(16)
        self.classifier = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu6(self.stem_norm(self.stem(x)))
        y = functional.silu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        y += self.shortcut(x)
        y = torch.relu_(y)
        y = self.twice_norm(self.twice(y)) + self.twice(y)
        y = functional.max_pool2d(y, 2) + functional.avg_pool2d(y, 2)
        return self.classifier(y.mean((2, 3)))


GENES = {
    "stem": (Gene.of("bottleneck", loop="co", factor=2),),
    "first": (Gene.of("group", over="co", groups=4, layout="interleaved"),),
    "second": (
        Gene.of("split_domain", loop="co", parts=2),
        Gene.of("bottleneck", 1, loop="ho", factor=2),
    ),
    "twice": (Gene.of("bottleneck", loop="wo", factor=2),),
}


def check(model: nn.Module, shape: tuple[int, ...] = SHAPE, **options: int) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    compiled = compile_network(model, shape, TARGET, unscheduled, **{"lanes": 4, **options})
    with torch.no_grad():
        expected = model.eval()(x).numpy()
    np.testing.assert_allclose(compiled(x.numpy()), expected, rtol=1e-4, atol=1e-4)
