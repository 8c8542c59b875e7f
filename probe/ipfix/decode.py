"""The Collecting Process: decodes messages of any exporter of IPFIX or NetFlow v9 to records.

The module does no I/O. ``CollectingProcess.decode(message, peer)`` returns the flow records of one
message as dicts from element name to value. ``decode_message`` returns its option records too.
Templates, type information (RFC 5610) and sequence numbers are kept per peer, protocol and
Observation Domain (NetFlow v9: source id). An element without a name is called
'enterprise/number'.

The process reads all of a message that can be read. Devices break the rules, and users expect to
see what nfdump and Wireshark show of them. Each breach is counted by its kind
(``statistics.oddities``) and reported once per kind. A message with octets that could not be read
counts as an error besides. Only a message without a header of IPFIX or NetFlow v9 is refused.

A sender of garbage occupies little more memory than it sends, and all senders together no more than
a fixed bound.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol as Structural

from probe.errors import DecodeError
from probe.ipfix.announcement import SCOPE_PEN, Elements, Protocol
from probe.ipfix.decode_ipfix import IPFIX
from probe.ipfix.decode_netflow9 import NETFLOW9, scope
from probe.ipfix.domain import Domain, MessageReader
from probe.ipfix.elements import Element, ElementTable
from probe.ipfix.readers import Readers
from probe.ipfix.record import Record
from probe.ipfix.statistics import CollectorStatistics
from probe.ipfix.types import TYPES

__all__ = ["CollectingProcess", "CollectorStatistics", "Decoded", "Record"]

_PROTOCOLS: dict[int, Protocol] = {one.version: one for one in (IPFIX, NETFLOW9)}
_REVERSE_PEN = 29305  # RFC 5103
#: Bounds for all domains together: how many there are, their octets, the fields of their readers.
MAX_DOMAINS, _MAX_WEIGHT, _MAX_READER_FIELDS = 4096, 16 << 20, 1 << 15
NO_ELEMENTS: Mapping[int, Element] = {}
_UNKNOWN = Element("", 0, 0, TYPES["octetArray"])
_OLD_NETFLOW = (1, 5, 6, 7, 8)
_SFLOW = (b"\0\0\0\2", b"\0\0\0\4", b"\0\0\0\5")
#: Other protocols that an error names. sFlow begins with two zeros.
_FOREIGN = (0, *_OLD_NETFLOW)

_Key = tuple[Hashable, int, int]


class FieldTypes(Structural):
    """Looks up field types of NetFlow v9, as ``probe.ipfix.netflow9.Netflow9Table`` does."""

    def element(self, number: int) -> Element | None: ...


@dataclass(frozen=True, slots=True)
class Decoded:
    """The records of one message, in the order of their arrival.

    ``losses`` describes what could not be read, one line for each kind.
    """

    flows: list[Record]
    options: list[Record]
    losses: Sequence[str] = ()


class CollectingProcess:
    """Decodes the messages of any number of peers.

    ``registry`` holds the elements of IANA that are not in ``elements``. Without ``netflow9`` a
    field type of NetFlow v9 is read as the IANA element of that number. ``tell`` is called with a
    peer and a description, once for each kind of oddity.
    """

    def __init__(
        self,
        elements: ElementTable,
        netflow9: FieldTypes | None = None,
        registry: Mapping[int, Element] = NO_ELEMENTS,
        tell: Callable[[Hashable, str], None] = lambda peer, text: None,
    ) -> None:
        self.statistics = CollectorStatistics()
        ipfix = _ipfix_elements(elements, registry)
        self._elements = ipfix, _netflow9_elements(ipfix, netflow9)
        self._tell = tell
        self._told: set[Hashable] = set()
        #: Ordered by the last message; the domain that was silent longest comes first.
        self._domains: dict[_Key, Domain] = {}
        self._readers = Readers(_MAX_READER_FIELDS)
        self._weight = 0

    def decode(self, octets: bytes, peer: Hashable, is_reliable: bool = False) -> list[Record]:
        """Returns the flow records of ``decode_message``."""
        return self.decode_message(octets, peer, is_reliable).flows

    def decode_message(self, octets: bytes, peer: Hashable, is_reliable: bool = False) -> Decoded:
        """Returns the records of one message.

        ``peer`` names the Transport Session; the first item of a tuple is its host.
        ``is_reliable`` is True for every transport but UDP. Raises DecodeError, which is counted,
        if the message is neither IPFIX nor NetFlow v9.
        """
        try:
            protocol = _protocol(octets)
            return self._decode(protocol, octets, peer, is_reliable)
        except (DecodeError, struct.error) as error:
            self.statistics.errors += 1
            version = int.from_bytes(octets[:2], "big")
            kind = version if version in _FOREIGN else None
            self._tell_once(("refused", kind), peer, f"refused: {error}")
            raise DecodeError(str(error)) from None

    def forget(self, peer: Hashable) -> None:
        """Drops the Templates of ``peer``, whose Transport Session has ended."""
        for key in [key for key in self._domains if key[0] == peer]:
            self._remove(key)

    def _decode(self, protocol: Protocol, octets: bytes, peer: Hashable, reliable: bool) -> Decoded:
        if len(octets) < (least := _HEADER_OCTETS[protocol.version]):
            raise DecodeError(f"{len(octets)} octets are no message: its header has {least}")
        key = peer, protocol.version, int.from_bytes(octets[least - 4 : least], "big")
        domain = self._domains.get(key) or Domain()
        elements = self._elements[protocol is NETFLOW9]
        reader = MessageReader(domain, protocol, elements, self._readers, reliable)
        before = domain.weight if key in self._domains else 0
        reader.read(octets, self.statistics)
        if domain.is_worth_keeping or before:
            self._keep(key, domain, domain.weight - before)
        for kind, detail in reader.oddities.first.items():
            became = "this part was not read" if kind.is_loss else "read all the same"
            text = f"{kind.text}: {detail}, in domain {key[2]}; {became}"
            self._tell_once(kind, peer, f"{text}, and more of the kind are only counted")
        if reader.counted.unknown_sets:
            text = "records came before their Template, which the exporter sends again in a while"
            self._tell_once("unknown", peer, text)
        if reader.counted.template_errors:
            text = "Templates not obeyed: withdrawn over UDP, given another meaning, or too many"
            self._tell_once("template", peer, f"{text}; more are only counted")
        return Decoded(reader.flows, reader.options, reader.oddities.losses)

    def _tell_once(self, kind: Hashable, peer: Hashable, text: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self._tell(peer, text)

    def _keep(self, key: _Key, domain: Domain, growth: int) -> None:
        self._domains.pop(key, None)
        self._domains[key] = domain
        self._weight += growth
        if len(self._domains) > MAX_DOMAINS or self._weight > _MAX_WEIGHT:
            self._evict(key)

    def _evict(self, latest: _Key) -> None:
        """Drops the least useful domains until there is room again.

        Domains whose messages gave the fewest records go first. Among equals, those of the host
        with the most domains go first, then those that were silent longest. So a flood from one
        host, or from forged hosts, displaces only itself.
        """
        domains, per_host = self._domains, Counter(map(_host, self._domains))
        order = {key: number for number, key in enumerate(domains)}
        victims = sorted(
            (key for key in domains if key != latest),
            key=lambda key: (domains[key].useful.bit_length(), -per_host[_host(key)], order[key]),
        )
        text = "one domain too many: those that had least to say are forgotten"
        self._tell_once("evicted", latest[0], f"{text}, and counted")
        most, heaviest = MAX_DOMAINS * 15 // 16, _MAX_WEIGHT * 15 // 16
        for key in victims:
            if len(domains) <= most and self._weight <= heaviest:
                break
            self._remove(key)
            self.statistics.evicted_domains += 1

    def _remove(self, key: _Key) -> None:
        domain = self._domains.pop(key)
        self._weight -= domain.weight
        for known in domain.templates.values():
            self._readers.drop(known)


_HEADER_OCTETS = {10: 16, 9: 20}


def _host(key: _Key) -> Hashable:
    peer = key[0]
    return peer[0] if isinstance(peer, tuple) and peer else peer


def _protocol(octets: bytes) -> Protocol:
    """Returns the protocol of a message. Raises DecodeError, which names another if it can."""
    if len(octets) < 4:
        raise DecodeError(f"{len(octets)} octets are no message")
    version = int.from_bytes(octets[:2], "big")
    if version in _PROTOCOLS:
        return _PROTOCOLS[version]
    if version in _OLD_NETFLOW:
        raise DecodeError(
            f"this is NetFlow v{version}, which is not read: let the exporter send v9 or IPFIX"
        )
    if octets[:4] in _SFLOW:
        raise DecodeError(f"this is sFlow v{octets[3]}, which is not read: only IPFIX, NetFlow v9")
    raise DecodeError(f"version {version} is neither IPFIX nor NetFlow v9")


def _ipfix_elements(table: ElementTable, registry: Mapping[int, Element]) -> Elements:
    """Returns a look-up over our elements, those of IANA, and their reverses (RFC 5103).

    An element that none of them has is returned without a name.
    """

    def ianas(number: int) -> Element | None:
        return table.numbered(0, number) or registry.get(number)

    def element(pen: int, number: int) -> Element:
        if known := table.numbered(pen, number) if pen else ianas(number):
            return known
        if pen == _REVERSE_PEN and (forward := ianas(number)):
            name = f"reverse{forward.name[0].upper()}{forward.name[1:]}"
            return Element(name, pen, number, forward.type)
        return _UNKNOWN

    return element


def _netflow9_elements(ipfix: Elements, netflow9: FieldTypes | None) -> Elements:
    """Returns a look-up of field types: below 128 IANA's meanings, above those of ``netflow9``."""

    def element(pen: int, number: int) -> Element:
        if pen == SCOPE_PEN:
            return scope(number)
        known = netflow9.element(number) if netflow9 else None
        return known or ipfix(0, number)

    return element
