"""Reads the probe's datagrams with libraries of others."""

from __future__ import annotations

import importlib
import io
import struct
from collections.abc import Iterator
from typing import Any

import ipfix
import ipfix.reader
import netflow as netflow_library
from scapy.layers import netflow

from tests.support.interop.flows import Flow, flow, flow_of


def scapy_flows(datagrams: list[bytes]) -> list[Flow]:
    """Reads NetFlow v9 with scapy, whose netflow layer ignores enterprise numbers."""
    packets = [netflow.NetflowHeader(datagram) for datagram in datagrams]
    netflow.netflowv9_defragment(packets)  # type: ignore[no-untyped-call]
    found = []
    for packet in packets:
        if (data := netflow.NetflowDataflowsetV9) in packet:
            boot_ms = _boot_ms(bytes(packet))
            found += [_scapy_flow(one, boot_ms) for one in packet[data].records if _is_flow(one)]
    return found


def library_flows(datagrams: list[bytes]) -> list[Flow]:
    """Reads NetFlow v9 with PyPI's ``netflow``."""
    templates: dict[str, object] = {"netflow": {}, "ipfix": {}}
    found = []
    for datagram in datagrams:
        # in hexadecimal, because the library mistakes octets that are valid UTF-8 for such a dump
        packet = netflow_library.parse_packet(datagram.hex(), templates)
        for record in packet.flows:
            if "L4_SRC_PORT" in record.data:
                found.append(_library_flow(record.data, _boot_ms(datagram)))
    return found


def python_ipfix_flows(datagrams: list[bytes]) -> list[Flow]:
    """Reads IPFIX with PyPI's ``ipfix``."""
    importlib.import_module("ipfix.ie").use_iana_default()
    reader = ipfix.reader.from_stream(io.BytesIO(b"".join(datagrams)))
    return [
        flow_of({**record, **_milliseconds(record)})
        for record in reader.namedict_iterator()
        if "sourceTransportPort" in record
    ]


def _milliseconds(record: dict[str, Any]) -> dict[str, int]:
    names = "flowStartMilliseconds", "flowEndMilliseconds"
    return {name: round(record[name].timestamp() * 1000) for name in names}


def _boot_ms(datagram: bytes) -> int:
    """Returns the Unix milliseconds of sysUptime 0 (RFC 3954 section 5.1)."""
    _, _, uptime_ms, seconds = struct.unpack_from("!HHII", datagram)
    return int(seconds) * 1000 - int(uptime_ms)


def _is_flow(record: object) -> bool:
    return isinstance(record, netflow.NetflowRecordV9) and hasattr(record, "L4_SRC_PORT")


def _scapy_flow(record: Any, boot_ms: int) -> Flow:
    suffix = "IPV4" if hasattr(record, "IPV4_SRC_ADDR") else "IPV6"
    return flow((
        getattr(record, f"{suffix}_SRC_ADDR"), getattr(record, f"{suffix}_DST_ADDR"),
        record.L4_SRC_PORT, record.L4_DST_PORT, record.PROTOCOL, record.IN_PKTS, record.IN_BYTES,
        boot_ms + _number(record.FIRST_SWITCHED), boot_ms + _number(record.LAST_SWITCHED),
    ))  # fmt: skip


def _number(value: Any) -> int:
    return int.from_bytes(value, "big") if isinstance(value, bytes) else round(value)


def _library_flow(data: dict[str, Any], boot_ms: int) -> Flow:
    suffix = "" if "IPV4_SRC_ADDR" in data else "IPV6"
    source = data["IPV6_SRC_ADDR"] if suffix else data["IPV4_SRC_ADDR"]
    destination = data["IPV6_DST_ADDR"] if suffix else data["IPV4_DST_ADDR"]
    return flow((
        source, destination, data["L4_SRC_PORT"], data["L4_DST_PORT"], data["PROTOCOL"],
        data["IN_PKTS"], data["IN_BYTES"],
        boot_ms + data["FIRST_SWITCHED"], boot_ms + data["LAST_SWITCHED"],
    ))  # fmt: skip


def messages(octets: bytes) -> Iterator[bytes]:
    """Yields the IPFIX messages of a stream."""
    while octets:
        length = int.from_bytes(octets[2:4], "big")
        yield octets[:length]
        octets = octets[length:]
