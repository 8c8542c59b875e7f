"""One export session per destination: encoder, session and socket side by side."""

from __future__ import annotations

import time
from collections.abc import Iterable

from probe.config import RunConfig
from probe.export.udp import UdpDestination, parse_destination
from probe.flow.batch import Rows
from probe.flow.owner import OwnerTable
from probe.ipfix.session import ExportSession
from probe.mapping import Encoder, load_elements, load_template
from probe.own_traffic import Endpoint


class Stream:
    """Records to one destination."""

    def __init__(self, destination: UdpDestination, session: ExportSession, encoder: Encoder):
        self.destination = destination
        self.session = session
        self.encoder = encoder

    def send(self, records: Rows, now_s: float) -> None:
        """Queue ``records``, and Templates when these are due; ``now_s`` is Unix time."""
        if self.destination.needs_templates():
            self.session.resend_templates()
        self.session.max_message = self.destination.max_message
        self.destination.enqueue(self.session.messages(records, now_s))


class Exporter:
    """All streams of the probe. Inert until ``open``, which raises ConfigError."""

    def __init__(self, config: RunConfig, owners: OwnerTable) -> None:
        self._config = config
        self._owners = owners
        self.streams: list[Stream] = []

    def open(self, destinations: Iterable[str]) -> None:
        parsed = [parse_destination(text) for text in destinations]
        definition = load_template(self._config.template, load_elements(self._config.pen))
        for target in parsed:
            encoder = Encoder(definition, self._owners, self._config.privacy)
            session = ExportSession(
                encoder, self._config.odid, target.max_message, self._config.template_refresh
            )
            self.streams.append(Stream(UdpDestination(target), session, encoder))

    def send(self, records: Rows, now_s: float) -> None:
        for stream in self.streams:
            stream.send(records, now_s)

    def pump(self, now: float) -> float | None:
        """Send what is due; when to call again (monotonic seconds), None: nothing waits."""
        due = [stream.destination.pump(now) for stream in self.streams]
        return min((time_s for time_s in due if time_s is not None), default=None)

    @property
    def backlog(self) -> int:
        """Octets that wait to be sent, none of them to a destination that is unreachable."""
        return sum(stream.destination.backlog for stream in self.streams)

    def local_addresses(self) -> list[Endpoint]:
        found = [stream.destination.local_address() for stream in self.streams]
        return [address for address in found if address]

    def forget(self, owners: list[int]) -> None:
        for stream in self.streams:
            stream.encoder.forget(owners)

    def close(self) -> None:
        """What still waits is dropped and counted."""
        for stream in self.streams:
            stream.destination.flush(time.monotonic())
            stream.destination.close()
