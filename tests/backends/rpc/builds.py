"""Who builds kernels elsewhere, in tests: builds are real, and what goes wrong is told apart."""

from __future__ import annotations

import os
import signal
import socket
import time

from backends.builder import Builder
from backends.rpc import kernels, modelled
from backends.rpc.modelled import ModelledRpcBackend
from backends.workers import Lost
from genomes.errors import LoopGeneError

CRASH, HANG = 5, 7
"""Output channels of kernels on which the compiler fails."""

KILLS = "LOOPGENE_TEST_KILLS"
"""Environment variable: the file in which each killed build leaves a byte."""


def be_killed(job):
    """The end of a process that builds what has `CRASH` channels."""
    if job.nest is not None and job.nest.shape.out_channels == CRASH:
        with open(os.environ[KILLS], "ab") as kills:
            kills.write(b".")
        os.kill(os.getpid(), signal.SIGKILL)


def killed_here(job, stage):
    """As `modelled.run`, where some builds are killed."""
    be_killed(job)
    return modelled.run(job, stage)


def killed_elsewhere(job, stage):
    """As `kernels.run`, where some builds are killed."""
    be_killed(job)
    return kernels.run(job, stage)


def run(job, stage):
    """As `kernels.run`, with a compiler that does not bear everything."""
    channels = job.nest.shape.out_channels
    if channels == CRASH:
        os.abort()
    if channels == HANG:
        time.sleep(60)
    return kernels.run(job, stage)


class FragileBackend(ModelledRpcBackend):
    """Only builds elsewhere fail."""

    builds = "tests.backends.rpc.builds:run"


class KilledBackend(ModelledRpcBackend):
    """Some builds are killed, wherever they are done."""

    session = "tests.backends.rpc.builds:killed_here"
    builds = "tests.backends.rpc.builds:killed_elsewhere"


class Backwards(Builder):
    """Builds what was begun last, first, in an open workshop.

    Attributes:
        built: The nests, in this order.
        dropped: How often.
    """

    size = 3

    def __init__(self, pool, losses=0):
        self.built = []
        self.dropped = 0
        self._losses = losses
        self._begun = []
        self._pool = pool
        self._bell, self._rope = socket.socketpair()

    @property
    def sockets(self):
        return [self._bell]

    def begin(self, index, job):
        self._begun.append((index, job))
        self._rope.send(b"!")

    def take(self):
        if not self._begun:
            return []
        self._bell.recv(1)
        index, job = self._begun.pop()
        if self._losses:
            self._losses -= 1
            return [(index, Lost("the machine was switched off", {}))]
        self.built.append(job.nest)
        return [(index, self._pool.run(job))]

    def drop(self):
        self.dropped += 1
        while self._begun:
            self._begun.pop()
            self._bell.recv(1)

    def close(self):
        self._bell.close()
        self._rope.close()


class Idle(Builder):
    """Builds nothing, and is sorry for it after `patience` looks."""

    size = 2
    sockets = ()

    def __init__(self, patience=None):
        self._patience = patience
        self.dropped = 0

    def begin(self, index, job):
        pass

    def take(self):
        if self._patience is not None:
            self._patience -= 1
            if self._patience < 0:
                raise LoopGeneError("all machines are gone; switch them on")
        return []

    def drop(self):
        self.dropped += 1
