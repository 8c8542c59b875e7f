"""How a destination is reached: its name looked up, its addresses in turn, pauses that grow.

A burst of failures is one warning for each reason, however long it lasts and often it is tried.
"""

from __future__ import annotations

import logging

from probe.export.transports.destination import Destination
from probe.export.transports.resolve import Address, Resolution
from probe.export.transports.statistics import SendStatistics

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
#: A name with several addresses: the next one is tried at once.
_NEXT_ADDRESS_PAUSE_S = 0.05
#: A destination that worked for so long without an error is reachable again.
_RECOVERED_S = 2.0
_MOST_REASONS = 4
#: A name is looked up again after so long, though all seems well.
DEFAULT_LOOK_UP_S = 60.0

_log = logging.getLogger(__name__)


class Retry:
    """When to try again. All times are monotonic seconds."""

    def __init__(self, destination: Destination, statistics: SendStatistics) -> None:
        self._destination = destination
        self._statistics = statistics
        self.retry_at = 0.0
        #: From the first failure until the destination has been working for a while.
        self.is_failing = False
        self._pause_s = _FIRST_PAUSE_S
        self._well_since: float | None = None
        self._reasons: set[str] = set()

    def fail(self, reason: str, now: float, pause_s: float | None = None) -> None:
        """Count, say so once per burst, and pause: ``pause_s``, or longer every time."""
        self._statistics.errors += 1
        if not self.is_failing:
            self.is_failing = True
            self._statistics.bursts += 1
        self.warn(f"{reason}; trying again")
        self._well_since = None
        if pause_s is None:
            pause_s = self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        self.retry_at = now + pause_s

    def warn(self, text: str) -> None:
        """Say what is new: who went away may come back with a wrong certificate."""
        if text not in self._reasons and len(self._reasons) < _MOST_REASONS:
            self._reasons.add(text)
            _log.warning("%s: %s", self._destination, text)

    def works(self, now: float) -> None:
        """Something arrived, as far as can be told."""
        if self._well_since is None:
            self._well_since = now

    def notice_recovery(self, now: float) -> None:
        if (
            self.is_failing
            and self._well_since is not None
            and now - self._well_since > _RECOVERED_S
        ):
            self.is_failing = False
            self._reasons.clear()
            self._pause_s = _FIRST_PAUSE_S
            _log.info("%s: reachable again", self._destination)


class Reach(Retry):
    """Which address to try, and when; whether the name has moved away from the one in use."""

    def __init__(
        self,
        destination: Destination,
        statistics: SendStatistics,
        look_up_s: float = DEFAULT_LOOK_UP_S,
    ) -> None:
        super().__init__(destination, statistics)
        self._look_up_s = look_up_s
        self._look_up_at = 0.0
        self._address: Address | None = None  # in use
        self._resolution: Resolution | None = None
        self._second_look: Resolution | None = None
        self._attempts = 0
        self._more_addresses = False

    @property
    def is_resolving(self) -> bool:
        return self._resolution is not None

    def next_address(self, now: float) -> Address | None:
        """The address to try at ``now``; None while it is too early or a look-up lasts.

        OSError: the name has no address. The caller answers that, too, with ``fail``.
        """
        if self._resolution is None:
            if now < self.retry_at:
                return None
            self._resolution = self._look_up()
        addresses = self._resolution.addresses
        if addresses is None:
            return None
        reason, self._resolution = self._resolution.error, None
        if not addresses:
            self._more_addresses = False
            raise OSError(0, f"cannot look up the name: {reason}")
        address = addresses[self._attempts % len(addresses)]
        self._attempts += 1
        self._more_addresses = self._attempts % len(addresses) != 0
        self._address, self._look_up_at = address, now + self._look_up_s
        return address

    def has_moved(self, now: float) -> bool:
        """Whether the name has other addresses now, and no longer the one in use.

        Then ``next_address`` gives one of them. A look-up in vain says nothing.
        """
        if self._second_look is None:
            if now < self._look_up_at:
                return False
            self._look_up_at = now + self._look_up_s
            self._second_look = self._look_up()
        found = self._second_look.addresses
        if found is None:
            return False
        resolution, self._second_look = self._second_look, None
        if not found or self._address in found:
            return False
        self._resolution, self._attempts = resolution, 0
        _log.info("%s: has another address now", self._destination)
        return True

    def _look_up(self) -> Resolution:
        return Resolution(self._destination.host, self._destination.port)

    def fail(self, reason: str, now: float, pause_s: float | None = None) -> None:
        if pause_s is None and self._more_addresses:
            pause_s = _NEXT_ADDRESS_PAUSE_S
        super().fail(reason, now, pause_s)


def reason_of(error: OSError) -> str:
    return error.strerror or str(error)
