"""What a tracker and its boards have to say: who is there, who is free, who works."""

from __future__ import annotations

import select
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backends.base import BackendError
from backends.rpc.ping import Ping, Pong, worker_spec
from backends.rpc.tracker import Grant, TrackerError, Waiting, summary
from backends.workers import Finished, WorkerPool
from backends.workers.outcomes import failure_of

MOST_ASKED = 32
"""Free boards of one key that are looked at."""
GRANT_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class Key:
    """The boards that are alike.

    Attributes:
        name: The key.
        boards: Addresses "host:port" of all that are registered, in order.
        free: How many of them could be granted.
        waiting: Requests for one that are not answered yet.
    """

    name: str
    boards: tuple[str, ...]
    free: int
    waiting: int


@dataclass(frozen=True)
class Found:
    """A board that the tracker has granted, and what became of a look at it.

    Attributes:
        board: Its address "host:port".
        pong: What it has answered; None when it has not.
        trouble: Why it cannot be used, one line; "" when it can.
    """

    board: str
    pong: Pong | None
    trouble: str


def keys(address: tuple[str, int]) -> list[Key]:
    """All keys of a tracker, in order.

    Raises:
        BackendError: The tracker cannot be reached, or what answers is none.
    """
    try:
        told = summary(address)
    except TrackerError as error:
        port = address[1]
        raise BackendError(
            f"{error}. Start one on that machine:"
            f" python -m tvm.exec.rpc_tracker --host 0.0.0.0 --port {port}"
        ) from None
    boards: dict[str, list[str]] = {}
    for server in told["server_info"]:
        host, port = server["addr"]
        boards.setdefault(str(server["key"]).partition(":")[2], []).append(f"{host}:{port}")
    queues: Mapping[str, Mapping[str, int]] = told["queue_info"]
    return [
        Key(
            name,
            tuple(sorted(boards.get(name, ()))),
            int(queues.get(name, {}).get("free", 0)),
            int(queues.get(name, {}).get("pending", 0)),
        )
        for name in sorted({*boards, *queues})
        if name in boards or queues[name].get("pending")
    ]


def look(
    address: tuple[str, int],
    found: Sequence[Key],
    target: str | Mapping[str, Any] | None = None,
) -> dict[str, list[Found]]:
    """Ping every free board of the keys; by key, in the order in which they were granted.

    Args:
        address: The tracker's.
        found: The keys.
        target: What the kernel is compiled for; what each board says of itself when not given.
    """
    most = min(MOST_ASKED, max((key.free for key in found), default=0))
    if not most:
        return {key.name: [] for key in found}
    with WorkerPool(worker_spec(), most) as pool:
        # A board waits a few seconds only for whom it was granted to.
        pool.run(Ping(None))
        return {key.name: _look(address, key, pool, target) for key in found}


def _look(
    address: tuple[str, int],
    key: Key,
    pool: WorkerPool,
    target: str | Mapping[str, Any] | None,
) -> list[Found]:
    waiting = Waiting(address, key.name)
    try:
        grants = _granted(waiting, min(key.free, MOST_ASKED))
        results = pool.imap(Ping(grant, target) for grant in grants)
        return [_found(grant, result) for grant, result in zip(grants, results, strict=True)]
    finally:
        waiting.close()


def _granted(waiting: Waiting, count: int) -> list[Grant]:
    waiting.want(count)
    grants: list[Grant] = []
    deadline = time.monotonic() + GRANT_TIMEOUT_S
    while len(grants) < count and waiting.sockets:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            break
        select.select(waiting.sockets, [], [], left_s)
        grants += waiting.take()
    return grants


def _found(grant: Grant, result: Any) -> Found:
    if not isinstance(result, Finished):
        return Found(grant.device, None, f"it does not answer: {failure_of(result).message}")
    pong: Pong = result.value
    return Found(grant.device, pong, pong.trouble)
