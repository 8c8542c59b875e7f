"""What the Exporting Process needs of a sender, whatever carries its messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from probe.export.transports.destination import Destination
from probe.export.transports.statistics import SendStatistics
from probe.ipfix.message import Train


class Sender(Protocol):
    """Nothing here blocks but ``flush`` and ``close``; bad luck is counted, never raised."""

    @property
    def destination(self) -> Destination: ...
    @property
    def statistics(self) -> SendStatistics: ...

    @property
    def max_message(self) -> int:
        """Octets of the largest message to make, which may change: then what waits is cut anew."""

    @property
    def is_down(self) -> bool:
        """Unreachable, and to be tried again."""

    @property
    def is_reliable(self) -> bool:
        """Up, and not just being tried again: what others could take may be given to it."""

    @property
    def backlog(self) -> int:
        """Octets that wait to be sent."""

    @property
    def is_stocked(self) -> bool:
        """It has all that can leave soon: further records had better wait to become messages."""

    def needs_templates(self) -> bool:
        """True once whenever the Templates have to be sent before any more records.

        Where ``first_sequence`` is None that is ``session.resend_templates()``. Else the next thing
        is ``enqueue(session.restart(take_backlog(), now_s, first_sequence(odid)))``.
        """

    def first_sequence(self, domain: int) -> int | None:
        """What the sequence numbers of a new Transport Session begin with in a domain.

        None: they go on, for the collector is the same and sees what was lost.
        """

    def take_backlog(self) -> list[Train]:
        """Remove and give all that waits, the oldest first."""

    def enqueue(self, trains: Iterable[Train]) -> None:
        """Take messages for ``pump``; those that find no room are dropped and counted."""

    def pump(self, now: float) -> float | None:
        """Send what can be at ``now`` (monotonic s); when to call again, None: nothing waits."""

    def flush(self, deadline: float) -> bool:
        """Send until nothing waits or ``deadline`` (monotonic s). True: all of it left."""

    def local_address(self) -> tuple[str, int] | None:
        """(address, port) that messages leave from; None without a socket."""

    def close(self) -> None:
        """End the Transport Session. What still waits is dropped and counted."""


@runtime_checkable
class PacedSender(Sender, Protocol):
    """A sender of which ``pump`` need not be called for every burst."""

    def burst(self, now: float) -> float | None:
        """As ``pump``, where the next burst is all that is due; None: ``pump`` is needed."""


@runtime_checkable
class StreamSender(Sender, Protocol):
    """A sender whose Transport Session ends with its connection (RFC 7011 section 10.4).

    In a new one nothing is sent until ``needs_templates`` has said True.
    """

    keeps_order: bool

    @property
    def unfinished(self) -> int:
        """Octets that have not arrived: kept while the collector is away, or on their way."""
