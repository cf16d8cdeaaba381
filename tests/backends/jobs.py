"""Jobs that behave and misbehave, run inside worker processes by the tests."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

INITIALISED: list[int] = []


def initialise(number):
    INITIALISED.append(number)


def fail_to_initialise():
    raise RuntimeError("no compiler on this machine\nand more")


def exit_while_initialising():
    os.write(2, b"the library cannot be loaded\n")
    os._exit(4)


def hang_while_initialising():
    time.sleep(60)


def leave_a_thread():
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()


def act(payload, stage):
    """Run the function of this module that `payload` names, with its arguments."""
    name, *arguments = payload
    return globals()[name](stage, *arguments)


def echo(stage, value):
    return value


def identify(stage):
    return os.getpid(), os.getpgid(0), os.environ.get("LOOPGENE_TEST"), list(INITIALISED)


def sleep(stage, seconds):
    time.sleep(seconds)
    return seconds


def stages(stage, build_s, run_s):
    time.sleep(build_s)
    stage("run")
    began = time.monotonic()
    time.sleep(run_s)
    return began, time.monotonic()


def spans(stage, build_s, run_s):
    began = time.monotonic()
    time.sleep(build_s)
    built = time.monotonic()
    stage("run")
    running = time.monotonic()
    time.sleep(run_s)
    return (began, built), (running, time.monotonic())


def unknown_stage(stage):
    stage("paint")


def fail(stage, message):
    raise ValueError(message)


def quit_politely(stage):
    sys.exit(3)


def exit_at_once(stage, code):
    os.write(1, b"first line\nlast words\n")
    os._exit(code)


def segfault(stage):
    stage("run")
    ctypes.string_at(0)


def be_killed(stage, file, times):
    """End as if the system had done it, in the first `times` tries."""
    tries = len(Path(file).read_bytes()) if Path(file).exists() else 0
    Path(file).write_bytes(bytes(tries + 1))
    if tries < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return tries


def abort(stage):
    os.abort()


def allocate(stage, size_bytes):
    return len(bytearray(size_bytes))


def chatter(stage, size_bytes):
    sys.stdout.write("x" * size_bytes + "\n")
    return size_bytes


def chatter_for_ever(stage):
    while True:
        os.write(1, b"y" * 4096)


def close_output(stage, seconds):
    os.close(1)
    os.close(2)
    time.sleep(seconds)
    return "quiet"


def return_a_lambda(stage):
    return lambda: None


def have_a_child(stage, file, seconds):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(file).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(seconds)
    os._exit(1)
