"""The other ways to run a PyTorch module on this GPU, each as a function without arguments.

Convolutions are cuDNN's, which may try its algorithms once (`cudnn.benchmark`).  What is said to
be float32 computes in float32; what is said to be TF32 may round the factors to 10 bits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.bench.command import BenchError
from engine.bench.peers import Peer, compiled_once

if TYPE_CHECKING:
    from torch import Tensor, nn


def eager(
    module: nn.Module, x: Tensor, *, channels_last: bool = False, tf32: bool = False
) -> Peer:
    """PyTorch as it comes, with weights and input in NCHW or NHWC."""
    import torch

    layout = torch.channels_last if channels_last else torch.contiguous_format
    moved = _moved(module).to(memory_format=layout)  # type: ignore[call-overload]
    return _peer(moved, x.cuda().contiguous(memory_format=layout), tf32)


def compiled(module: nn.Module, x: Tensor, *, mode: str = "default", tf32: bool = False) -> Peer:
    """torch.compile in one of its modes; "reduce-overhead" replays a CUDA graph."""
    return _peer(compiled_once(_moved(module), mode=mode), x.cuda(), tf32)


def _moved(module: nn.Module) -> nn.Module:
    import torch

    if not torch.cuda.is_available():
        raise BenchError(
            "this PyTorch cannot use a GPU, and its times are what is compared with; install the "
            "build of torch for CUDA"
        )
    return copy.deepcopy(module).cuda()


def _peer(call: Callable[[Tensor], Tensor], x: Tensor, tf32: bool) -> Peer:
    import torch

    torch.backends.cudnn.benchmark = True

    def forward() -> Tensor:
        # For the whole process, in which others compute otherwise.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        with torch.no_grad():
            return call(x)

    def run() -> None:
        forward()
        torch.cuda.synchronize()

    # Algorithms are chosen and graphs recorded in the first calls.
    for _ in range(3):
        run()
    return run, forward().cpu().numpy()
