"""Build of scheduled kernels: TVM's pipeline, with accumulators kept on the stack.

Kernels on their own, of which a search builds many, take a shorter way to the same machine code:
only those of TVM's passes that change a CPU kernel, without the ones whose work LLVM does again
(common subexpressions, dead statements), and without checks of the arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir.transform import Pass, Sequential
from tvm.target import Target
from tvm.tirx.compilation_pipeline import PIPELINE_MAP

NAME = "loopgene"
SHORT_NAME = "loopgene-kernel"
STACK_BYTES = 16384
_FLOAT_BYTES = 4


def build(mod: tvm.IRModule, target: Target) -> tvm.runtime.Module:
    """The machine code of a scheduled module, which trusts its caller to pass what fits."""
    PIPELINE_MAP.setdefault(SHORT_NAME, _short_pipeline)
    with tvm.transform.PassContext(config={"tirx.disable_assert": True}):
        return tirx.build(mod, target=target, pipeline=SHORT_NAME)


def registered() -> str:
    """The name under which TVM's builds find the pipeline, also those of whole networks."""
    PIPELINE_MAP.setdefault(NAME, _pipeline)
    return NAME


def _pipeline() -> tuple[Pass, Callable[[], Pass], Callable[[], Pass]]:
    lower, finalize_host, finalize_device = PIPELINE_MAP["s_tir"]()
    return lower, lambda: Sequential([_keep_on_stack, finalize_host()]), finalize_device


def _short_pipeline() -> tuple[Pass, Callable[[], Pass], Callable[[], Pass]]:
    _, *finalize = _pipeline()
    return Sequential([step() for step in _SHORT]), finalize[0], finalize[1]


_SHORT: tuple[Callable[[], Pass], ...] = (
    s_tir.transform.CanonicalizeLoop,
    s_tir.transform.LowerInitBlock,
    s_tir.transform.PlanAndUpdateBufferAllocationLocation,
    s_tir.transform.ConvertBlocksToOpaque,
    s_tir.transform.CompactBufferAllocation,
    s_tir.transform.LowerMatchBuffer,
    s_tir.transform.StmtSimplify,
    s_tir.transform.LowerOpaqueBlock,
    tirx.transform.FlattenBuffer,
    lambda: tirx.transform.NarrowDataType(32),
    tirx.transform.VectorizeLoop,
    tirx.transform.StorageRewrite,
    s_tir.transform.HoistIfThenElse,
    tirx.transform.UnrollLoop,
    s_tir.transform.RenormalizeSplitPattern,
    tirx.transform.StmtSimplify,
    s_tir.transform.RewriteUnsafeSelect,
    tirx.transform.VerifyMemory,
    tirx.transform.AnnotateEntryFunc,
    tirx.transform.SplitHostDevice,
    tirx.transform.MakePackedAPI,
)


@tirx.transform.prim_func_pass(opt_level=0)
def _keep_on_stack(function: tirx.PrimFunc, _mod: Any, _ctx: Any) -> tirx.PrimFunc:
    """Leave small buffers to LLVM's stack.

    TVM allocates a kilobyte or more by a call of its runtime, and LLVM does not keep such a
    buffer in registers: an accumulator of 16 vectors of AVX-512 runs 4x slower.
    """
    return function.with_body(_rewritten(function.body))


def _rewritten(stmt: tirx.Stmt) -> tirx.Stmt:
    if isinstance(stmt, tirx.AllocBuffer):
        sizes = [int(e) if isinstance(e, tirx.IntImm) else STACK_BYTES for e in stmt.buffer.shape]
        if _FLOAT_BYTES * prod(sizes) > STACK_BYTES:
            return stmt
        kept = {**stmt.annotations, "disable_lower_builtin": tirx.IntImm("bool", 1)}
        return tirx.AllocBuffer(stmt.buffer, kept)
    if isinstance(stmt, tirx.SeqStmt):
        return tirx.SeqStmt([_rewritten(part) for part in stmt.seq])
    if isinstance(stmt, tirx.AttrStmt):
        return tirx.AttrStmt(stmt.node, stmt.attr_key, stmt.value, _rewritten(stmt.body))
    if isinstance(stmt, tirx.IfThenElse):
        other = None if stmt.else_case is None else _rewritten(stmt.else_case)
        return tirx.IfThenElse(stmt.condition, _rewritten(stmt.then_case), other)
    if isinstance(stmt, tirx.For):
        body = _rewritten(stmt.body)
        fields = (stmt.thread_binding, stmt.annotations, stmt.step)
        return tirx.For(stmt.loop_var, stmt.min, stmt.extent, stmt.kind, body, *fields)
    return stmt
