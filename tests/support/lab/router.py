"""Puts a router between an exporter and a collector, to change MTUs and to forge ICMP.

The exporter is an object of the test, with its socket in the exporter's network namespace.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator

from probe.config import RunConfig
from probe.export.message_sink import MessageSink
from probe.export.sink_factory import SinkFactory
from probe.interfaces.names import InterfaceList
from probe.ipfix.decode import CollectingProcess, Record
from probe.mapping import load_elements
from probe.run.destinations import open_sink, parse_destination
from tests.support.lab.hosts import inside, run
from tests.support.records import NOW_S, Metering, owner_table

PORT = 24739
_PATIENCE_S = 120.0
_SO_RCVBUFFORCE = 33


class Path:
    """``exporter`` --near-- ``router`` --far-- ``collector``: network namespaces and links."""

    def __init__(self) -> None:
        self.exporter, self.router, self.collector = (f"pathlab-{end}" for end in "erc")

    def __enter__(self) -> Path:
        self._delete()
        for name in (self.exporter, self.router, self.collector):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        self._link("near", self.exporter, 1)
        self._link("far", self.collector, 2)
        for setting in ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"):
            run("ip", "netns", "exec", self.router, "sysctl", "-qw", setting)
        end = time.monotonic() + _PATIENCE_S
        while not all(map(self._answers, ("10.79.2.1", "fd79:2::1"))):
            assert time.monotonic() < end, "the collector's host is out of reach"
        return self

    def _answers(self, address: str) -> bool:
        """Returns True once the host refuses a connection, because nobody listens."""
        try:
            with inside(self.exporter):
                socket.create_connection((address, 1), timeout=1).close()
        except ConnectionRefusedError:
            return True
        except OSError:
            time.sleep(0.05)
        return False

    def __exit__(self, *_: object) -> None:
        self._delete()

    def _link(self, name: str, host: str, number: int) -> None:
        run("ip", "link", "add", name, "netns", host, "type", "veth",
            "peer", "name", name, "netns", self.router)  # fmt: skip
        for namespace, end in ((host, 1), (self.router, 2)):
            for address in (f"10.79.{number}.{end}/24", f"fd79:{number}::{end}/64"):
                run("ip", "-n", namespace, "addr", "add", address, "dev", name, "nodad")
            run("ip", "-n", namespace, "link", "set", name, "up")
        run("ip", "-n", host, "route", "add", "default", "via", f"10.79.{number}.2")
        run("ip", "-n", host, "-6", "route", "add", "default", "via", f"fd79:{number}::2")

    def _delete(self) -> None:
        for name in (self.exporter, self.router, self.collector):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def set_mtu(self, link: str, mtu: int) -> None:
        """Sets the MTU of both ends of a link."""
        for namespace in (self.exporter if link == "near" else self.collector, self.router):
            run("ip", "-n", namespace, "link", "set", link, "mtu", str(mtu))

    def fragments(self) -> int:
        """Returns how many fragments the exporter's host and the router made of IPv4 datagrams."""
        return sum(self._counter(one, "FragCreates") for one in (self.exporter, self.router))

    def _counter(self, namespace: str, name: str) -> int:
        text = run("ip", "netns", "exec", namespace, "cat", "/proc/net/snmp").stdout
        names, values = [line.split() for line in text.splitlines() if line.startswith("Ip:")]
        return int(values[names.index(name)])

    def forge(self, mtu: int, port: int) -> None:
        """Sends an ICMP error that a router could not forward a datagram of ``port``."""
        source, target = (socket.inet_aton(f"10.79.{number}.1") for number in (1, 2))
        inner = struct.pack("!BBHHHBBH", 0x45, 0, 1428, 1, 0x4000, 64, 17, 0) + source + target
        inner += struct.pack("!HHHH", port, PORT, 1408, 0)
        message = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + inner
        message = message[:2] + _checksum(message) + message[4:]
        with (
            inside(self.collector),
            socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sender,
        ):
            sender.sendto(message, ("10.79.1.1", 0))


def _checksum(octets: bytes) -> bytes:
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return struct.pack("!H", ~total & 0xFFFF)


class Receiver:
    """The collector: the datagrams that it got, and our decoder's records of them."""

    def __init__(self, path: Path, address: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with inside(path.collector):
            self._socket = socket.socket(family, socket.SOCK_DGRAM)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)
            self._socket.bind((address, PORT))
        self._socket.setblocking(False)
        self.decoder = CollectingProcess(load_elements())
        self.sizes: list[int] = []
        self.options: list[Record] = []
        self.flows: list[int] = []

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                octets = self._socket.recv(65535)
                self.sizes.append(len(octets))
                found = self.decoder.decode_message(octets, "exporter")
                self.flows += [int(str(record["flowId"])) for record in found.flows]
                self.options += found.options

    def close(self) -> None:
        self._socket.close()


def drive(stream: MessageSink, receiver: Receiver, until: Callable[[], object]) -> None:
    """Pumps and reads, as the loop does, until a condition holds."""
    end = time.monotonic() + _PATIENCE_S
    while not until():
        assert time.monotonic() < end, "waited in vain"
        stream.pump(time.monotonic())
        receiver.read()
        time.sleep(0.001)


@contextlib.contextmanager
def exporting(
    path: Path, query: str = "", host: str = "10.79.2.1", scheme: str = "ipfix"
) -> Iterator[tuple[MessageSink, Receiver]]:
    with contextlib.closing(Receiver(path, host)) as receiver:
        target = f"[{host}]" if ":" in host else host
        factory = SinkFactory(RunConfig(), owner_table(), Metering(), InterfaceList(), NOW_S - 100)
        with inside(path.exporter):
            url = f"{scheme}://{target}:{PORT}{query}"
            stream = open_sink(parse_destination(url), factory)
            assert isinstance(stream, MessageSink)
            with contextlib.closing(stream):
                yield stream, receiver
