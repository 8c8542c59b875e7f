"""Sends records to one destination of IPFIX or NetFlow v9: an encoder, a session and a sender.

Records wait unencoded, in lots, and become messages just before these leave. There are two reasons:

- Encoding is spread over the time that the pace of the destination takes anyhow. Encoding all of an
  export at once would occupy a core at every tick.
- A message is still in the processor's cache when the kernel copies it.

``send`` encodes lots until the sender has enough for now; each ``pump`` continues with that. If
more than ``_MOST_WAITING`` octets of records wait, lots are encoded early. The bound of the
sender's queue then applies to their messages.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from probe.export.transports.sender import PacedSender, Sender, StreamSender
from probe.export.transports.statistics import SendStatistics
from probe.flow.biflow import pair_directions
from probe.flow.rows import Rows
from probe.ipfix.session import ExportSession
from probe.mapping import Encoder
from probe.units import octets

_log = logging.getLogger(__name__)

#: The type of ``PacedSender.burst``.
Burst = Callable[[float], float | None]

#: Records encoded at a time. With fewer, the calls of numpy cost more than the work they do.
_LOT = 4096
#: Octets of records that may wait. Beyond that they become messages, which the sender bounds.
_MOST_WAITING = 32 << 20


class MessageSink:
    """A Sink that encodes records as messages and gives them to a sender."""

    def __init__(self, sender: Sender, session: ExportSession, encoder: Encoder, biflow: bool):
        self.sender = sender
        self.session = session
        self.encoder = encoder
        self.name = str(sender.destination)
        self.burst: Burst | None = sender.burst if isinstance(sender, PacedSender) else None
        self.pairs_directions = biflow
        self._room = session.max_message  # of the path, when messages were last made for it
        self._is_fragmenting = False
        self._lots: deque[Rows] = deque()
        self._waiting = 0  # octets of ``_lots``
        self._taken = 0  # records, since the start

    def send(self, records: Rows, now_s: float) -> None:
        """Takes ``records``, and queues Templates if these are due; ``now_s`` is Unix time.

        Encodes only what the sender can use now; the rest follows in ``pump``.
        """
        self._taken += len(records)
        if self.pairs_directions:
            records, before = pair_directions(records), len(records)
            self._taken += len(records) - before
        self._fit_path()
        if self.sender.needs_templates():
            self._begin(now_s)
        for start in range(0, len(records), _LOT):
            self._lots.append(records[start : start + _LOT])
        self._waiting += records.nbytes
        if not self._lots:
            self._encode(records, now_s)
        while self._lots and (self._waiting > _MOST_WAITING or not self.sender.is_stocked):
            self._encode_next(now_s)
            if self._lots:  # a tick may bring tens of megabytes
                self._pump_sender(time.monotonic())

    def pump(self, now: float) -> float | None:
        """Does ``Sender.pump``, and encodes more records when the sender can use them.

        If a new Transport Session has begun, its Templates are sent first.
        """
        due = self._pump_sender(now)
        while self._lots and not self.sender.is_stocked:
            self._encode_next(time.time())
            due = self._pump_sender(now)
        return due

    def _pump_sender(self, now: float) -> float | None:
        sender = self.sender
        self._fit_path()
        due = sender.pump(now)
        is_new = self._fit_path()
        if sender.needs_templates():
            is_new |= self._begin(time.time())
        return sender.pump(now) if is_new else due

    def _encode_next(self, now_s: float) -> None:
        lot = self._lots.popleft()
        self._waiting -= lot.nbytes
        self._encode(lot, now_s)

    def _encode(self, records: Rows, now_s: float) -> None:
        self.sender.enqueue(self.session.messages(records, now_s))

    def _encode_all(self, now_s: float) -> None:
        while self._lots:
            self._encode_next(now_s)

    def _begin(self, now_s: float) -> bool:
        """Provides the Templates that the sender needs.

        Returns True if a new Transport Session began and its Templates are queued. Returns False if
        the session goes on, and repeats the Templates with its next message.
        """
        first = self.sender.first_sequence(self.session.odid)
        if first is None:
            self.session.resend_templates()
            return False
        backlog = self.sender.take_backlog()
        self.sender.enqueue(self.session.restart(backlog, now_s, first))
        return True

    def _fit_path(self) -> bool:
        """Makes messages as large as the path takes now. Returns True if that size has changed.

        When it has become smaller, the waiting messages are cut to the new size. A router may have
        dropped earlier messages that were too long, so Templates and types are sent again.
        """
        room, before = self.sender.max_message, self._room
        if room == before:
            return False
        self._room = self.session.max_message = room
        if room < before:
            self.session.resend_templates()
            self.sender.enqueue(self.session.recut(self.sender.take_backlog()))
        self._tell_fragments()
        return True

    def _tell_fragments(self) -> None:
        """Warns if one record may be larger than the path takes, once until it fits again."""
        least, was_fragmenting = self.session.least_message, self._is_fragmenting
        self._is_fragmenting = self._room < least
        if self._is_fragmenting and not was_fragmenting:
            _log.warning(
                "%s: the path takes messages of %d octets, and a record may need %d: such messages "
                "leave in fragments, which some firewalls drop. Raise the MTU on the way, or use a "
                "profile with fewer elements",
                self.name,
                self._room,
                least,
            )

    def finish(self, now_s: float) -> None:
        """Queues all records that wait, then the options with the final figures."""
        self._encode_all(now_s)
        self.sender.enqueue(self.session.last_messages(now_s))

    @property
    def statistics(self) -> SendStatistics:
        return self.sender.statistics

    @property
    def is_down(self) -> bool:
        return self.sender.is_down

    @property
    def is_reliable(self) -> bool:
        return self.sender.is_reliable

    @property
    def backlog(self) -> int:
        """Octets that wait: those of messages, and those of records that are not encoded yet."""
        return self.sender.backlog + self._waiting

    @property
    def unfinished(self) -> int:
        """Octets for which the probe should wait a while when it ends.

        Over a connection these are all that have not arrived, even while it is broken. Otherwise
        they are those that wait for a destination which is reachable.
        """
        sender = self.sender
        if isinstance(sender, StreamSender):
            return sender.unfinished + self._waiting
        return 0 if self.is_down else self.backlog

    def forget(self, owners: list[int]) -> None:
        self.encoder.forget(owners)

    def owners_in_use(self) -> set[int]:
        """Returns the indices of the owners in the records that wait."""
        sides = ("source_owner", "destination_owner")
        found = [np.unique(lot[side]).tolist() for lot in self._lots for side in sides]
        return set().union(*found)

    def announce_interfaces(self) -> None:
        self.session.resend_options()

    def local_address(self) -> tuple[str, int] | None:
        return self.sender.local_address()

    def summary(self) -> str:
        sent, session = self.statistics, self.session.statistics
        return (
            f"{sent.sent_messages} messages ({octets(sent.sent_octets)}) with "
            f"{sent.sent_records} Data Records ({session.option_records} of options), "
            f"{session.template_records} Template Records"
        )

    def flush(self, deadline: float) -> bool:
        self._encode_all(time.time())
        return self.sender.flush(deadline)

    def close(self) -> None:
        self._encode_all(time.time())
        self.sender.close()

    def abandon(self, records: Rows | None) -> None:
        """Closes after an exception in this sink. Drops and counts all that was not sent."""
        try:
            self.sender.close()
        finally:
            for lot in self._lots:
                self.statistics.count_lost(len(lot), _sum(lot, "packets"), _sum(lot, "octets"))
            self._lots.clear()
            self._waiting = 0
            sent = self.statistics
            known = sent.sent_flow_records + sent.dropped_flow_records
            sent.count_lost(
                max(0, self._taken - known)
            )  # records of a lot that failed while it was encoded


def _sum(records: Rows, name: str) -> int:
    """Returns the sum of a column, with that of the reverse direction if records have one."""
    names = [one for one in (name, f"reverse_{name}") if one in (records.dtype.names or ())]
    return sum(int(records[one].sum()) for one in names)
