"""Kernels: a scheduled loop nest as a compiled function and the packing of its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import s_tir
from tvm.target import Target

from backends.lowering import stages
from backends.lowering.compute import nest_function
from backends.lowering.epilogue import NO_EPILOGUE, Epilogue
from backends.lowering.errors import LoweringError
from backends.lowering.geometry import Packing, kernel_packings, statement_forms
from backends.lowering.layout import pack_channels, stored
from backends.lowering.pipeline import build
from backends.lowering.schedule import TVM_REFUSALS, Replay, first_line
from genomes.nest import ConvShape, LoopNest


@dataclass(frozen=True)
class CompiledKernel:
    """The machine code of one site.

    Attributes:
        module: TVM's module; `main(input, *packed, output)` computes the site.
        shape: The shapes of input and output, and their layouts.
        packings: The weight arguments.
    """

    module: tvm.runtime.Module
    shape: ConvShape
    packings: tuple[Packing, ...]

    def arguments(
        self,
        x: np.ndarray,
        weights: Sequence[np.ndarray],
        bias: np.ndarray | None,
    ) -> list[np.ndarray]:
        """All arguments as the kernel reads them; the last, the output, is NaN so far.

        Args:
            x: (N, C_in, H, W).
            weights, bias: As in `pack`.

        Raises:
            ValueError: A bias is given to a site without one, or missing.
        """
        return _around(self.shape, x, self.pack(weights, bias))

    def pack(self, weights: Sequence[np.ndarray], bias: np.ndarray | None) -> list[np.ndarray]:
        """The arguments between input and output, laid out as the kernel reads them.

        Args:
            weights: One array (kept_co, channels per group, taps_h, taps_w) for each distinct
                weight of the nest, as in `LoopNest.weights`.
            bias: (C_out,), if the site has one.

        Raises:
            ValueError: A bias is given to a site without one, or missing.
        """
        return _arguments(self.packings, self.shape.bias, weights, bias)


def build_kernel(
    nest: LoopNest, target: dict[str, Any], epilogue: Epilogue = NO_EPILOGUE
) -> CompiledKernel:
    """Lower and compile a nest; statements without a schedule run as the fresh loops.

    Args:
        nest: A scheduled loop nest.
        target: TVM's description of the CPU, e.g. {"kind": "llvm", "mcpu": "znver4"}.
        epilogue: What is done to the result; without a residual.

    Raises:
        LoweringError: TVM refuses a gene, or cannot build the scheduled kernel.
    """
    mod = lower(nest, epilogue)
    try:
        module = build(mod, Target(target))
    except (*TVM_REFUSALS, tvm.error.InternalError) as error:
        genes = "; ".join(str(g) for s in nest.statements for g in s.schedule_genes)
        raise LoweringError(f"TVM cannot build [{genes}]: {first_line(error)}") from error
    return CompiledKernel(module, nest.shape, kernel_packings(nest))


def lower(nest: LoopNest, epilogue: Epilogue = NO_EPILOGUE) -> tvm.IRModule:
    """The scheduled kernel of a nest, as TIR with the entry `main`.

    Raises:
        LoweringError: TVM refuses a gene.
    """
    sch = s_tir.Schedule(nest_function(nest, epilogue), error_render_level="fast")
    for form in statement_forms(nest, epilogue):
        if form.owns_copy:
            stages.schedule_copy(sch, form)
        Replay(sch, form).run()
    return sch.mod


def pack(
    nest: LoopNest, weights: Sequence[np.ndarray], bias: np.ndarray | None
) -> list[np.ndarray]:
    """`CompiledKernel.pack` for a nest whose kernel is not built on its own."""
    return _arguments(kernel_packings(nest), nest.shape.bias, weights, bias)


def kernel_arguments(
    nest: LoopNest, x: np.ndarray, weights: Sequence[np.ndarray], bias: np.ndarray | None
) -> list[np.ndarray]:
    """`CompiledKernel.arguments` for a nest whose kernel was built elsewhere."""
    return _around(nest.shape, x, pack(nest, weights, bias))


def _around(shape: ConvShape, x: np.ndarray, packed: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Input, packed weights, and an output of NaN."""
    output = np.full(stored(shape.output_shape, shape.output_lanes), np.nan, np.float32)
    return [pack_channels(x, shape.input_lanes), *packed, output]


def _arguments(
    packings: Sequence[Packing],
    has_bias: bool,
    weights: Sequence[np.ndarray],
    bias: np.ndarray | None,
) -> list[np.ndarray]:
    if (bias is not None) != has_bias:
        raise ValueError("the bias must be given exactly when the site has one")
    packed = [_packed(weights[p.weight], p) for p in packings]
    if bias is not None:
        packed.append(np.ascontiguousarray(bias, dtype=np.float32))
    return packed


def _packed(weight: np.ndarray, packing: Packing) -> np.ndarray:
    weight = np.asarray(weight, dtype=np.float32)
    if len(weight) < packing.channels:
        groups = weight.reshape(packing.groups, -1, *weight.shape[1:])
        lost = packing.channels // packing.groups - groups.shape[1]
        groups = np.pad(groups, ((0, 0), (0, lost), (0, 0), (0, 0), (0, 0)))
        weight = groups.reshape(packing.channels, *weight.shape[1:])
    if packing.lanes:
        blocks, *rest, lanes = packing.shape
        weight = weight.reshape(blocks, lanes, *rest).transpose(0, 2, 3, 4, 1)
    return np.ascontiguousarray(weight)
