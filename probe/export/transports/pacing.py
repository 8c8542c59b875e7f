"""How fast octets may leave: a token bucket without a clock of its own."""

from __future__ import annotations

#: Octets that may leave at once: with what the kernel charges for each message, half of a
#: collector's default socket buffer.
DEFAULT_BURST = 64_000


class TokenBucket:
    """``rate`` octets a second on average, ``burst`` at once; a rate of 0 is no limit."""

    def __init__(self, rate: float, burst: float = DEFAULT_BURST) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._updated = float("inf")

    @property
    def is_limited(self) -> bool:
        return self._rate > 0

    def allowance(self, now: float) -> float:
        """Octets that may leave at ``now`` (monotonic seconds); infinite without a limit."""
        if not self._rate:
            return float("inf")
        if now > self._updated:
            self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate)
        self._updated = now
        return self._tokens

    def spend(self, octets: int) -> None:
        self._tokens -= octets

    def spend_full(self, octets: int, now: float) -> float:
        """At ``now`` all of a burst had been saved up. When it is again; the rate is a limit."""
        self._tokens, self._updated = self._burst - octets, now
        return now + octets / self._rate

    def due(self, now: float) -> float:
        """When a whole burst may leave again: every wake-up more costs, on cores that are busy."""
        if not self._rate:
            return now
        return now + (self._burst - self.allowance(now)) / self._rate
