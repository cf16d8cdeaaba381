"""The folder that is copied to a board: what to install there, the server, what to type."""

from __future__ import annotations

import re
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from backends.base import BackendError
from backends.boards.requirements import LEAST_PYTHON, requirements
from backends.boards.targets import board_target
from backends.rpc import serve
from backends.workers import gpu_runtime

TRACKER_PORT = 9190
SERVICE = "loopgene-board.service"
_KEY = r"[\w./-]+"

_README = """\
# A board for LoopGene: {key}

The board needs a 64-bit Linux with glibc 2.28 or newer and Python {python} or newer with its
`venv` module. Copy this folder there, to `{folder}` in the home of a user, and type in it:

```
python3 -m venv venv && venv/bin/pip install --only-binary=:all: -r requirements.txt
venv/bin/python {serve}
```

The first installs TVM in the version of the machine that compiles; the second lends the board
to the tracker at {tracker} until Ctrl-C, and starts its server again whenever it dies. Whoever
can reach the board's ports can run code on it: use it in networks that you trust.

On the machine that compiles, `loopgene devices --tracker {tracker}` shows the board, and an
experiment measures on it with

```yaml
backend: {{name: rpc, tracker: "{tracker}", key: {key}, target: {target}}}
```
"""
_GPU_README = """
Kernels run on the board's GPU. It needs NVIDIA's driver for CUDA 13 or newer, and libcudart.so.13
where programs find it: if it is elsewhere, set LD_LIBRARY_PATH to its folder for `serve.py`. No
nvcc is needed there.
"""
_SERVICE_README = """
To lend the board whenever it runs, without anybody logged in:

```
mkdir -p ~/.config/systemd/user && cp {service} ~/.config/systemd/user/
systemctl --user enable --now {service} && loginctl enable-linger
```

A variable that `serve.py` needs is an `Environment=` line in the unit's section `[Service]`.
"""
_UNIT = """\
[Unit]
Description=LoopGene: TVM RPC server of this board
After=network-online.target

[Service]
WorkingDirectory=%h/{folder}
ExecStart=%h/{folder}/venv/bin/python {serve}
Restart=always
RestartSec=5

[Install]
WantedBy=default.target
"""


@dataclass(frozen=True)
class Kit:
    """What a board is told.

    Attributes:
        target: Name of the board's target, as for `board_target`.
        tracker: "host:port" of the tracker, as the board reaches it.
        key: Of the boards that are alike.
        service: Whether a systemd unit is written too.
    """

    target: str
    tracker: str
    key: str
    service: bool = False


def write_kit(folder: Path, kit: Kit) -> list[Path]:
    """Write the folder; the files, in order.

    Raises:
        BackendError: The target is unknown, the key is no word, or the folder cannot be written.
    """
    on_gpu = board_target(kit.target, 1)["kind"] == "cuda"
    if not re.fullmatch(_KEY, kit.key):
        raise BackendError(f"The key {kit.key!r} must be a word without ':' or spaces.")
    command = f"serve.py --tracker {kit.tracker} --key {kit.key} --runtime-only"
    fields = {
        "folder": folder.resolve().name,
        "key": kit.key,
        "python": ".".join(map(str, LEAST_PYTHON)),
        "serve": command,
        "service": SERVICE,
        "target": kit.target,
        "tracker": kit.tracker,
    }
    readme = _README + (_GPU_README if on_gpu else "") + (_SERVICE_README if kit.service else "")
    texts = {
        "README.md": readme.format(**fields),
        "requirements.txt": "\n".join(requirements()) + "\n",
    }
    if kit.service:
        texts[SERVICE] = _UNIT.format(**fields)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text)
        copies = [
            shutil.copyfile(str(script.__file__), folder / Path(str(script.__file__)).name)
            for script in (serve, gpu_runtime)
        ]
    except OSError as error:
        reason = error.strerror or str(error)
        raise BackendError(f"The board kit cannot be written to {folder}: {reason}") from error
    return sorted([*(folder / name for name in texts), *copies])


def own_address() -> str:
    """The address under which others are likely to reach this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            # Nothing is sent: connecting a datagram socket only chooses the interface.
            sock.connect(("192.0.2.1", TRACKER_PORT))
        except OSError:
            return socket.gethostname()
        return str(sock.getsockname()[0])
