"""Sessions with kernels that misbehave, told apart by their number of output channels.

What runs on the device is machine code that calls the device's C library in place of a kernel.
"""

from __future__ import annotations

import functools
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from backends.boards import link_shared
from backends.rpc import session
from backends.rpc.backend import RpcBackend
from genomes.nest import LoopNest
from tests.backends.samples import shape

ABORT, SLEEP, KILL_LISTENER, WRONG, UNLOADABLE, HOLD = 3, 5, 7, 9, 11, 13
HELD_S = 1.2


def nest(out_channels: int) -> LoopNest:
    return LoopNest.fresh(shape(8, 6, out_channels=out_channels))


@functools.cache
def library(name: str) -> bytes:
    """Machine code whose `main` calls functions of the C library and returns."""
    import tvm
    from tvm.script.ir_builder import IRBuilder
    from tvm.target import Target
    from tvm.tirx.script import builder as T  # noqa: N812

    from backends.devices import cpu_target
    from backends.lowering.pipeline import build

    def call(function, *arguments):
        return T.call_extern("int32", function, *arguments)

    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        if name == "abort":
            T.evaluate(call("abort"))
        if name == "sleep":
            T.evaluate(call("sleep", 600))
        if name == "kill listener":
            T.evaluate(call("kill", call("getppid"), 9))
            T.evaluate(call("sleep", 600))
        if name == "nothing":
            T.evaluate(0)
    target = cpu_target(1)
    module = build(tvm.IRModule({"main": builder.get()}), Target(target))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "accident.so"
        module.export_library(str(path), fcompile=link_shared(target))
        return path.read_bytes()


ACCIDENTS = {
    ABORT: "abort",
    SLEEP: "sleep",
    KILL_LISTENER: "kill listener",
    WRONG: "nothing",
}


class AccidentSession(session.Session):
    def loaded(self, kernel):
        channels = kernel.nest.shape.out_channels
        if channels in ACCIDENTS:
            kernel = replace(kernel, binary=library(ACCIDENTS[channels]))
        if channels == UNLOADABLE:
            kernel = replace(kernel, binary=b"no machine code")
        return super().loaded(kernel)

    def times_s(self, module, arguments):
        if self.job.nest.shape.out_channels == HOLD:
            time.sleep(HELD_S)
        return super().times_s(module, arguments)


def run(job, stage):
    return session.run_in(AccidentSession, job, stage)


class AccidentBackend(RpcBackend):
    session = "tests.backends.rpc.accidents:run"
