from __future__ import annotations

import torch
from torch import nn

from engine.bench.peers import compiled_once


def test_every_module_is_compiled_and_none_again() -> None:
    """PyTorch gives up compiling the ninth of what has one code object, without an error."""
    graphs = []

    def backend(graph, inputs):
        assert all(isinstance(x, torch.Tensor) for x in inputs)
        graphs.append(graph)
        return graph.forward

    modules = [nn.Conv2d(3, 2 + n, 3) for n in range(12)]
    inputs = [torch.randn(1, 3, 5 + n, 5) for n in range(12)]
    with torch.no_grad():
        compiled = [compiled_once(module, backend=backend) for module in modules]
        for _ in range(2):
            for module, call, x in zip(modules, compiled, inputs, strict=True):
                torch.testing.assert_close(call(x), module(x))
    assert len(graphs) == len(modules)
