"""What is known of the devices of one key: who works, who has to prove it, who is set aside."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

_log = logging.getLogger(__name__)

FAILURES = 2
"""After so many failures in a row a device is set aside for a while."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0


class Standing(StrEnum):
    """What a device may be given."""

    READY = "ready"
    UNPROVEN = "unproven"
    """The reference kernel first: it is new, or has failed."""
    ASIDE = "aside"
    """Nothing for now."""


@dataclass
class _Device:
    proven: bool = False
    failures: int = 0
    until: float = 0.0
    reason: str = ""


class DeviceBook:
    """The standing of every device that was ever granted.

    Args:
        clock: Tells the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._devices: dict[str, _Device] = {}

    def standing(self, device: str) -> Standing:
        known = self._devices.get(device)
        if known is None:
            return Standing.UNPROVEN
        if self._clock() < known.until:
            return Standing.ASIDE
        return Standing.READY if known.proven else Standing.UNPROVEN

    def proved(self, device: str) -> None:
        """It has computed something right; what went wrong before is over."""
        if self._get(device).failures >= FAILURES:
            _log.warning("Device %s works again.", device)
        self._devices[device] = _Device(proven=True)

    def failed(self, device: str, reason: str) -> None:
        """It was lost, or does not do what it should; the more often, the longer it rests."""
        known = self._get(device)
        known.proven = False
        known.failures += 1
        known.reason = reason
        if known.failures < FAILURES:
            _log.info("Device %s: %s.", device, reason)
            return
        pause_s = min(FIRST_PAUSE_S * 2 ** (known.failures - FAILURES), LONGEST_PAUSE_S)
        known.until = self._clock() + pause_s
        _log.warning("Device %s is set aside for %g s: %s.", device, pause_s, reason)

    def forgive(self, device: str) -> None:
        """Its last failure was a candidate's; it still has to prove itself."""
        known = self._get(device)
        known.failures = max(0, known.failures - 1)
        known.until = 0.0

    @property
    def ready(self) -> int:
        """How many devices work."""
        return sum(self.standing(name) is Standing.READY for name in self._devices)

    @property
    def troubles(self) -> str:
        """Why devices do not work, one line; "" when there is nothing to say."""
        bad = {n: d.reason for n, d in self._devices.items() if d.reason}
        return "; ".join(f"{name}: {reason}" for name, reason in sorted(bad.items()))

    def _get(self, device: str) -> _Device:
        return self._devices.setdefault(device, _Device())
