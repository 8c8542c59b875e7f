"""What every destination is to the probe, whatever it is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from probe.export.transports.statistics import SendStatistics
from probe.flow.rows import Rows

if TYPE_CHECKING:
    from probe.interfaces.interface import Interface


class Sink(Protocol):
    """Nothing here blocks but ``flush`` and ``close``; bad luck is counted, never raised."""

    #: As the user wrote it, without its options.
    name: str

    @property
    def statistics(self) -> SendStatistics: ...

    @property
    def is_down(self) -> bool:
        """Unreachable, and to be tried again."""

    @property
    def is_reliable(self) -> bool:
        """Up, and not just being tried again: what others could take may be given to it."""

    @property
    def backlog(self) -> int:
        """Octets that wait to be sent."""

    def send(self, records: Rows, now_s: float) -> None:
        """Take Flow Records (RECORD_DTYPE) that are due at ``now_s`` (Unix time)."""

    def pump(self, now: float) -> float | None:
        """Send what can be at ``now`` (monotonic s); when to call again, None: nothing waits."""

    def finish(self, now_s: float) -> None:
        """No more records will come: queue what belongs at the end."""

    def forget(self, owners: list[int]) -> None:
        """What was encoded of these indices of the OwnerTable is stale."""

    def announce_interfaces(self) -> None:
        """An interface has come or has another name."""

    def local_address(self) -> tuple[str, int] | None:
        """(address, port) that it sends from; None without a socket."""

    def summary(self) -> str:
        """One line for the end of a run."""

    def flush(self, deadline: float) -> bool:
        """Send until nothing waits or ``deadline`` (monotonic s). True: all of it left."""

    def close(self) -> None:
        """What still waits is dropped and counted."""


@runtime_checkable
class EventSink(Sink, Protocol):
    """A destination that takes more than flows."""

    @property
    def takes_events(self) -> bool:
        """Whether ``send_events`` does anything, as the destination was configured."""

    def send_events(self, events: Rows, now_s: float) -> None:
        """EVENT_DTYPE, oldest first."""

    def send_sockets(self, sockets: Rows, now_s: float) -> None:
        """SOCKET_DTYPE: those that came or went."""

    def send_interfaces(self, links: Sequence[Interface], now_s: float) -> None:
        """Counters of all interfaces that are shown."""


@runtime_checkable
class Reopening(Protocol):
    """A destination that is a file which others may move away."""

    @property
    def can_reopen(self) -> bool: ...

    def reopen(self) -> None:
        """Go on in the file at the path, which may be a new one."""


@runtime_checkable
class OwnerKeeping(Protocol):
    """A destination that keeps indices of the OwnerTable, and describes the owners later."""

    def owners_in_use(self) -> set[int]: ...


@runtime_checkable
class Abandoning(Protocol):
    """A destination that knows what it has not sent when it was given up in the midst of a call."""

    def abandon(self, records: Rows | None) -> None:
        """Close without sending, and count what waits as dropped, ``records`` of the call too."""


@runtime_checkable
class Pairing(Protocol):
    """A destination that may make one thing of both directions of a flow."""

    @property
    def pairs_directions(self) -> bool: ...
