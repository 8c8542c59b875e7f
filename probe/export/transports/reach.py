"""Decides when to try a destination and at which address.

Theory of operation:

- After a failure the next attempt waits: 0.5 s at first, then twice as long each time, up to 10 s.
- The name is looked up before each attempt after a failure. If it has several addresses, they are
  tried in turn, and the next one follows almost at once. Only after the last one the pause grows.
- While all is well the name is looked up again every ``look_up_s``. If the address in use is no
  longer among the results, the destination has moved.
- A burst of failures lasts until the destination has worked for two seconds. It gives one warning
  for each reason, however long it lasts.
"""

from __future__ import annotations

import logging

from probe.export.transports.destination import Destination
from probe.export.transports.resolve import Address, Resolution
from probe.export.transports.statistics import SendStatistics

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
#: Pause before the next address, if the name has several.
_NEXT_ADDRESS_PAUSE_S = 0.05
#: A destination that works for this time without an error counts as reachable again.
_RECOVERED_S = 2.0
_MOST_REASONS = 4
#: Time after which a name is looked up again, although all seems well.
DEFAULT_LOOK_UP_S = 60.0

_log = logging.getLogger(__name__)


class Retry:
    """Decides when to try again after a failure. All times are monotonic seconds."""

    def __init__(self, destination: Destination, statistics: SendStatistics) -> None:
        self._destination = destination
        self._statistics = statistics
        self.retry_at = 0.0
        #: True from the first failure until the destination has worked for a while.
        self.is_failing = False
        self._pause_s = _FIRST_PAUSE_S
        self._well_since: float | None = None
        self._reasons: set[str] = set()

    def fail(self, reason: str, now: float, pause_s: float | None = None) -> None:
        """Counts a failure, warns once per burst, and sets the pause before the next attempt.

        The pause is ``pause_s``; without it, each pause is longer than the one before.
        """
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
        """Logs a reason that is new in this burst.

        Reasons can change: a collector may be unreachable and return with a wrong certificate.
        """
        if text not in self._reasons and len(self._reasons) < _MOST_REASONS:
            self._reasons.add(text)
            _log.warning("%s: %s", self._destination, text)

    def works(self, now: float) -> None:
        """Notes that sending works, as far as that can be known."""
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
    """Decides which address to try and when, and notices that the name has a new address."""

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
        """Returns the address to try at ``now``, or None if it is too early or a look-up runs.

        Raises OSError if the name has no address; the caller must then call ``fail`` as well.
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
        """Returns True if the name has other addresses now, and not the one in use.

        Then ``next_address`` returns one of them. A look-up that fails is ignored.
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
