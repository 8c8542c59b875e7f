"""Reads the datagrams of a capture file in their order, with scapy."""

from __future__ import annotations

from pathlib import Path

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.utils import PcapReader

from tests.support.reader.reader import StrictReader

_MORE_FRAGMENTS = 1


def read_capture(reader: StrictReader, file: Path, port: int) -> None:
    """Feeds all datagrams to a UDP port, and reports fragments."""
    with PcapReader(str(file)) as packets:
        for packet in packets:
            if IP in packet and (packet[IP].frag or int(packet[IP].flags) & _MORE_FRAGMENTS):
                reader.fragmented(f"from {packet[IP].src}")
            elif UDP in packet and packet[UDP].dport == port:
                layer = packet[IP] if IP in packet else packet[IPv6]
                octets = bytes(packet[UDP])[8 : packet[UDP].len]
                peer = f"{layer.src}:{packet[UDP].sport}"
                reader.feed(octets, float(packet.time), peer)
