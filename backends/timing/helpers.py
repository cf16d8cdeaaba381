"""Kernels that are run beside those that are timed."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.timing.probe import Probe

CHAINS = 16
"""Independent multiply-adds: enough to hide their latency, few enough for the registers."""

PROBE_STEPS = 5000
LINE = 16
"""float32 in a line of a cache."""

EXCHANGED_LINES = 512
"""Lines that every thread reads of another one: it takes longer than to start the threads."""


@dataclass(frozen=True)
class Helpers:
    """What a worker needs to time kernels.

    Attributes:
        probe: Tells whether the machine runs at its full speed.
        fill: Writes a tensor of shape (lines, `LINE`), each thread its share of the lines.
    """

    probe: Probe
    fill: Callable[[Any], object]


def helpers(target: Mapping[str, Any]) -> Helpers:
    """Those for a CPU, built once in a process; `target` is as TVM takes it, with `num-cores`."""
    return _helpers(json.dumps(dict(target), sort_keys=True))


@functools.lru_cache(maxsize=4)
def _helpers(target_text: str) -> Helpers:
    from backends.devices import cpu_features, host

    target = json.loads(target_text)
    threads = int(target.get("num-cores", 1))
    lanes = cpu_features(target, threads).lanes
    probe = Probe(
        multiply_adds(target, threads, lanes, PROBE_STEPS),
        multiply_adds(target, 1, lanes, PROBE_STEPS),
        _exchange(target, threads) if threads > 1 else None,
        host().together,
    )
    return Helpers(probe, _fill(target))


def multiply_adds(
    target: Mapping[str, Any], threads: int, lanes: int, steps: int
) -> Callable[[], object]:
    """A function that does `CHAINS * steps` multiply-adds of vectors on every thread.

    Args:
        target: TVM's description of the CPU.
        threads: How many run it.
        lanes: float32 in a vector register.
        steps: Multiply-adds that depend on each other.
    """
    import tvm
    from tvm.script.ir_builder import IRBuilder
    from tvm.target import Target
    from tvm.tirx.script import builder as T  # noqa: N812 - the name that TVM uses

    from backends.lowering.blocks import argument, temporary
    from backends.lowering.pipeline import build

    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        factor, term = argument("factor", (lanes,)), argument("term", (lanes,))
        out = argument("out", (threads, CHAINS, lanes))
        with T.parallel(0, threads) as thread, T.sblock("thread"):
            sums = temporary("sums", (CHAINS, lanes))

            def each(store: Callable[[Any, Any], object]) -> None:
                with T.unroll(0, CHAINS) as chain, T.vectorized(0, lanes) as lane:
                    store(chain, lane)

            each(lambda i, x: T.buffer_store(sums, factor[x], [i, x]))
            with T.serial(0, steps):
                each(lambda i, x: T.buffer_store(sums, sums[i, x] * factor[x] + term[x], [i, x]))
            each(lambda i, x: T.buffer_store(out, sums[i, x], [thread, i, x]))
    module = build(tvm.IRModule({"main": builder.get()}), Target(dict(target)))
    arrays = (
        np.full(lanes, 0.999, np.float32),
        np.full(lanes, 0.001, np.float32),
        np.empty((threads, CHAINS, lanes), np.float32),
    )
    arguments = [tvm.runtime.tensor(array) for array in arrays]
    call = module["main"]
    return lambda: call(*arguments)


def _exchange(target: Mapping[str, Any], threads: int) -> Callable[[], object]:
    """A function in which every thread reads lines that another one has just written."""
    import tvm

    call = exchange_kernel(target, threads)
    shape = (threads, EXCHANGED_LINES, LINE)
    one, two = (tvm.runtime.tensor(np.zeros(shape, np.float32)) for _ in range(2))

    def exchange() -> None:
        call(one, two)
        call(two, one)

    return exchange


def exchange_kernel(target: Mapping[str, Any], threads: int) -> Callable[..., object]:
    """A kernel (read, written), each (threads, `EXCHANGED_LINES`, `LINE`): a thread copies its
    neighbour's lines to its own."""
    import tvm
    from tvm.script.ir_builder import IRBuilder
    from tvm.target import Target
    from tvm.tirx.script import builder as T  # noqa: N812 - the name that TVM uses

    from backends.lowering.blocks import argument
    from backends.lowering.pipeline import build

    shape = (threads, EXCHANGED_LINES, LINE)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        read, written = argument("read", shape), argument("written", shape)
        with T.parallel(0, threads) as thread, T.sblock("thread"), T.serial(0, shape[1]) as line:
            other = (thread + 1) % threads
            with T.vectorized(0, LINE) as lane:
                T.buffer_store(written, read[other, line, lane], [thread, line, lane])
    call: Callable[..., object] = build(
        tvm.IRModule({"main": builder.get()}), Target(dict(target))
    )["main"]
    return call


def _fill(target: Mapping[str, Any]) -> Callable[[Any], object]:
    from tvm import s_tir, te, tirx
    from tvm.target import Target

    from backends.lowering.pipeline import build

    lines = te.var("lines")
    filled = te.compute((lines, LINE), lambda _line, _lane: tirx.FloatImm("float32", 1.0))
    sch = s_tir.Schedule(te.create_prim_func([filled]).with_attr("global_symbol", "main"))
    line, lane = sch.get_loops(sch.get_sblock("compute"))
    sch.parallel(line)
    sch.vectorize(lane)
    call: Callable[[Any], object] = build(sch.mod, Target(dict(target)))["main"]
    return call
