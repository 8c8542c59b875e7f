"""Collectors that others wrote, and ours: each listens at a port and tells what it understood."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from scapy.layers import netflow

from tests.interop.flows import Flow, flow, flow_of
from tests.interop.programs import (
    LOOPBACK,
    SOCKFLOW,
    Program,
    free_port,
    wait_for_listener,
    wait_for_reader,
    wait_until,
)


class Listener:
    """A collector that is a process of its own."""

    name = ""

    def __init__(self, folder: Path, port: int = 0, host: str = LOOPBACK) -> None:
        self.folder = folder / f"{self.name}-{host}"
        self.folder.mkdir()
        self.host = host
        self.port = port or free_port()
        self.program = Program(self.command(), self.folder, self.name)
        try:
            wait_for_listener(self.port)
        except AssertionError:
            self.close()
            raise AssertionError(f"{self.name}: {self.program.errors}") from None

    def command(self) -> list[object]:
        raise NotImplementedError

    def finish(self) -> None:
        wait_for_reader(self.port)
        self.program.stop(signal.SIGINT)

    def close(self) -> None:
        self.program.end()


class Nfcapd(Listener):
    name = "nfcapd"

    def command(self) -> list[object]:
        self.files = self.folder / "files"
        self.files.mkdir()
        return ["nfcapd", "-b", self.host, "-p", self.port, "-w", self.files, "-t", 60]

    def flows(self) -> list[Flow]:
        lines = self.nfdump("-q", "-6", "-N", "-o", "fmt:%sa;%da;%sp;%dp;%pr;%pkt;%byt")
        return [flow(_plain(line)) for line in lines]

    def csv_sums(self) -> tuple[int, int, int]:
        """nfdump's own summary: (flows, packets, octets)."""
        lines = self.nfdump("-o", "csv")
        at = lines.index("Summary")
        found = dict(zip(lines[at + 1].split(","), lines[at + 2].split(","), strict=True))
        return int(found["flows"]), int(found["packets"]), int(found["bytes"])

    def nfdump(self, *options: str) -> list[str]:
        done = subprocess.run(
            ["nfdump", "-R", str(self.files), *options],
            check=True, text=True, capture_output=True, timeout=30,
        )  # fmt: skip
        return [line for line in done.stdout.splitlines() if line.strip()]


def _plain(line: str) -> list[object]:
    words: list[Any] = [word.strip() for word in line.split(";")]
    words[4] = {"TCP": 6, "UDP": 17}.get(words[4], words[4])
    return words


class Nfacctd(Listener):
    """With the README's primitives file: enterprise elements become columns."""

    name = "nfacctd"

    def command(self) -> list[object]:
        primitives = self.folder / "primitives.lst"
        primitives.write_text(
            "name=src_process field_type=35632:169 len=vlen semantics=str\n"
            "name=dst_process field_type=35632:376 len=vlen semantics=str\n"
        )
        self._file = self.folder / "flows.csv"
        settings = {
            "nfacctd_ip": self.host,
            "nfacctd_port": self.port,
            "aggregate_primitives": primitives,
            "aggregate": "src_host,dst_host,src_port,dst_port,proto,src_process,dst_process",
            "plugins": "print",
            "print_refresh_time": 3600,  # that is, when it ends
            "print_output": "csv",
            "print_output_separator": ";",
            "print_output_file": self._file,
        }
        configuration = self.folder / "nfacctd.conf"
        configuration.write_text("".join(f"{key}: {settings[key]}\n" for key in settings))
        return ["nfacctd", "-f", configuration]

    def flows(self) -> list[Flow]:
        names = "SRC_IP", "DST_IP", "SRC_PORT", "DST_PORT", "PROTOCOL", "PACKETS", "BYTES"
        return [flow(_number(row)[name] for name in names) for row in self._rows()]

    def processes(self) -> dict[object, tuple[str, str]]:
        return {
            one.key: (row["src_process"], row["dst_process"])
            for one, row in zip(self.flows(), self._rows(), strict=True)
        }

    def _rows(self) -> list[dict[str, str]]:
        with self._file.open() as file:
            return list(csv.DictReader(file, delimiter=";"))


def _number(row: dict[str, str]) -> dict[str, object]:
    protocol = row["PROTOCOL"]
    return {**row, "PROTOCOL": {"tcp": 6, "udp": 17}.get(protocol, protocol)}


class Collect(Listener):
    """``sockflow collect --json``: all elements of all records, by name."""

    name = "sockflow-collect"

    def command(self) -> list[object]:
        return [*SOCKFLOW, "collect", "--listen", f"{self.host}:{self.port}", "--json"]

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.program.output.splitlines()]

    def flows(self) -> list[Flow]:
        return [flow_of(record) for record in self.records()]

    def processes(self) -> dict[object, tuple[str, str]]:
        return {
            flow_of(record).key: (record["SRC_PROC_NAME"], record["DST_PROC_NAME"])
            for record in self.records()
        }


class Capture(Listener):
    """tcpdump at the loopback device and tshark's cflow dissector. Somebody else has the port."""

    name = "capture"

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.file = folder / f"{port}.pcap"
        command = ("tcpdump", "-i", "lo", "-Z", "root", "-B", 32768, "--immediate-mode", "-U",
                   "-w", self.file, f"udp dst port {port}")  # fmt: skip
        self.program = Program(command, folder, f"tcpdump-{port}")
        try:
            _wait_for_text(self.program, "listening on")
        except AssertionError:
            self.close()
            raise

    def finish(self) -> None:
        self.program.stop(signal.SIGINT)
        assert "0 packets dropped by kernel" in self.program.errors, self.program.errors

    def flows(self) -> list[Flow]:
        return [one for one, _ in self._read()]

    def processes(self) -> dict[object, tuple[str, str]]:
        return {one.key: names for one, names in self._read()}

    def malformed(self) -> str:
        """What tshark objects to."""
        return self._tshark("-Y", "_ws.malformed || _ws.expert.severity >= 6291456")

    def _read(self) -> list[tuple[Flow, tuple[str, str]]]:
        found = []
        for suffix in ("", "v6"):
            names = [f"cflow.srcaddr{suffix}", f"cflow.dstaddr{suffix}", "cflow.srcport",
                     "cflow.dstport", "cflow.protocol", "cflow.packets", "cflow.octets",
                     "cflow.pie.ntop.src_proc_name", "cflow.pie.ntop.dst_proc_name"]  # fmt: skip
            fields = [word for name in names for word in ("-e", name)]
            for line in self._tshark("-Y", names[0], "-T", "fields", *fields).splitlines():
                columns = [column.split(",") for column in line.split("\t")]
                for values in zip(*columns, strict=True):
                    found.append((flow(values[:7]), (values[7], values[8])))
        return found

    def _tshark(self, *options: str) -> str:
        return subprocess.run(
            ["tshark", "-r", str(self.file), "-d", f"udp.port=={self.port},cflow", *options],
            check=True, text=True, capture_output=True, timeout=60,
        ).stdout  # fmt: skip


def _wait_for_text(program: Program, text: str) -> None:
    wait_until(lambda: text in program.errors or not program.is_alive(), f"{program.name}: {text}")
    assert program.is_alive(), program.errors


def scapy_flows(datagrams: list[bytes]) -> list[Flow]:
    """scapy's netflow layer takes no notice of enterprise numbers: for a Template of IANA's."""
    packets = [netflow.NetflowHeader(datagram) for datagram in datagrams]
    netflow.netflowv9_defragment(packets)  # type: ignore[no-untyped-call]
    sets = [packet[data] for packet in packets if (data := netflow.NetflowDataflowsetV9) in packet]
    return [_scapy_flow(one) for found in sets for one in found.records if _is_flow(one)]


def _is_flow(record: object) -> bool:
    return isinstance(record, netflow.NetflowRecordV9) and hasattr(record, "L4_SRC_PORT")


def _scapy_flow(record: Any) -> Flow:
    suffix = "IPV4" if hasattr(record, "IPV4_SRC_ADDR") else "IPV6"
    return flow((
        getattr(record, f"{suffix}_SRC_ADDR"), getattr(record, f"{suffix}_DST_ADDR"),
        record.L4_SRC_PORT, record.L4_DST_PORT, record.PROTOCOL, record.IN_PKTS, record.IN_BYTES,
    ))  # fmt: skip
