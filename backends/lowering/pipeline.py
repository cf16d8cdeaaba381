"""From scheduled functions to machine code of a CPU, with accumulators kept on the stack.

Only those of TVM's passes that change a function for a CPU: a search builds many.  Those whose
work LLVM does again are left out (common subexpressions, dead statements).  Kernels on their own
and those of whole networks go the same way: other passes would leave LLVM other registers, and
what was measured would say little of the network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir.transform import Pass, Sequential
from tvm.target import Target
from tvm.tirx.compilation_pipeline import PIPELINE_MAP

from backends.lowering.copies import masked_copies
from backends.lowering.skipping import skipped_padding
from backends.lowering.vectors import masked_lanes, on_stack

NAME = "loopgene"


def build(mod: tvm.IRModule, target: Target) -> tvm.runtime.Module:
    """The machine code of a scheduled module, which trusts its caller to pass what fits."""
    with tvm.transform.PassContext(config={"tirx.disable_assert": True}):
        return tirx.build(mod, target=target, pipeline=registered())


def registered() -> str:
    """The name under which TVM's builds find the pipeline, also those of whole networks."""
    PIPELINE_MAP.setdefault(NAME, _pipeline)
    return NAME


def _pipeline() -> tuple[Pass, Callable[[], Pass], Callable[[], Pass]]:
    _, finalize_host, finalize_device = PIPELINE_MAP["s_tir"]()
    steps = [
        *_to_loops(),
        masked_copies,
        tirx.transform.VectorizeLoop(),
        tirx.transform.StorageRewrite(),
        s_tir.transform.HoistIfThenElse(),
        tirx.transform.UnrollLoop(),
        s_tir.transform.RenormalizeSplitPattern(),
        tirx.transform.StmtSimplify(),
        s_tir.transform.RewriteUnsafeSelect(),
        tirx.transform.VerifyMemory(),
        tirx.transform.AnnotateEntryFunc(),
        tirx.transform.SplitHostDevice(),
        tirx.transform.MakePackedAPI(),
    ]
    return (
        Sequential(steps),
        lambda: Sequential([masked_lanes, _keep_on_stack, finalize_host()]),
        finalize_device,
    )


def _to_loops() -> list[Pass]:
    """The beginning, up to plain loops over flat buffers, still to vectorize."""
    return [
        s_tir.transform.CanonicalizeLoop(),
        s_tir.transform.LowerInitBlock(),
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.CompactBufferAllocation(),
        s_tir.transform.LowerMatchBuffer(),
        s_tir.transform.StmtSimplify(),
        s_tir.transform.LowerOpaqueBlock(),
        tirx.transform.FlattenBuffer(),
        tirx.transform.NarrowDataType(32),
        skipped_padding,
    ]


@tirx.transform.prim_func_pass(opt_level=0)
def _keep_on_stack(function: tirx.PrimFunc, _mod: Any, _ctx: Any) -> tirx.PrimFunc:
    """Leave small buffers to LLVM's stack.

    TVM allocates a kilobyte or more by a call of its runtime, and LLVM does not keep such a
    buffer in registers: an accumulator of 16 vectors of AVX-512 runs 4x slower.
    """
    return function.with_body(_rewritten(function.body))


def _rewritten(stmt: tirx.Stmt) -> tirx.Stmt:
    if isinstance(stmt, tirx.AllocBuffer):
        if not on_stack(stmt):
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
