"""Compile whole networks through Relax, with the site kernels that the search measured."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from backends.devices import cpu_target, host
from backends.lowering.epilogue import Epilogue
from backends.lowering.layout import stored
from backends.network.capture import capture
from backends.network.fusion import SITE_OP, CapturedNetwork
from backends.network.layouts import choose_layouts
from backends.network.operators import converters
from backends.network.platforms import Platform, platform_of
from backends.network.rest import SCHEDULED
from genomes.nest import LoopNest

ScheduleOf = Callable[[LoopNest], LoopNest]

OPAQUE = 8
"""TVM's pattern of a function that is fused with no other."""


class CompiledNetwork:
    """A network as one Relax VM executable: (N, C, H, W) float32 -> the network's output.

    Attributes:
        executable: The Relax executable, for `export_library`.
        input_shape: (N, C, H, W).
    """

    def __init__(self, executable: Any, input_shape: Sequence[int], platform: Platform) -> None:
        self.executable = executable
        self.input_shape = tuple(input_shape)
        self._platform = platform

    @functools.cached_property
    def _device(self) -> Any:
        return self._platform.device

    def trouble(self) -> str:
        """Why it cannot be run on a device of this machine, as a sentence; "" where it can."""
        return self._platform.trouble()

    @functools.cached_property
    def _vm(self) -> Any:
        """Made when the network is run: one for another machine can only be exported."""
        from tvm import relax

        return relax.VirtualMachine(self.executable, self._device)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The network's output for `x` of shape `input_shape`."""
        import tvm

        result = self._vm["main"](tvm.runtime.tensor(np.ascontiguousarray(x), self._device))
        return result.numpy()

    def runner(self, x: np.ndarray) -> Callable[[], None]:
        """A function that runs the network once on `x`, already on the device, to its end."""
        import tvm

        data = tvm.runtime.tensor(np.ascontiguousarray(x), self._device)
        main, finish = self._vm["main"], self._device.sync

        def run() -> None:
            main(data)
            finish()

        return run

    def export_library(self, path: Path, link: Callable[..., None] | None = None) -> None:
        """Write a shared library that `tvm.runtime.load_module` and the Relax VM load.

        Args:
            path: The file.
            link: Links for another machine, as `backends.boards.link_shared` makes it.

        Raises:
            BackendError: The linker is missing or fails.
            LoweringError: nvcc does not compile the kernels of a GPU.
        """
        self.executable.export_library(str(path), **self._platform.export_options(link))


def compile_network(
    model: nn.Module,
    input_shape: Sequence[int],
    target: dict[str, Any] | None = None,
    schedule: ScheduleOf | None = None,
    lanes: int | None = None,
    blocks: int | None = None,
    fuse: bool = True,
) -> CompiledNetwork:
    """Compile a network for a CPU or for an NVIDIA GPU.

    Args:
        model: Original or transformed network in float32; it is not changed and is compiled as
            in `eval()`.
        input_shape: (N, C, H, W).
        target: A TVM target, `{"kind": "llvm", ...}` or that of `gpu_target`; this machine's
            CPU, all its cores, if it is not given.  As many threads run a network on a CPU as
            TVM_NUM_THREADS says.
        schedule: Gives an unscheduled nest its schedule; by default the best estimate.
        lanes: float32 lanes of a CPU's vector register; those of `target` if it is not given.
        blocks: Channels in a block of an activation, 0 for NCHW; `lanes` if it is not given, and
            0 on a GPU.
        fuse: Whether kernels add residuals and apply activations.

    Raises:
        ModelError: `torch.export` cannot trace the network, or it changes its own tensors.
        LoweringError: A schedule is refused by TVM.
    """
    import tvm
    from tvm import relax

    target = cpu_target(host().cores) if target is None else target
    platform = platform_of(target, lanes=lanes)
    captured = capture(model, input_shape, fuse=fuse)
    choose_layouts(captured, platform.lanes if blocks is None else blocks)
    mod = _import(captured, platform, schedule or platform.default_schedule)
    tvm_target = tvm.target.Target(target)
    with tvm_target, tvm.transform.PassContext(config=dict(platform.pass_options)):
        mod = tvm.transform.Sequential(
            [
                relax.transform.DecomposeOpsForInference(),
                relax.transform.CanonicalizeBindings(),
                relax.transform.LegalizeOps(),
                relax.transform.AnnotateTIROpPattern(),
                relax.transform.FoldConstant(),
                relax.transform.FuseOps(),
                relax.transform.FuseTIR(),
                relax.transform.DeadCodeElimination(),
            ]
        )(mod)
        executable = tvm.compile(
            platform.schedule_rest(mod),
            tvm_target,
            # By name, TVM would schedule and fuse for a GPU once more.
            relax_pipeline=relax.get_pipeline("default"),
            tir_pipeline=platform.tir_pipeline,
        )
    return CompiledNetwork(executable, input_shape, platform)


def _import(captured: CapturedNetwork, platform: Platform, schedule: ScheduleOf) -> Any:
    """The Relax module of a captured network, one PrimFunc for each distinct kernel."""
    from tvm import relax
    from tvm.relax.frontend.torch import from_exported_program

    from backends.lowering.kernel import pack

    functions: dict[tuple[str, Epilogue], Any] = {}

    def convert(node: Any, importer: Any) -> Any:
        x, residual, number, _, activation = node.args
        kernel = captured.kernels[number]
        builder = importer.block_builder
        nest = kernel.compiled(schedule(kernel.measured))
        epilogue = Epilogue(residual is not None, activation)
        key = (nest.key, epilogue)
        if key not in functions:
            function = platform.lower(nest, epilogue).without_attr("global_symbol")
            function = function.with_attr({SCHEDULED: 1, "op_pattern": OPAQUE})
            functions[key] = builder.add_func(function, f"site_{len(functions)}")
        inputs = [importer.env[n] for n in (x, residual) if n is not None]
        constants = [relax.const(a) for a in pack(nest, kernel.weights, kernel.bias)]
        shape = nest.shape
        out_type = relax.TensorType(stored(shape.output_shape, shape.output_lanes), "float32")
        call = relax.call_tir(functions[key], [*inputs, *constants], out_type)
        return builder.emit(call)

    return from_exported_program(
        captured.program,
        keep_params_as_input=False,
        unwrap_unit_return_tuple=True,
        run_ep_decomposition=False,
        custom_convert_map={SITE_OP: convert, **converters()},
    )
