"""Encodes flows for ntopng: nDPI TLV records of topic ``flow``, both directions in one record.

The initiator is the source. The items of an owner are encoded once per owner; all others are
written column by column. A counter of ntopng has 32 bits. So a flow with more octets or packets
between two exports becomes several records, which ntopng adds up.
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

#: Records encoded at a time: few enough that temporary arrays stay in the processor's cache.
_CHUNK = 1024
#: The largest payload: a v2 header has 16 bits for its size.
MAX_PAYLOAD = 65535
_COUNTERS = ("octets", "packets", "reverse_octets", "reverse_packets")
#: Columns that only the first of several records of a flow has.
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
    """Makes payloads of at most ``max_payload`` octets.

    ``exporter`` is our address in them, '' for none.
    """

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
        """Drops what is kept for released owners, because their indices may be reused."""
        self._sources.forget(indices)
        self._destinations.forget(indices)

    def encode(self, records: Rows) -> Iterator[TlvPayload]:
        """Yields payloads of ``records`` (RECORD_DTYPE), all of one export.

        The directions of a flow are paired. The order of flows may change.
        """
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
    """Returns ``flows`` (BIFLOW_DTYPE) with counters of at most 32 bits.

    A flow with larger counters becomes several rows with equal shares.
    """
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
    """Yields ranges (first, last) of records whose octets are at most ``room`` together.

    A longer record has a range of its own.
    """
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
