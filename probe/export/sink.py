"""Defines what the probe needs of every destination, whatever its format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from probe.export.transports.statistics import SendStatistics
from probe.flow.rows import Rows

if TYPE_CHECKING:
    from probe.interfaces.interface import Interface


class Sink(Protocol):
    """A destination of flows.

    Only ``flush`` and ``close`` may block. Failures to send are counted, never raised.
    """

    #: The URL as the user wrote it, without its options.
    name: str

    @property
    def statistics(self) -> SendStatistics: ...

    @property
    def is_down(self) -> bool:
        """True while the destination is unreachable and waits for another attempt."""

    @property
    def is_reliable(self) -> bool:
        """Connected and past its retry period, so safe to assign flows to.

        A sink that has just recovered gets no flows while a healthy one exists.
        """

    @property
    def backlog(self) -> int:
        """Octets that wait to be sent."""

    def send(self, records: Rows, now_s: float) -> None:
        """Takes Flow Records (RECORD_DTYPE) that are due at ``now_s`` (Unix time)."""

    def pump(self, now: float) -> float | None:
        """Sends what can leave at ``now`` (monotonic s).

        Returns when to call again, or None if nothing waits.
        """

    def finish(self, now_s: float) -> None:
        """Queues what belongs at the end. No more records come after this call."""

    def forget(self, owners: list[int]) -> None:
        """Drops what was encoded for these indices of the OwnerTable: it is stale."""

    def announce_interfaces(self) -> None:
        """Notes that an interface is new or was renamed, so that names are sent again."""

    def local_address(self) -> tuple[str, int] | None:
        """Returns the (address, port) that it sends from, or None without a socket."""

    def summary(self) -> str:
        """Returns one line of figures for the end of a run."""

    def flush(self, deadline: float) -> bool:
        """Sends until nothing waits or ``deadline`` (monotonic s). Returns True if all has left."""

    def close(self) -> None:
        """Closes the destination. What still waits is dropped and counted."""


@runtime_checkable
class EventSink(Sink, Protocol):
    """A destination that also takes events, sockets and interface counters."""

    @property
    def takes_events(self) -> bool:
        """True if ``send_events`` has an effect with this destination's options."""

    def send_events(self, events: Rows, now_s: float) -> None:
        """Takes events (EVENT_DTYPE), the oldest first."""

    def send_sockets(self, sockets: Rows, now_s: float) -> None:
        """Takes sockets (SOCKET_DTYPE) that were opened or closed."""

    def send_interfaces(self, links: Sequence[Interface], now_s: float) -> None:
        """Takes the counters of all interfaces that are reported."""


@runtime_checkable
class Reopening(Protocol):
    """A destination that is a file, which log rotation may move away."""

    @property
    def can_reopen(self) -> bool: ...

    def reopen(self) -> None:
        """Continues in the file at the path, which may be a new one."""


@runtime_checkable
class OwnerKeeping(Protocol):
    """A destination that keeps indices of the OwnerTable and describes their owners later."""

    def owners_in_use(self) -> set[int]: ...


@runtime_checkable
class Abandoning(Protocol):
    """A destination that can be closed after an exception, and then counts what it has not sent."""

    def abandon(self, records: Rows | None) -> None:
        """Closes without sending. Counts what waits and ``records`` of this call as dropped."""


@runtime_checkable
class Pairing(Protocol):
    """A destination that may put both directions of a flow into one record."""

    @property
    def pairs_directions(self) -> bool: ...
