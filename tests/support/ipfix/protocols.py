"""The protocols of a session, for tests that hold for each."""

from __future__ import annotations

from dataclasses import dataclass

from probe.flow.owner import OwnerTable
from probe.ipfix.decode import CollectingProcess
from probe.ipfix.message import Train
from probe.ipfix.session import ExportSession, Options
from probe.ipfix.template import Field, TemplateDefinition
from probe.ipfix.wire import IPFIX, NETFLOW9, Wire
from probe.mapping import Encoder, Privacy, load_elements, load_netflow9, load_options
from tests.support.records import NOW_S

ELEMENTS = load_elements()
NETFLOW9_FIELDS = load_netflow9(ELEMENTS)
EVERYTHING = Privacy(command_lines=True)
_BOOT_S = NOW_S - 3_000_000.0  # 34 days of uptime


@dataclass(frozen=True)
class Protocol:
    """A protocol; ``fields`` adapts the fields of a Template, or returns None if it cannot."""

    name: str
    wire: Wire

    @property
    def is_netflow9(self) -> bool:
        return self.wire is NETFLOW9

    def field(self, field: Field) -> Field | None:
        return NETFLOW9_FIELDS.field(field) if self.is_netflow9 else field

    def session(
        self, definition: TemplateDefinition, owners: OwnerTable, max_message: int = 1400
    ) -> ExportSession:
        boot_s = _BOOT_S if self.is_netflow9 else 0.0
        own = definition.changed(lambda field: [found] if (found := self.field(field)) else [])
        types = [] if self.is_netflow9 else [load_options(ELEMENTS)["types"]]
        return ExportSession(
            Encoder(own, owners, EVERYTHING, boot_s=boot_s),
            odid=7,
            max_message=max_message,
            wire=self.wire,
            options=Options(types),
            boot_s=boot_s,
        )


PROTOCOLS = [Protocol("ipfix", IPFIX), Protocol("netflow9", NETFLOW9)]


def collecting_process() -> CollectingProcess:
    return CollectingProcess(ELEMENTS, NETFLOW9_FIELDS)


def messages_of(trains: list[Train]) -> list[bytes]:
    return [bytes(message) for train in trains for message in train]
