"""Tests the files of ``sockflow templates`` with the programs that they are for."""

from __future__ import annotations

import contextlib
import csv
import re
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from probe.flow.owner import Container, Owner, OwnerTable, Pod, Process
from probe.mapping import Privacy
from tests.support.interop.collectors import Capture, Nfacctd, Nfcapd
from tests.support.ipfix.profiles import ProfileSession
from tests.support.programs import LOOPBACK, SOCKFLOW, Datagrams, wait_until

_FLOWS = 40


def written(*arguments: str) -> str:
    """Returns what the command writes to standard output."""
    command = (*SOCKFLOW, "templates", *arguments)
    done = subprocess.run(command, check=True, text=True, capture_output=True, timeout=180)
    return done.stdout


def send(port: int, messages: Iterable[bytes]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for message in messages:
            sender.sendto(message, (LOOPBACK, port))
            time.sleep(0.005)  # not faster than the reader


def flows_of(profile: str, protocol: str) -> list[bytes]:
    session = ProfileSession(profile, protocol, now_s=time.time())
    return list(session.messages(session.records(_FLOWS)))


class DescribedNfacctd(Nfacctd):
    """nfacctd with the primitives that were written for it, all of them in ``aggregate``."""

    primitives = ""

    def wait(self) -> None:
        """Waits until its plugin can take what the core has read."""
        wait_until(
            lambda: "cache entries=" in self.program.output + self.program.errors, "its plugin"
        )

    def command(self) -> list[object]:
        command = super().command()
        (self.folder / "primitives.lst").write_text(self.primitives)
        names = re.findall(r"^name=(\w+)", self.primitives, re.M)
        configuration = self.folder / "nfacctd.conf"
        text = re.sub(
            "^aggregate: .*$",
            f"aggregate: src_host,dst_host,src_port,dst_port,proto,tcpflags,tos,{','.join(names)}",
            configuration.read_text(),
            flags=re.M,
        )
        configuration.write_text(text)
        return command

    def rows(self) -> list[dict[str, str]]:
        """Returns the rows written so far. The plugin may outlive the core."""
        path = self.folder / "flows.csv"
        if not path.exists():
            return []
        with path.open() as file:
            return sorted(csv.DictReader(file, delimiter=";"), key=lambda row: row["SRC_PORT"])


@pytest.mark.parametrize(
    ("profile", "protocol"),
    [("pmacct", "ipfix"), ("pmacct", "netflow9"), ("pmacct", "biflow"), ("full", "ipfix")],
)
def test_nfacctd_reads_names(
    profile: str, protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = () if protocol == "ipfix" else (f"--{protocol}",)
    monkeypatch.setattr(DescribedNfacctd, "primitives", written(profile, "--pmacct", *flag))
    with contextlib.closing(DescribedNfacctd(tmp_path)) as collector:
        collector.wait()
        send(collector.port, flows_of(profile, protocol))
        collector.finish()
        count = _FLOWS // 2 if protocol == "biflow" else _FLOWS
        wait_until(lambda: len(collector.rows()) >= count, f"{count} rows of its plugin")
        assert "ERROR" not in collector.program.output + collector.program.errors
        rows = collector.rows()
    assert len(rows) == count
    expected = {
        "SRC_IP": "10.0.0.2", "SRC_PORT": "1026", "PROTOCOL": "tcp", "PACKETS": "3",
        "src_proc_name": "worker-3", "dst_proc_name": "worker-1", "src_proc_pid": "1003",
        "src_proc_user_name": "user-3", "src_proc_container_id": "000000000003",
        "dst_proc_container_id": "000000000001", "source_process_path": "/usr/bin/worker-3",
        "source_container_name": "web-3", "destination_container_name": "web-1",
        "tcp_smoothed_rtt_microseconds": "252",
    }  # fmt: skip
    if profile == "pmacct":
        expected |= {"source_container_image": "nginx:3", "destination_container_image": "nginx:1"}
    if protocol == "biflow":
        expected |= {"reverse_packet_delta_count": "4", "reverse_octet_delta_count": "1003",
                     "reverse_tcp_control_bits": "0", "TCP_FLAGS": "27",
                     "retransmitted_out_pkts": "0"}  # fmt: skip
    (row,) = [row for row in rows if row["SRC_PORT"] == "1026"]
    assert {name: row[name] for name in expected} == expected


#: Attribute of an owner, its name in pmacct, and the octets of its field in NetFlow v9.
_FULL_NAMES = (
    ("process.name", "src_proc_name", 16),
    ("process.user_name", "src_proc_user_name", 32),
    ("container.id", "src_proc_container_id", 64),
    ("container.name", "source_container_name", 32),
    ("container.image", "source_container_image", 28),
    ("pod.namespace", "source_pod_namespace", 32),
    ("pod.name", "source_pod_name", 48),
    ("unit", "source_systemd_unit", 24),
    ("process.path", "source_process_path", 48),
)


def full_name(number: int, length: int) -> str:
    return f"{number}".ljust(length, "abcd"[number - 1])


def owners_with_full_names(more: int) -> OwnerTable:
    """Returns owners whose names exceed NetFlow v9's room by ``more`` octets.

    Names are shorter if it is negative.
    """
    table = OwnerTable()
    for number in range(1, 5):
        texts = {
            attribute: full_name(number, length + more) for attribute, _, length in _FULL_NAMES
        }
        table.add(
            Owner(
                Process(
                    1000 + number,
                    texts["process.name"],
                    texts["process.path"],
                    user_name=texts["process.user_name"],
                ),
                container=Container(
                    texts["container.id"],
                    name=texts["container.name"],
                    image=texts["container.image"],
                ),
                pod=Pod(texts["pod.name"], texts["pod.namespace"]),
                unit=texts["unit"],
            )
        )
    return table


@pytest.mark.parametrize("more", [-1, 0, 1])
@pytest.mark.parametrize("protocol", ["ipfix", "netflow9"])
def test_nfacctd_reads_names_that_fill_their_fields(
    protocol: str, more: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = () if protocol == "ipfix" else (f"--{protocol}",)
    monkeypatch.setattr(DescribedNfacctd, "primitives", written("pmacct", "--pmacct", *flag))
    session = ProfileSession(
        "pmacct", protocol, now_s=time.time(), owners=owners_with_full_names(more)
    )
    with contextlib.closing(DescribedNfacctd(tmp_path)) as collector:
        collector.wait()
        send(collector.port, session.messages(session.records(_FLOWS)))
        collector.finish()
        wait_until(lambda: len(collector.rows()) >= _FLOWS, f"{_FLOWS} rows of its plugin")
        rows = collector.rows()
    most = more if protocol == "ipfix" else min(0, more)
    for row in rows:
        number = 1 + (int(row["SRC_PORT"]) - 1024) % 4
        expected = {name: full_name(number, length + most) for _, name, length in _FULL_NAMES}
        assert {name: row[name] for name in expected} == expected


class DescribedCapture(Capture):
    """tshark with the dissector that was written for it."""

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(folder, port)
        self._script = folder / "sockflow.lua"
        self._script.write_text(written("--wireshark"))

    def values(self, *names: str, condition: str = "sockflow") -> list[list[str]]:
        """Returns each field's values in all frames, one after the other."""
        fields = [word for name in names for word in ("-e", f"sockflow.{name}")]
        lines = self._tshark(
            "-X", f"lua_script:{self._script}", "-Y", condition, "-T", "fields", *fields
        ).splitlines()
        columns: list[list[str]] = [[] for _ in names]
        for line in lines:
            for column, cell in zip(columns, line.split("\t"), strict=True):
                column += cell.split(",") if cell else []
        return columns


def captured(profile: str, protocol: str, folder: Path, stack: contextlib.ExitStack) -> Any:
    target = stack.enter_context(contextlib.closing(Datagrams()))
    capture = stack.enter_context(contextlib.closing(DescribedCapture(folder, target.port)))
    send(target.port, flows_of(profile, protocol))
    capture.finish()
    return capture


@pytest.mark.parametrize("protocol", ["ipfix", "netflow9"])
def test_tshark_shows_names(protocol: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        capture = captured("full", protocol, tmp_path, stack)
        names, pids, containers, paths, groups, estimated, causes = capture.values(
            "SRC_PROC_NAME", "SRC_PROC_PID", "SRC_PROC_CONTAINER_ID", "sourceProcessPath",
            "sourceGroupId", "countersEstimated", "lossCause",
        )  # fmt: skip
        numbers = sorted(1 + flow % 4 for flow in range(_FLOWS))
        assert sorted(names) == [f"worker-{number}" for number in numbers]
        assert sorted(pids) == [str(1000 + number) for number in numbers]
        assert sorted(containers) == [f"{number:012x}" for number in numbers]
        assert sorted(paths) == [f"/usr/bin/worker-{number}" for number in numbers]
        assert sorted(groups) == [str(100 + number) for number in numbers]
        assert sorted(estimated) == ["0"] * (_FLOWS // 2) + ["1"] * (_FLOWS // 2)
        assert causes == ["ring full"]
        assert capture.malformed() == ""


def test_tshark_filters_by_names(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        capture = captured("full", "ipfix", tmp_path, stack)
        (found,) = capture.values("SRC_PROC_NAME", condition='sockflow.SRC_PROC_NAME == "worker-2"')
        assert "worker-2" in found
        assert capture.values("SRC_PROC_NAME", condition='sockflow.SRC_PROC_NAME == "nobody"') == (
            [[]]
        )  # fmt: skip


@pytest.mark.parametrize("protocol", ["ipfix", "netflow9", "biflow"])
@pytest.mark.parametrize("profile", ["full", "kubernetes"])
def test_tshark_shows_all_that_the_defaults_send_without_a_preference(
    profile: str, protocol: str, tmp_path: Path
) -> None:
    """Command lines and translated flows have the longest Templates. Other flows are there, too."""
    session = ProfileSession(
        profile, protocol, now_s=time.time(), privacy=Privacy(command_lines=True)
    )
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(contextlib.closing(Datagrams()))
        capture = stack.enter_context(contextlib.closing(Capture(tmp_path, target.port)))
        records = session.records(_FLOWS)
        send(target.port, session.messages(records))
        capture.finish()
        octets = capture.columns("cflow.octets")
        translated = capture.columns("cflow.post_natsource_ipv4_address")
    expected = len(records) * (2 if protocol == "biflow" else 1)
    assert sum(len(values) for (values,) in octets) == expected
    assert sum(len(values) for (values,) in translated) == records["translated"].sum() > 0


def test_tshark_shows_the_other_direction_of_a_biflow(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        capture = captured("full", "biflow", tmp_path, stack)
        packets, octets, retransmitted = capture.values(
            "reversePacketDeltaCount", "reverseOctetDeltaCount", "RETRANSMITTED_OUT_PKTS"
        )
        answers = range(1, _FLOWS, 2)
        assert sorted(map(int, octets)) == [1000 + flow for flow in answers]
        assert sorted(map(int, packets)) == sorted(1 + flow % 7 for flow in answers)
        assert sorted(map(int, retransmitted)) == sorted(flow % 3 for flow in answers)


def test_tshark_shows_pods_as_octets(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        capture = captured("antrea", "netflow9", tmp_path, stack)
        (pods,) = capture.values("sourcePodUUID")
        assert pods == ["0" * 32] * _FLOWS


@pytest.mark.parametrize("profile", ["nfdump", "iana", "full"])
def test_nfdump_has_both_directions_of_a_biflow(profile: str, tmp_path: Path) -> None:
    """The forward flags and times stay forward, which is why reverse elements come first."""
    session = ProfileSession(profile, "biflow", now_s=time.time())
    records = session.records(_FLOWS)
    records["tcp_flags"], records["reverse_tcp_flags"] = 0x02, 0x10
    records["reverse_first_ns"] += 1_000_000_000
    with contextlib.closing(Nfcapd(tmp_path)) as collector:
        send(collector.port, session.messages(records))
        collector.finish()
        lines = collector.nfdump(
            "-q", "-6", "-N", "-o", "fmt:%sp;%pr;%flg;%ipkt;%ibyt;%opkt;%obyt;%td;%bfd"
        )
    rows = {words[0]: words[1:] for line in lines if (words := re.split(r"\s*;\s*", line.strip()))}
    assert len(rows) == _FLOWS // 2
    protocol, flags, *counters, duration, direction = rows["1026"]
    assert (protocol, flags, direction) == ("6", "......S.", "1")
    assert counters == ["3", "1002", "4", "1003"]
    assert float(duration) == 1.5


@pytest.mark.parametrize("protocol", ["ipfix", "netflow9", "biflow"])
def test_nfdump_has_names_of_interfaces_and_no_complaints(protocol: str, tmp_path: Path) -> None:
    session = ProfileSession("nfdump", protocol, now_s=time.time())
    records = session.records(_FLOWS)
    records["ingress_interface"] = [2 + row % 4 for row in range(len(records))]  # 5 has no name
    with contextlib.closing(Nfcapd(tmp_path)) as collector:
        send(collector.port, session.messages(records))
        collector.finish()
        lines = collector.nfdump("-q", "-6", "-N", "-o", "fmt:%in;%inam;%out;%onam")
        said = collector.program.output + collector.program.errors
    found = {tuple(re.split(r"\s*;\s*", line.strip())) for line in lines}
    names = {"2": "web", "3": "büro 3", "4": "büro 4"}
    assert {(row[0], row[1]) for row in found if row[0] in names} == set(names.items())
    assert {row[2:] for row in found} == {("2", "web")}
    assert not re.search(r"extra bytes|utf8|error:|invalid", said, re.I), said
