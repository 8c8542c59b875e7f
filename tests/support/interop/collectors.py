"""Runs collectors of others, and ours: each listens at a port and reports what it understood."""

from __future__ import annotations

import csv
import json
import signal
import socket
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.support.interop.flows import Flow, flow, flow_of
from tests.support.programs import (
    AS_NOBODY,
    LOOPBACK,
    ROOT,
    SOCKFLOW,
    Program,
    export_url,
    free_port,
    is_listening,
    wait_for_listener,
    wait_for_reader,
    wait_until,
)

#: Maps a Flow Key to the process or container at the source and at the destination.
Names = dict[object, tuple[str, str]]


class Listener:
    """A collector in a process of its own; ``version`` is that of the protocol it receives."""

    name = ""
    profile = "full"

    def __init__(
        self, folder: Path, port: int = 0, host: str = LOOPBACK, version: int = 10
    ) -> None:
        self.folder = folder / f"{self.name}-{host}-{version}"
        self.folder.mkdir()
        self.host = host
        self.version = version
        self.port = port or free_port()
        self.program = Program(self.command(), self.folder, self.name)
        try:
            wait_for_listener(self.port)
        except AssertionError:
            self.close()
            raise AssertionError(f"{self.name}: {self.program.errors}") from None

    @property
    def url(self) -> str:
        """Returns the URL to export to, as docs/collectors/README.md says."""
        return f"{export_url(self.port, self.host, self.version)}&profile={self.profile}"

    def command(self) -> list[object]:
        raise NotImplementedError

    def finish(self) -> None:
        wait_for_reader(self.port)
        self.program.stop(signal.SIGINT)

    def close(self) -> None:
        self.program.end()


class Nfcapd(Listener):
    name = "nfcapd"
    profile = "nfdump"

    def command(self) -> list[object]:
        self.files = self.folder / "files"
        self.files.mkdir()
        return ["nfcapd", "-b", self.host, "-p", self.port, "-w", self.files, "-t", 60]

    def flows(self) -> list[Flow]:
        lines = self.nfdump("-q", "-6", "-N", "-o", "fmt:%sa;%da;%sp;%dp;%pr;%pkt;%byt;%ts;%te")
        return [flow(_plain(line)) for line in lines]

    def csv_sums(self) -> tuple[int, int, int]:
        """Returns (flows, packets, octets) from nfdump's own summary."""
        lines = self.nfdump("-o", "csv")
        at = lines.index("Summary")
        found = dict(zip(lines[at + 1].split(","), lines[at + 2].split(","), strict=True))
        return int(found["flows"]), int(found["packets"]), int(found["bytes"])

    def nfdump(self, *options: str) -> list[str]:
        done = subprocess.run(
            ["nfdump", "-R", str(self.files), *options],
            check=True, text=True, capture_output=True, timeout=180,
        )  # fmt: skip
        return [line for line in done.stdout.splitlines() if line.strip()]


def _plain(line: str) -> list[object]:
    words: list[Any] = [word.strip() for word in line.split(";")]
    words[4] = {"TCP": 6, "UDP": 17}.get(words[4], words[4])
    words[7:] = [_local_ms(word) for word in words[7:]]
    return words


def _milliseconds(seconds: str) -> int:
    return round(float(seconds) * 1000)


def _local_ms(time: str) -> int:
    """Returns Unix milliseconds of '2026-01-02 03:04:05.678' in local time.

    nfdump 1.7.1's %ter would lose a digit of the fraction.
    """
    return round(datetime.strptime(time, "%Y-%m-%d %H:%M:%S.%f").timestamp() * 1000)


class Nfacctd(Listener):
    """nfacctd with the primitives that ``sockflow templates --pmacct`` writes."""

    name = "nfacctd"
    profile = "pmacct"
    _NAMES = ("src_proc_name", "dst_proc_name", "src_proc_container_id", "dst_proc_container_id")

    def command(self) -> list[object]:
        primitives = self.folder / "primitives.lst"
        protocol = ["--netflow9"] if self.version == 9 else []
        primitives.write_text(
            subprocess.run(
                [*SOCKFLOW, "templates", "--pmacct", self.profile, *protocol],
                check=True, text=True, capture_output=True, timeout=180, cwd=ROOT,
            ).stdout
        )  # fmt: skip
        self._file = self.folder / "flows.csv"
        keys = "src_host,dst_host,src_port,dst_port,proto,timestamp_start,timestamp_end"
        settings = {
            "nfacctd_ip": self.host,
            "nfacctd_port": self.port,
            "aggregate_primitives": primitives,
            "aggregate": ",".join((keys, *self._NAMES)),
            "timestamps_since_epoch": "true",
            "plugins": "print",
            "print_refresh_time": 3600,  # so it prints when it ends
            "print_output": "csv",
            "print_output_separator": ";",
            "print_output_file": self._file,
        }
        configuration = self.folder / "nfacctd.conf"
        configuration.write_text("".join(f"{key}: {settings[key]}\n" for key in settings))
        return ["nfacctd", "-f", configuration]

    def flows(self) -> list[Flow]:
        names = "SRC_IP", "DST_IP", "SRC_PORT", "DST_PORT", "PROTOCOL", "PACKETS", "BYTES"
        times = "TIMESTAMP_START", "TIMESTAMP_END"
        return [
            flow((*(_number(row)[name] for name in names),
                  *(_milliseconds(row[name]) for name in times)))
            for row in self._rows()
        ]  # fmt: skip

    def processes(self) -> Names:
        return {
            one.key: (row["src_proc_name"], row["dst_proc_name"])
            for one, row in zip(self.flows(), self._rows(), strict=True)
        }

    def containers(self) -> Names:
        return {
            one.key: (row["src_proc_container_id"], row["dst_proc_container_id"])
            for one, row in zip(self.flows(), self._rows(), strict=True)
        }

    def _rows(self) -> list[dict[str, str]]:
        with self._file.open() as file:
            return list(csv.DictReader(file, delimiter=";"))


def _number(row: dict[str, str]) -> dict[str, object]:
    protocol = row["PROTOCOL"]
    return {**row, "PROTOCOL": {"tcp": 6, "udp": 17}.get(protocol, protocol)}


class Collect(Listener):
    """``sockflow collect --json``, which shows all elements of all records by name."""

    name = "sockflow-collect"

    def command(self) -> list[object]:
        return [*SOCKFLOW, "collect", "--listen", f"{self.host}:{self.port}", "--json"]

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.program.output.splitlines()]

    def flows(self) -> list[Flow]:
        return [flow_of(record) for record in self.records()]

    def processes(self) -> Names:
        return names_of(self.records(), "PROC_NAME")

    def containers(self) -> Names:
        return names_of(self.records(), "PROC_CONTAINER_ID")


def names_of(records: list[dict[str, Any]], what: str) -> Names:
    return {flow_of(one).key: (one[f"SRC_{what}"], one[f"DST_{what}"]) for one in records}


class StreamCollect(Collect):
    """``sockflow collect`` over TCP, or over TLS with ``tls``, the options for --listen."""

    def __init__(self, folder: Path, port: int = 0, tls: str = "", name: str = "") -> None:
        self.scheme = "ipfix+tls" if tls else "ipfix+tcp"
        self.folder = folder / (name or f"sockflow-collect-{self.scheme}")
        self.folder.mkdir()
        self.port = port or free_port(socket.SOCK_STREAM)
        listen = f"{self.url}{tls}"
        command = [*SOCKFLOW, "collect", "--listen", listen, "--json"]
        self.program = Program(command, self.folder, self.folder.name)
        wait_until(lambda: is_listening(self.port), f"a listener at TCP port {self.port}")

    @property
    def url(self) -> str:
        return f"{self.scheme}://{LOOPBACK}:{self.port}"

    def finish(self) -> None:
        """Stops the collector, after the probe has closed its connection."""
        self.program.stop(signal.SIGINT)


class FileOfRun(Collect):
    """The probe's file of messages (RFC 5655), read by ``sockflow collect --read``."""

    name = "file"

    def __init__(self, folder: Path) -> None:
        self.folder = folder / self.name
        self.folder.mkdir()
        self.file = self.folder / "flows.ipfix"

    @property
    def url(self) -> str:
        return f"file://{self.file}"

    def as_capture(self) -> Capture:
        """Returns the file as a capture: tshark reads such files directly."""
        return FileCapture(self.file)

    def finish(self) -> None:
        command = [*SOCKFLOW, "collect", "--read", self.file, "--json"]
        self.program = Program(command, self.folder, self.name)
        assert self.program.process.wait(60) == 0, self.program.errors

    def close(self) -> None:
        if hasattr(self, "program"):
            self.program.end()


class Capture(Listener):
    """tcpdump at the loopback device with tshark's cflow dissector; others have the port."""

    name = "capture"

    def __init__(self, folder: Path, port: int, version: int = 10) -> None:
        self.folder, self.port, self.version = folder, port, version
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

    def processes(self) -> Names:
        return {one.key: names for one, names in self._read()}

    def malformed(self) -> str:
        """Returns what tshark calls malformed."""
        return self._tshark("-Y", "_ws.malformed || _ws.expert.severity >= 6291456")

    def columns(self, *names: str) -> list[list[list[str]]]:
        """Returns the values of each field, for each frame that has the first one."""
        fields = [word for name in names for word in ("-e", name)]
        options = ("-T", "fields", "-E", "aggregator=|", *fields)
        lines = self._tshark("-Y", names[0], *options).splitlines()
        return [[cell.split("|") for cell in line.split("\t")] for line in lines]

    def _read(self) -> list[tuple[Flow, tuple[str, str]]]:
        kind = "" if self.version == 9 else "abs"
        found = []
        for suffix in ("", "v6"):
            names = [f"cflow.srcaddr{suffix}", f"cflow.dstaddr{suffix}", "cflow.srcport",
                     "cflow.dstport", "cflow.protocol", "cflow.packets", "cflow.octets",
                     f"cflow.{kind}timestart", f"cflow.{kind}timeend",
                     "cflow.pie.ntop.src_proc_name", "cflow.pie.ntop.dst_proc_name"]  # fmt: skip
            fields = [word for name in (*_CLOCK, *names) for word in ("-e", name)]
            options = ("-T", "fields", "-E", "aggregator=|", *fields)
            for line in self._tshark("-Y", names[0], *options).splitlines():
                uptime, now, *columns = line.split("\t")
                booted_ms = int(now) * 1000 - _milliseconds(uptime) if self.version == 9 else 0
                for values in zip(*(column.split("|") for column in columns), strict=True):
                    times = [_shown_ms(value, booted_ms) for value in values[7:9]]
                    found.append((flow((*values[:7], *times)), (values[9], values[10])))
        return found

    def _tshark(self, *options: str) -> str:
        """Runs tshark, but not as root, because tshark 4.4 then loads no Lua."""
        return subprocess.run(
            [*AS_NOBODY, "tshark", "-r", str(self.file), "-d", f"udp.port=={self.port},cflow",
             *options],
            check=True, text=True, capture_output=True, timeout=180,
        ).stdout  # fmt: skip


#: Fields of NetFlow v9's header; times of records count from their difference.
_CLOCK = "cflow.sysuptime", "cflow.unix_secs"


def _shown_ms(time: str, booted_ms: int) -> int:
    """Returns milliseconds of '12.345000000' or 'Jan  2, 2026 03:04:00.011000000 UTC'."""
    if time[0].isdigit():
        return booted_ms + _milliseconds(time)
    whole, _, fraction = time.removesuffix(" UTC").partition(".")
    seconds = datetime.strptime(f"{whole} +0000", "%b %d, %Y %H:%M:%S %z").timestamp()
    return int(seconds) * 1000 + _milliseconds(f"0.{fraction}")


def _wait_for_text(program: Program, text: str) -> None:
    wait_until(lambda: text in program.errors or not program.is_alive(), f"{program.name}: {text}")
    assert program.is_alive(), program.errors


class FileCapture(Capture):
    """A file of messages instead of a capture."""

    def __init__(self, file: Path) -> None:
        self.file, self.port, self.version = file, 4739, 10

    def finish(self) -> None: ...
