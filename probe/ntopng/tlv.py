"""Flows for ntopng: nDPI TLV records of topic ``flow``, both directions in one record.

The initiator is the source. What ntopng shows of an owner is encoded once per owner; all else is
written column by column. A counter holds 32 bits there, so a flow with more octets or packets than
that between two exports becomes several records, which ntopng adds up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

import numpy as np
from numpy.typing import NDArray

from probe.flow.biflow import pair_directions
from probe.flow.owner import OwnerTable
from probe.flow.rows import Rows
from probe.ipfix.message import Traffic
from probe.mapping.tables import Privacy
from probe.ntopng.tlv_columns import U32_MAX, FlowItems
from probe.ntopng.tlv_items import END_OF_RECORD, PREFIX, encode_text
from probe.ntopng.tlv_owners import OwnerItems

#: Records encoded at a time: what is allocated on the way stays in the processor's cache.
_CHUNK = 1024
#: A v2 header has 16 bits for the payload's size.
MAX_PAYLOAD = 65535
_COUNTERS = ("octets", "packets", "reverse_octets", "reverse_packets")
#: Told by the first of several records of a flow only.
_ONCE = ("retransmitted", "reverse_retransmitted")
EXPORTER_IPV4_ADDRESS = 130


@dataclass(frozen=True, slots=True)
class TlvPayload:
    """The payload of one message: ``flows`` records with the packets and octets they report."""

    octets: bytes
    flows: int
    packets: int
    flow_octets: int


class TlvEncoder:
    """Payloads of at most ``max_payload`` octets. ``exporter`` is our address there, if any."""

    def __init__(
        self,
        owners: OwnerTable,
        privacy: Privacy | None = None,
        exporter: str = "",
        max_payload: int = MAX_PAYLOAD,
    ) -> None:
        privacy = privacy or Privacy()
        constant = _exporter_item(exporter)
        self._flows = {version: FlowItems(version, constant) for version in (4, 6)}
        self._sources = OwnerItems(owners, "SRC", privacy)
        self._destinations = OwnerItems(owners, "DST", privacy, END_OF_RECORD)
        self._max_payload = max_payload

    def forget(self, indices: list[int]) -> None:
        """Drop what is kept of owners that were released: their indices may be given anew."""
        self._sources.forget(indices)
        self._destinations.forget(indices)

    def encode(self, records: Rows) -> Iterator[TlvPayload]:
        """``records`` (RECORD_DTYPE, all of a moment) in pairs; order may change."""
        flows = split_counters(pair_directions(records))
        self._sources.prepare(flows["source_owner"])
        self._destinations.prepare(flows["destination_owner"])
        for version, items in self._flows.items():
            chosen = np.flatnonzero(flows["ip_version"] == version)
            for start in range(0, len(chosen), _CHUNK):
                yield from self._encode(flows.take(chosen[start : start + _CHUNK]), items)

    def _encode(self, flows: Rows, items: FlowItems) -> Iterator[TlvPayload]:
        octets, ends = items.encode(flows)
        stops = ends.tolist()
        pieces = [b""] * (3 * len(flows))
        pieces[0::3] = [octets[a:b] for a, b in zip([0, *stops], stops, strict=False)]
        pieces[1::3] = self._sources.texts.take(flows["source_owner"]).tolist()
        pieces[2::3] = self._destinations.texts.take(flows["destination_owner"]).tolist()
        totals = ends + np.cumsum(
            self._sources.lengths.take(flows["source_owner"])
            + self._destinations.lengths.take(flows["destination_owner"])
        )
        traffic = _traffic(flows)
        for first, last in _cuts(totals, self._max_payload - len(PREFIX)):
            yield TlvPayload(
                PREFIX + b"".join(pieces[3 * first : 3 * last]),
                last - first,
                int(traffic.packets[first:last].sum()),
                int(traffic.octets[first:last].sum()),
            )


def split_counters(flows: Rows) -> Rows:
    """``flows`` (BIFLOW_DTYPE), those that 32 bits cannot count in equal shares."""
    if not len(flows):
        return flows
    highest = np.max([flows[name] for name in _COUNTERS], axis=0)
    if not (highest > U32_MAX).any():
        return flows
    counts = np.maximum(1, highest // U32_MAX + (highest % U32_MAX != 0)).astype(np.int64)
    split = flows.take(np.repeat(np.arange(len(flows)), counts))
    total = np.repeat(counts, counts).astype(np.uint64)
    begins = np.repeat(np.cumsum(counts) - counts, counts)
    place = (np.arange(len(split)) - begins).astype(np.uint64)
    for name in _COUNTERS:
        share, rest = np.divmod(split[name], total)
        split[name] = share + (place < rest)
    for name in _ONCE:
        split[name][place > 0] = 0
    return split


def _cuts(totals: NDArray[np.int64], room: int) -> Iterator[tuple[int, int]]:
    """Ranges of records that are at most ``room`` octets together."""
    first, before = 0, 0
    while first < len(totals):
        last = max(first + 1, int(np.searchsorted(totals, before + room, "right")))
        yield first, last
        first, before = last, int(totals[last - 1])


def _traffic(flows: Rows) -> Traffic:
    return Traffic(
        flows["packets"] + flows["reverse_packets"], flows["octets"] + flows["reverse_octets"]
    )


def _exporter_item(address: str) -> bytes:
    if not address:
        return b""
    return encode_text(EXPORTER_IPV4_ADDRESS, str(IPv4Address(address)).encode("ascii"))
