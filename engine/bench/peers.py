"""The other ways to run a PyTorch module on this CPU, each as a function without arguments."""

from __future__ import annotations

import copy
import io
import logging
import os
import tempfile
import types
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

Peer = tuple[Callable[[], object], np.ndarray]
"""What is timed, and its result on the input it was made for."""


def share_process(threads: int) -> None:
    """Prepare a process, before it loads TVM, for TVM beside the other runtimes.

    TVM would bind its threads to cores, on which those that ONNX Runtime and PyTorch make later
    run up to three times slower.
    """
    os.environ["TVM_NUM_THREADS"] = str(threads)
    os.environ["TVM_BIND_THREADS"] = "0"


def tvm_default(module: nn.Module, x: Tensor, target: Mapping[str, Any]) -> Peer:
    """Relax as it comes: `from_exported_program` and `tvm.compile`, no tuning."""
    import torch
    import tvm
    from tvm import relax
    from tvm.relax.frontend.torch import from_exported_program

    with torch.no_grad():
        program = torch.export.export(module, (x,))
    mod = from_exported_program(program, unwrap_unit_return_tuple=True)
    mod = relax.transform.DecomposeOpsForInference()(mod)
    tvm_target = tvm.target.Target(dict(target))
    with tvm_target:
        executable = tvm.compile(relax.get_pipeline("zero")(mod), tvm_target)
    main = relax.VirtualMachine(executable, tvm.cpu())["main"]
    data = tvm.runtime.tensor(x.numpy())
    return lambda: main(data), main(data).numpy()


def eager(module: nn.Module, x: Tensor) -> Peer:
    """PyTorch as it comes."""
    import torch

    with torch.no_grad():
        return lambda: module(x), module(x).numpy()


def channels_last(module: nn.Module, x: Tensor) -> Peer:
    """PyTorch with weights and input in NHWC."""
    import torch

    moved = copy.deepcopy(module).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return eager(moved, x.contiguous(memory_format=torch.channels_last))


def inductor(module: nn.Module, x: Tensor) -> Peer:
    """torch.compile with the weights frozen into the code."""
    import torch
    import torch._dynamo
    import torch._inductor.config

    torch._inductor.config.freezing = True
    torch._dynamo.config.error_on_recompile = True
    with torch.no_grad():
        compiled = compiled_once(copy.deepcopy(module))
        result = compiled(x)
    return lambda: compiled(x), result.numpy()


def compiled_once(module: nn.Module, **options: Any) -> Callable[[Tensor], Tensor]:
    """torch.compile of a module that is called with inputs of one shape.

    PyTorch keeps what it compiles with the code object that it has compiled, a few for each, and
    runs the rest uncompiled: every module gets a code object of its own.

    Args:
        module: On its device.
        options: Of torch.compile.
    """
    import torch

    def forward(x: Tensor) -> Tensor:
        result: Tensor = module(x)
        return result

    own = types.FunctionType(forward.__code__.replace(), globals(), closure=forward.__closure__)
    # PyTorch knows the code by its line, and would take what differs from the last for variable.
    return torch.compile(own, dynamic=False, **options)


def onnxruntime(module: nn.Module, x: Tensor, threads: int, traced: bool = False) -> Peer:
    """ONNX Runtime; input and output are bound, so that no call copies or allocates them.

    Args:
        module: In `eval()`.
        x: Its input.
        threads: Threads that it runs on.
        traced: Export by PyTorch's older exporter, which is much quicker and good enough for a
            few convolutions.
    """
    import onnxruntime
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "module.onnx"
        with (
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
            warnings.catch_warnings(action="ignore", category=DeprecationWarning),
        ):
            torch.onnx.export(module, (x,), path, dynamo=not traced, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    data = np.ascontiguousarray(x.numpy())
    (result,) = session.run(None, {session.get_inputs()[0].name: data})
    output = onnxruntime.OrtValue.ortvalue_from_numpy(np.empty_like(result))
    binding = session.io_binding()
    binding.bind_ortvalue_input(
        session.get_inputs()[0].name, onnxruntime.OrtValue.ortvalue_from_numpy(data)
    )
    binding.bind_ortvalue_output(session.get_outputs()[0].name, output)
    return lambda: session.run_with_iobinding(binding), result
