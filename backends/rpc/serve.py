"""Lend this machine to LoopGene: a TVM RPC server that comes back whenever it dies.

    python serve.py --tracker HOST:PORT --key KEY [--host ADDR] [--port P] [--runtime-only]

Needs Python and TVM, nothing else of LoopGene: copy this file to a board and start it there; where
kernels are to run on its GPU, copy `backends/workers/gpu_runtime.py` beside it.
The server runs as a process group of its own below this process, which starts it again, with
growing pauses, when it ends, and ends the whole group on SIGTERM or Ctrl-C.  A kernel that
crashes ends its session only.  Every event is one line on standard output.

Whoever can reach the port can run code on this machine: use it in networks that you trust.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import multiprocessing
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

FACTS = "loopgene.board"
"""Name of the remote function that tells what this machine is, as JSON."""

USE_GPU = "loopgene.use_gpu"
"""Name of the remote function without which a session runs nothing on the GPU."""

PORTS = range(9090, 9190)
"""The first free one is taken when no port is given."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
HEALTHY_S = 60.0
"""After so long a life the pauses begin anew."""

LISTENER_ENDED, CANNOT_BIND, NO_TVM = 3, 4, 5
"""Exit codes of the server process; only the last one is for good."""

TRACKER_PAUSE_S = 1.0
SILENCE_S = 30.0
"""A tracker or a client in the middle of its greeting that is silent for so long has gone."""

_CHECK_S = 0.5
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def say(text: str) -> None:
    """One line with the time, at once."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} serve: {text}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Supervise a server until a signal; returns the exit code."""
    options = parse(arguments)
    if options.supervisor:
        return serve(options)
    return supervise(options)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ends the program with one line when it is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tracker", type=address, required=True, metavar="HOST:PORT")
    parser.add_argument("--key", required=True, help="name of this kind of board")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on (default: all)")
    parser.add_argument(
        "--port", type=int, help=f"default: the first free one of {PORTS[0]} to {PORTS[-1]}"
    )
    parser.add_argument(
        "--runtime-only", action="store_true", help="load TVM's runtime without the compiler"
    )
    parser.add_argument("--supervisor", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.port is not None and not 0 < options.port < 65536:
        parser.error(f"--port {options.port}: must be between 1 and 65535")
    if not options.key or any(c.isspace() or c == ":" for c in options.key):
        parser.error(f"--key {options.key!r}: must be a word without ':'")
    return options


def address(text: str) -> tuple[str, int]:
    """(host, port) of HOST:PORT."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"expected HOST:PORT, got {text!r}")
    return host, int(port)


# The supervisor.


class _TerminatedError(Exception):
    """The signal to end has come."""


def supervise(options: argparse.Namespace) -> int:
    """Start the server again and again; returns when a signal comes or TVM is missing."""
    for number in _ENDING:
        # `nohup` and the like have asked to be spared.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _terminate)
    pause_s = FIRST_PAUSE_S
    try:
        while True:
            began = time.monotonic()
            code = _one_life(options)
            if code == NO_TVM:
                return 1
            if time.monotonic() - began > HEALTHY_S:
                pause_s = FIRST_PAUSE_S
            say(f"the server has ended ({_reason(code)}); again in {pause_s:g} s")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    except _TerminatedError as stop:
        say(f"ended by {stop}")
        return 0


def _terminate(number: int, _frame: object) -> NoReturn:
    raise _TerminatedError(signal.Signals(number).name)


def _one_life(options: argparse.Namespace) -> int:
    """Run the server once; its exit code.  Nothing of it is left, neither processes nor files."""
    say("starting the server")
    scratch = tempfile.mkdtemp(prefix="loopgene-serve-")
    environment = {**os.environ, "TMPDIR": scratch}
    if options.runtime_only:
        environment["TVM_USE_RUNTIME_LIB"] = "1"
    host, port = options.tracker
    command = [sys.executable, os.path.abspath(__file__), "--supervisor", str(os.getpid())]
    command += ["--tracker", f"{host}:{port}", "--key", options.key, "--host", options.host]
    if options.port is not None:
        command += ["--port", str(options.port)]
    server: subprocess.Popen[bytes] | None = None
    try:
        with _signals_held():
            server = subprocess.Popen(command, env=environment, start_new_session=True)
        return server.wait()
    finally:
        with _signals_held():
            if server is not None:
                # Sessions hold the port, and whoever connects to it would wait for ever.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(server.pid, signal.SIGKILL)
                server.wait()
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """No signal between the start of a process and the moment when its number is known."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)


def _reason(code: int) -> str:
    known = {LISTENER_ENDED: "it no longer listens", CANNOT_BIND: "no port to listen on"}
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return known.get(code, f"exit code {code}")


# The server.


def serve(options: argparse.Namespace) -> int:
    """Listen until the listener dies; the supervisor sees to the rest."""
    # The supervisor's mask is inherited; sessions are ended by SIGTERM.
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A session begins as a copy of this process, which the driver of a GPU does not survive.
    gpu_runtime = _gpu_runtime()
    try:
        with gpu_runtime.left_out() if gpu_runtime else contextlib.nullcontext():
            import tvm
            from tvm.rpc import base, server
    except ImportError as error:
        say(f"TVM cannot be imported: {error}; install the wheels of the board kit")
        return NO_TVM
    multiprocessing.set_start_method("fork", force=True)
    socket.setdefaulttimeout(SILENCE_S)
    base.connect_with_retry = _connect_for_ever
    server._serving = _guarded(server._serving)
    _tell_facts(tvm, options)
    if gpu_runtime is not None:
        tvm.register_global_func(USE_GPU, gpu_runtime.load, override=True)
    ports = PORTS if options.port is None else range(options.port, options.port + 1)
    try:
        state = server.PopenRPCServerState(
            options.host,
            ports.start,
            ports.stop,
            tracker_addr=options.tracker,
            key=options.key,
            load_library=_extra_library(tvm),
            silent=True,
        )
    except (OSError, ValueError) as error:
        say(f"cannot listen on {options.host}: {error}")
        return CANNOT_BIND
    say(
        f"listening on {options.host}:{state.port} as {options.key}, tracker"
        f" {options.tracker[0]}:{options.tracker[1]}, TVM {tvm.__version__}"
    )
    while state.thread.is_alive() and os.getppid() == options.supervisor:
        state.thread.join(_CHECK_S)
    if os.getppid() != options.supervisor:
        os.killpg(0, signal.SIGKILL)
    return LISTENER_ENDED


def _connect_for_ever(tracker: tuple[str, int]) -> socket.socket:
    """A connection to the tracker, however long it is away."""
    lost: str | None = None
    while True:
        try:
            connection = socket.create_connection(tracker, SILENCE_S)
        except OSError as error:
            reason = error.strerror or str(error)
            if reason != lost:
                say(f"no tracker at {tracker[0]}:{tracker[1]} ({reason}); trying on")
            lost = reason
            time.sleep(TRACKER_PAUSE_S)
        else:
            say(f"connected to the tracker {tracker[0]}:{tracker[1]}")
            return connection


def _gpu_runtime() -> Any:
    """The module of that name, beside this file or where LoopGene has it; None without it."""
    folder = Path(__file__).resolve().parent
    for path in (folder / "gpu_runtime.py", folder.parent / "workers" / "gpu_runtime.py"):
        if path.exists():
            spec = importlib.util.spec_from_file_location("gpu_runtime", path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    return None


def _guarded(serving: Any) -> Any:
    """TVM's own session, after whose crash the listener goes on."""

    def guarded(connection: socket.socket, client: Any, *more: Any) -> None:
        home = os.getcwd()
        # TVM reads the descriptor, which has to block.
        connection.settimeout(None)
        try:
            serving(connection, client, *more)
        except RuntimeError as error:
            say(f"a session of {client[0]} has ended badly: {_one_line(error)}")
        finally:
            os.chdir(home)
            connection.close()

    return guarded


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _extra_library(tvm: Any) -> str | None:
    """What the runtime alone lacks: random fill and such."""
    if os.environ.get("TVM_USE_RUNTIME_LIB") != "1":
        return None
    library = Path(tvm.__file__).parent / "lib" / "libtvm_runtime_extra.so"
    return str(library) if library.exists() else None


def _tell_facts(tvm: Any, options: argparse.Namespace) -> None:
    import tvm_ffi

    facts = {
        "tvm": str(tvm.__version__),
        "ffi": str(tvm_ffi.__version__),
        "runtime_only": os.environ.get("TVM_USE_RUNTIME_LIB") == "1",
        "machine": platform.machine(),
        "model": model(),
        "cores": len(os.sched_getaffinity(0)),
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "emulated": _emulated(options.supervisor),
    }
    tvm_ffi.register_global_func(FACTS, lambda: json.dumps(facts), override=True)


def model() -> str:
    """What the board or its processor is called."""
    board = _text("/proc/device-tree/model")
    if board:
        return board.strip("\0 \n")
    lines = (_text("/proc/cpuinfo") or "").splitlines()
    pairs = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    if "model name" in pairs:
        return pairs["model name"]
    if "CPU part" in pairs:
        return f"ARM {pairs.get('CPU implementer', '?')}:{pairs['CPU part']}"
    return platform.machine()


def _emulated(other: int) -> bool:
    """Whether QEMU runs this program; it hides itself, but not behind another process."""
    try:
        return os.path.basename(os.readlink(f"/proc/{other}/exe")).startswith("qemu-")
    except OSError:
        return False


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


if __name__ == "__main__":
    sys.exit(main())
