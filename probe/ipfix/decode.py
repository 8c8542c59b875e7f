"""The Collecting Process: messages to records, for any exporter of IPFIX or NetFlow v9.

Sans-io: ``CollectingProcess.decode(message, peer)`` gives the flow records of one message as
dicts from element name to value; ``decode_message`` its option records too. Templates, type
information (RFC 5610) and sequence numbers are kept per peer, protocol and Observation Domain
(NetFlow v9: source id). An element without a name is called 'enterprise/number'.

A message counts as a whole or not at all: when any octet of it cannot be accounted for, it is one
error, none of its Templates is learnt and none of its records is given out (RFC 7011 section 9.1);
the gap that it leaves in the sequence is counted as lost with the next message. The one exception
is a Set whose Template is not known: it is skipped and counted (``unknown_sets``).
"""

from __future__ import annotations

import struct
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol as Structural

from probe.errors import DecodeError
from probe.ipfix.announcement import Elements, Header, Protocol, read_sets
from probe.ipfix.decode_ipfix import IPFIX
from probe.ipfix.decode_netflow9 import NETFLOW9
from probe.ipfix.domain import CollectorStatistics, Domain, MessageReader
from probe.ipfix.elements import Element, ElementTable
from probe.ipfix.record import Record
from probe.ipfix.types import TYPES

__all__ = ["CollectingProcess", "CollectorStatistics", "Decoded", "Record"]

_PROTOCOLS: dict[int, Protocol] = {one.version: one for one in (IPFIX, NETFLOW9)}
_REVERSE_PEN = 29305  # RFC 5103
#: Bounds on what senders of garbage may make us keep: domains, and fields and types in all of them.
_MAX_DOMAINS, _MAX_WEIGHT = 1024, 1 << 18
_UNKNOWN = Element("", 0, 0, TYPES["octetArray"])


class FieldTypes(Structural):
    """Field types of NetFlow v9 (``probe.ipfix.netflow9.Netflow9Table``)."""

    def element(self, number: int) -> Element | None: ...


@dataclass(frozen=True, slots=True)
class Decoded:
    """Records of one message, in the order in which they arrived."""

    flows: list[Record]
    options: list[Record]


class CollectingProcess:
    """Decodes the messages of any number of peers.

    Without ``netflow9`` a field type of NetFlow v9 is IANA's element of that number.
    """

    def __init__(self, elements: ElementTable, netflow9: FieldTypes | None = None) -> None:
        self.statistics = CollectorStatistics()
        self._elements = _ipfix_elements(elements), _netflow9_elements(elements, netflow9)
        #: The one that was silent longest comes first.
        self._domains: dict[tuple[Hashable, int, int], Domain] = {}
        self._weight = 0

    def decode(self, octets: bytes, peer: Hashable, is_reliable: bool = False) -> list[Record]:
        """The flow records of ``decode_message``."""
        return self.decode_message(octets, peer, is_reliable).flows

    def decode_message(self, octets: bytes, peer: Hashable, is_reliable: bool = False) -> Decoded:
        """One message; DecodeError (counted) when it is not a valid one.

        ``peer`` names the Transport Session, which ``is_reliable`` unless it is UDP.
        """
        try:
            return self._decode(octets, peer, is_reliable)
        except (DecodeError, struct.error) as error:
            self.statistics.errors += 1
            raise DecodeError(str(error)) from None

    def forget(self, peer: Hashable) -> None:
        """The Transport Session of ``peer`` has ended, and its Templates with it."""
        for key in [key for key in self._domains if key[0] == peer]:
            self._weight -= self._domains.pop(key).weight

    def _decode(self, octets: bytes, peer: Hashable, is_reliable: bool) -> Decoded:
        protocol, header = _read_header(octets)
        sets = read_sets(octets, header.octets)
        key = peer, protocol.version, header.domain
        domain = self._domains.get(key) or Domain()
        elements = self._elements[protocol is NETFLOW9]
        reader = MessageReader(domain, protocol, header, elements, is_reliable)
        for number, body in sets:
            reader.read_set(number, body)
        reader.counted.messages, reader.counted.octets = 1, len(octets)
        self._weight -= domain.weight
        reader.commit(self.statistics)
        self._keep(key, domain)
        return Decoded(reader.flows, reader.options)

    def _keep(self, key: tuple[Hashable, int, int], domain: Domain) -> None:
        self._domains.pop(key, None)
        self._domains[key] = domain
        self._weight += domain.weight
        while len(self._domains) > _MAX_DOMAINS or (
            self._weight > _MAX_WEIGHT and len(self._domains) > 1
        ):
            self._weight -= self._domains.pop(next(iter(self._domains))).weight


def _read_header(octets: bytes) -> tuple[Protocol, Header]:
    if len(octets) < 2:
        raise DecodeError(f"{len(octets)} octets are no message")
    version = int.from_bytes(octets[:2], "big")
    if version not in _PROTOCOLS:
        raise DecodeError(f"version {version} is neither IPFIX nor NetFlow v9")
    return _PROTOCOLS[version], _PROTOCOLS[version].read_header(octets)


def _ipfix_elements(table: ElementTable) -> Elements:
    """Our own list, and the reverse of its elements (RFC 5103); else one without a name."""

    def element(pen: int, number: int) -> Element:
        if known := table.numbered(pen, number):
            return known
        if pen == _REVERSE_PEN and (forward := table.numbered(0, number)):
            name = f"reverse{forward.name[0].upper()}{forward.name[1:]}"
            return Element(name, pen, number, forward.type)
        return _UNKNOWN

    return element


def _netflow9_elements(table: ElementTable, netflow9: FieldTypes | None) -> Elements:
    def element(_: int, number: int) -> Element:
        known = netflow9.element(number) if netflow9 else table.numbered(0, number)
        return known or _UNKNOWN

    return element
