"""GPU kernels run on the CPU: every block and thread is an iteration of a serial loop.

What is shown: the computation and all indices, the bounds of the fetches into shared memory and
of the accumulators, and the code of virtual threads, which TVM expands for a CPU as for a GPU.
What is not: that threads wait for each other where they must, that what TVM leaves to the
threads fits the GPU, and the code that nvcc makes. A cooperative fetch stands inside the loops
over the threads that would share its work, so here each of them fetches everything.
"""

from __future__ import annotations

import numpy as np
import torch
import tvm
import tvm_ffi
from tvm import tirx
from tvm.target import Target

from backends.lowering.gpu import lower
from backends.lowering.kernel import pack
from backends.lowering.layout import pack_channels, stored, unpack_channels
from genomes.modules import SiteConv2d
from genomes.nest import LoopNest
from tests.backends.lowering.kernels import TARGET


def serial(mod: tvm.IRModule) -> tvm.IRModule:
    """`mod` with its blocks and threads as serial loops."""
    function = mod["main"]
    body = tvm_ffi.structural_map(function.body, (tirx.For, _unbound))
    return tvm.IRModule({"main": function.with_body(body)})


def _unbound(loop: tirx.For) -> tirx.For:
    if loop.thread_binding is None or str(loop.thread_binding.thread_tag).startswith("vthread"):
        return loop
    kind = tirx.ForKind.SERIAL
    return tirx.For(loop.loop_var, loop.min, loop.extent, kind, loop.body, None, loop.annotations)


def check(nest: LoopNest, seed: int = 0) -> None:
    """The serial form of the GPU kernel of `nest` agrees with the module."""
    torch.manual_seed(seed)
    module = SiteConv2d(nest)
    if module.bias is not None:
        torch.nn.init.normal_(module.bias)
    shape = nest.shape
    x = torch.randn(shape.input_shape)
    with torch.no_grad():
        expected = module(x).numpy()
    weights = [w.detach().numpy() for w in module.weights]
    bias = None if module.bias is None else module.bias.detach().numpy()
    output = np.full(stored(shape.output_shape, shape.output_lanes), np.nan, np.float32)
    arrays = [pack_channels(x.numpy(), shape.input_lanes), *pack(nest, weights, bias), output]
    arguments = [tvm.runtime.tensor(a) for a in arrays]
    kernel = tirx.build(serial(lower(nest)), target=Target(TARGET), pipeline="s_tir")
    kernel["main"](*arguments)
    result = unpack_channels(arguments[-1].numpy())
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)
