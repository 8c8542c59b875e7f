"""Limits how fast octets leave, by a token bucket without a clock of its own."""

from __future__ import annotations

#: Octets that may leave at once. With the kernel's charge for each message they take half of a
#: collector's default socket buffer.
DEFAULT_BURST = 64_000


class TokenBucket:
    """Allows ``rate`` octets a second on average and ``burst`` at once. A rate of 0 is no limit."""

    def __init__(self, rate: float, burst: float = DEFAULT_BURST) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._updated = float("inf")

    @property
    def is_limited(self) -> bool:
        return self._rate > 0

    def allowance(self, now: float) -> float:
        """Returns the octets that may leave at ``now`` (monotonic s); infinite without a limit."""
        if not self._rate:
            return float("inf")
        if now > self._updated:
            self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate)
        self._updated = now
        return self._tokens

    def spend(self, octets: int) -> None:
        self._tokens -= octets

    def spend_full(self, octets: int, now: float) -> float:
        """Spends ``octets`` of a whole burst that had been saved up by ``now``.

        Returns when a whole burst is saved up again. The rate must not be 0.
        """
        self._tokens, self._updated = self._burst - octets, now
        return now + octets / self._rate

    def due(self, now: float) -> float:
        """Returns when a whole burst may leave. To wait for that saves wake-ups on busy cores."""
        if not self._rate:
            return now
        return now + (self._burst - self.allowance(now)) / self._rate
