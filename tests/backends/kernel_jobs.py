"""Kernel jobs with accidents, told apart by the number of output channels."""

from __future__ import annotations

import os
import time

from backends import kernel_job
from backends.base import Failed, FailureKind

CRASH_IN_BUILD, CRASH_IN_CHECK, HANG_IN_BUILD, HANG_IN_CHECK = 3, 5, 7, 9
RAISE_IN_BUILD, RAISE_IN_CHECK, TELL_THREADS = 11, 13, 15


def run(job, stage):
    channels = job.nest.shape.out_channels
    if channels == TELL_THREADS:
        variables = (os.environ["TVM_NUM_THREADS"], os.environ["OMP_NUM_THREADS"])
        return Failed(FailureKind.BUILD_ERROR, " ".join(variables))
    if channels in (CRASH_IN_CHECK, HANG_IN_CHECK, RAISE_IN_CHECK):
        stage("check")
    if channels in (CRASH_IN_BUILD, CRASH_IN_CHECK):
        os.write(2, b"LLVM ERROR: out of registers\n")
        os.abort()
    if channels in (HANG_IN_BUILD, HANG_IN_CHECK):
        time.sleep(600)
    if channels in (RAISE_IN_BUILD, RAISE_IN_CHECK):
        raise RuntimeError("line one\nline two")
    return kernel_job.run(job, stage)


def fail(job, stage):
    return Failed(FailureKind.WRONG_RESULT, "the compiler is broken")
