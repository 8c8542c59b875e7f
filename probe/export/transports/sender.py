"""Defines what the Exporting Process needs of a sender, whatever its transport."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from probe.export.transports.destination import Destination
from probe.export.transports.statistics import SendStatistics
from probe.ipfix.message import Train


class Sender(Protocol):
    """Sends messages to one destination.

    Only ``flush`` and ``close`` may block. Failures to send are counted, never raised.
    """

    @property
    def destination(self) -> Destination: ...
    @property
    def statistics(self) -> SendStatistics: ...

    @property
    def max_message(self) -> int:
        """Octets of the largest message to make. If it decreases, waiting messages must be cut."""

    @property
    def is_down(self) -> bool:
        """True while the destination is unreachable and waits for another attempt."""

    @property
    def is_reliable(self) -> bool:
        """Connected and past its retry period, so safe to assign flows to."""

    @property
    def backlog(self) -> int:
        """Octets that wait to be sent."""

    @property
    def is_stocked(self) -> bool:
        """True if it has all that can leave soon, so that further records should stay unencoded."""

    def needs_templates(self) -> bool:
        """Returns True, once, if the Templates have to be sent before any more records.

        If ``first_sequence`` is None, the caller then calls ``session.resend_templates()``. Else it
        calls ``enqueue(session.restart(take_backlog(), now_s, first_sequence(odid)))`` at once.
        """

    def first_sequence(self, domain: int) -> int | None:
        """Returns the first sequence number of a new Transport Session in a domain.

        None means that the numbers continue, so that the same collector can count what was lost.
        """

    def take_backlog(self) -> list[Train]:
        """Removes and returns all that waits, the oldest first."""

    def enqueue(self, trains: Iterable[Train]) -> None:
        """Takes messages for ``pump``. Those that find no room are dropped and counted."""

    def pump(self, now: float) -> float | None:
        """Sends what can leave at ``now`` (monotonic s).

        Returns when to call again, or None if nothing waits.
        """

    def flush(self, deadline: float) -> bool:
        """Sends until nothing waits or ``deadline`` (monotonic s). Returns True if all has left."""

    def local_address(self) -> tuple[str, int] | None:
        """Returns the (address, port) that messages leave from, or None without a socket."""

    def close(self) -> None:
        """Ends the Transport Session. What still waits is dropped and counted."""


@runtime_checkable
class PacedSender(Sender, Protocol):
    """A sender with a short path for bursts, so that not each of them needs ``pump``."""

    def burst(self, now: float) -> float | None:
        """Does what ``pump`` does if only the next burst is due.

        Returns when to call again, or None if ``pump`` is needed.
        """


@runtime_checkable
class StreamSender(Sender, Protocol):
    """A sender whose Transport Session ends with its connection (RFC 7011 section 10.4).

    In a new session nothing is sent until ``needs_templates`` has returned True.
    """

    keeps_order: bool

    @property
    def unfinished(self) -> int:
        """Octets that have not arrived: kept for an absent collector, or on their way."""
