"""Numbers of a GPU schedule that tell how fast it is, from its genes alone."""

from __future__ import annotations

from math import log2, prod
from typing import TYPE_CHECKING

from backends.lowering.geometry import StatementForm, statement_forms
from backends.lowering.gpu.defaults import GPU_TRANSFORMATIONS
from backends.lowering.gpu.limits import broken_limit
from backends.lowering.gpu.plans import GpuPlan, blocks_of, cycles, shared_bytes
from genomes.nest import LoopNest
from genomes.schedule import Loop, Schedule

if TYPE_CHECKING:
    from backends.gpus import GpuFeatures


def gpu_schedule_features(nest: LoopNest, gpu: GpuFeatures) -> tuple[float, ...] | None:
    """The estimated cycles of a scheduled nest and what they rest on, as logarithms.

    Of several statements, the cycles are added and the rest is averaged.

    Returns:
        None when the schedule breaks a limit of the GPU, has a gene that does not lower to a GPU
        kernel, or has another form than the schedules that are proposed.
    """
    genes = (gene for statement in nest.statements for gene in statement.schedule_genes)
    if broken_limit(nest, gpu) or any(gene.op not in GPU_TRANSFORMATIONS for gene in genes):
        return None
    total, rows = 0.0, []
    for form in statement_forms(nest, padded_as_read=True):
        plan = plan_of(form)
        if plan is None or shared_bytes(form, plan) > gpu.max_shared_bytes:
            return None
        total += cycles(form, gpu, plan)
        rows.append(_row(form, plan))
    return (log2(total), *(sum(column) / len(rows) for column in zip(*rows, strict=True)))


def plan_of(form: StatementForm) -> GpuPlan | None:
    """The outline of a statement's schedule, or None of one that has another form."""
    schedule = form.schedule
    blocks = any(x.bound.startswith("blockIdx") for x in schedule.loops)
    shared = [schedule.anchor(f"shared:{operand}") for operand in ("input", "weight")]
    if (
        not blocks
        or schedule.anchor("cache_write") is None
        or (None in shared) != (not any(shared))
    ):
        return None
    threads = dict.fromkeys(("co", "ho", "wo"), 1)
    each = dict(threads)
    for loop in schedule.loops:
        if loop.reduction or loop.bound.startswith("blockIdx") or loop.extent == 1:
            continue
        axis = _axis(loop)
        if axis not in threads:
            return None
        (threads if loop.bound.startswith("threadIdx") else each)[axis] *= loop.extent
    inputs = _inputs(schedule, shared[0]) if shared[0] else 0
    return GpuPlan(
        threads["co"], threads["ho"], threads["wo"], each["co"], each["ho"], each["wo"], inputs
    )


def _inputs(schedule: Schedule, anchor: str) -> int:
    """Input channels that one iteration of the loop `anchor` reads."""
    names = [x.name for x in schedule.loops]
    inside = schedule.loops[names.index(anchor) + 1 :]
    return prod(x.extent for x in inside if _axis(x) == "ci")


def _axis(loop: Loop) -> str:
    return loop.name.split(".")[0]


def _row(form: StatementForm, plan: GpuPlan) -> tuple[float, ...]:
    unrolled = prod(x.extent for x in form.schedule.loops if x.mark == "unroll")
    counts = (
        blocks_of(form, plan),
        plan.threads,
        plan.columns,
        plan.channels_each,
        plan.pixels_each,
        1 + plan.inputs,
        unrolled,
        1 + shared_bytes(form, plan),
    )
    return tuple(log2(max(count, 1)) for count in counts)
