"""Tests what ntopng gets beside flows, and flows as agent objects."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from probe.flow.columns import EVENT_DTYPE, SOCKET_DTYPE
from probe.flow.owner import ContainerNames, Pod
from probe.interfaces.interface import Counters, Interface
from probe.interfaces.names import InterfaceList
from tests.support.ntopng.lab import Listen, Open, connected, pump
from tests.support.records import NOW_S, flow_records


def test_the_status(open_: Open, listen: Listen) -> None:
    sink, reader = connected(open_, listen)
    records = flow_records(10)
    sink.send(records, NOW_S)
    sink.finish(NOW_S)
    reader.read_until(lambda: any(s["bytes"] for s in reader.topics.get("event", ())), pump(sink))
    status = reader.topics["event"][-1]
    assert status["timeout"] == {"lifetime": 60, "idle": 15, "collected_lifetime": 60}
    assert status["bytes"] == int(records["octets"].sum())
    assert status["packets"] == int(records["packets"].sum())
    assert status["packet_drops"] == 2
    assert status["drops"] == {
        "export_queue_full": 0, "too_many_flows": 3, "packets_after_end": 2, "rows_lost": 1
    }  # fmt: skip
    assert status["zmq"]["num_zmq_exporters"] == 1
    assert {status["probe"]["unique_source_id"]} == reader.source_ids
    assert status["iface"].keys() == {"name", "speed", "ip"}
    assert status["avg"].keys() == {"bps", "pps"}
    assert isinstance(status["mode"], str)
    assert status["time"] == int(NOW_S)


def test_the_status_comes_again_before_ntopng_forgets(open_: Open, listen: Listen) -> None:
    """The test passes times in, so it does not wait."""
    sink, reader = connected(open_, listen)
    now = time.monotonic()
    for after_s in range(30):
        due = sink.pump(now + after_s)
        assert due is not None
        assert due <= now + after_s + 3
    reader.read_until(lambda: reader.seen["event"] >= 10)


def link(index: int, **changes: Any) -> Interface:
    counters = Counters(1, 2, 0, 4, 5, 6, 7, 8, 9)
    return Interface(
        index, f"veth{index}", speed=10**10, is_admin_up=True, oper_status=1, counters=counters,
        **changes,
    )  # fmt: skip


def test_counters_with_their_containers(open_: Open, listen: Listen) -> None:
    sink, reader = connected(open_, listen)
    pod = ContainerNames(name="web", pod=Pod("web-0", "shop"))
    links = [
        link(3, container_id="c1", names=pod),
        link(4, container_id="c2", names=ContainerNames(name="db")),
        link(5, container_id="c3"),
        link(6, is_promiscuous=True),
    ]
    for second in range(6):
        sink.send_interfaces(links, NOW_S + second)
    reader.read_until(lambda: reader.seen["counter"] == 8, pump(sink))
    found = {one["ifIndex"]: one for one in reader.topics["counter"]}
    assert {index: one.pop("LOCAL_CONTAINER", None) for index, one in found.items()} == {
        3: {"ID": "c1", "K8S": {"NAME": "web", "POD": "web-0", "NS": "shop"}},
        4: {"ID": "c2", "DOCKER": {"NAME": "db"}},
        5: {"ID": "c3", "DOCKER": {"NAME": "c3"}},
        6: None,
    }
    samples = {one["samplesGenerated"] for one in reader.topics["counter"]}
    assert len(samples) == 2
    last = found[6]
    assert last.pop("samplesGenerated") in samples
    octets = [int(part) for part in sink.address.split(".")]
    assert last == {
        "deviceIP": int.from_bytes(bytes(octets), "big"), "ifIndex": 6, "ifName": "veth6",
        "ifType": 1, "ifSpeed": 10**10, "ifDirection": "Full", "ifAdminStatus": "Up",
        "ifOperStatus": "Up", "ifInOctets": 1, "ifInPackets": 2, "ifInErrors": 4,
        "ifOutOctets": 6, "ifOutPackets": 7, "ifOutErrors": 8, "ifPromiscuousMode": 1,
    }  # fmt: skip


def test_the_template_comes_first_and_names_every_key(open_: Open, listen: Listen) -> None:
    sink, reader = connected(open_, listen)
    sink.send(flow_records(40), NOW_S)
    sink.send(flow_records(40, ip_version=6), NOW_S)
    reader.read_until(lambda: len(reader.flows) == 80, pump(sink))
    (fields,) = reader.topics["template"]
    assert next(iter(reader.seen)) == "template"
    assert all(one.keys() == {"PEN", "field", "len", "format", "name", "descr"} for one in fields)
    names = [one["name"] for one in fields]
    assert len(names) == len(set(names))
    assert {key for flow in reader.flows for key in flow} <= set(names)
    numbers = {(one["PEN"], one["field"]) for one in fields}
    assert len(numbers) == len(fields)
    assert {(0, 1), (35632, 78), (35632, 168), (35632, 376)} <= numbers


def sockets(*ports: int, gone: int = 0, protocol: int = 6, version: int = 4) -> Any:
    rows = np.zeros(len(ports), SOCKET_DTYPE)
    rows["local_port"], rows["cookie"], rows["owner"] = ports, ports, 1
    rows["protocol"], rows["ip_version"], rows["gone"] = protocol, version, gone
    return rows


def test_listening_ports_are_told_when_they_change(open_: Open, listen: Listen) -> None:
    sink, reader = connected(open_, listen)
    sink.send_sockets(sockets(80, 22), NOW_S)
    sink.send_sockets(sockets(53, protocol=17, version=6), NOW_S)
    sink.send_sockets(sockets(22, gone=1), NOW_S)
    now = time.monotonic() + 100
    reader.read_until(
        lambda: any(o["listening-ports"] for o in reader.topics.get("listening-ports", ())),
        lambda: sink.pump(now),
    )
    told = reader.topics["listening-ports"]
    assert told[-1]["listening-ports"] == {
        "tcp4": [{"port": 80, "proc": "worker-1", "pkg": "web-1"}],
        "udp6": [{"port": 53, "proc": "worker-1", "pkg": "web-1"}],
    }
    assert told[-1]["ip-addresses"] == [sink.address]
    assert told[-1]["instance-name"]
    before = len(told)
    sink.send_sockets(sockets(80), NOW_S)  # no socket is new
    sink.pump(now + 50)
    sink.finish(NOW_S)
    count = reader.seen["event"]
    reader.read_until(lambda: reader.seen["event"] > count, lambda: sink.pump(now + 60))
    assert len(told) == before


def test_so_many_ports_that_a_message_could_not_hold_them(open_: Open, listen: Listen) -> None:
    sink, reader = connected(open_, listen)
    sink.send_sockets(sockets(*range(1, 30000)), NOW_S)
    reader.read_until(
        lambda: any(o["listening-ports"] for o in reader.topics.get("listening-ports", ())),
        lambda: sink.pump(time.monotonic() + 100),
    )
    assert reader.topics["listening-ports"][-1]["listening-ports"]["tcp4"][0]["port"] == 1


def test_names_of_interfaces(open_: Open, listen: Listen) -> None:
    sink, reader = connected(open_, listen)
    interfaces = InterfaceList()
    interfaces.refresh()
    sink._interfaces = interfaces
    sink.announce_interfaces()
    reader.read_until(
        lambda: reader.topics.get("snmp-ifaces", [{}])[-1].get(sink.address), pump(sink)
    )
    names = reader.topics["snmp-ifaces"][-1][sink.address]
    assert "lo" in names.values()
    assert all(index.isdecimal() for index in names)


def test_agent_objects(open_: Open, listen: Listen) -> None:
    """Editions with agents get flows and events with ntop's names, one object in a message."""
    sink, reader = connected(open_, listen, "?flows=json")
    records = flow_records(5)
    sink.send(records, NOW_S)
    events = np.zeros(3, EVENT_DTYPE)
    events["kind"], events["protocol"] = (1, 6, 8), (6, 17, 0)
    events["ip_version"], events["owner"] = (4, 4, 0), 1
    events["time_ns"] = NOW_S * 10**9
    sink.send_events(events, NOW_S)
    reader.read_until(lambda: len(reader.objects) == 7, pump(sink))
    flows, (tcp, udp) = reader.objects[:5], reader.objects[5:]
    octets = sum(flow["IN_BYTES"] + flow["OUT_BYTES"] for flow in flows)
    assert octets == int(records["octets"].sum())
    assert sink.statistics.sent_flow_records == 5
    assert tcp["TCP_EVENT_TYPE"] == "CONNECT"
    assert udp["UDP_EVENT_TYPE"] == "SEND"
    for one in reader.objects:
        assert one["LOCAL_PROCESS"]["PID"] > 1000
        assert one["LOCAL_CONTAINER"]["DOCKER"]["NAME"].startswith("web-")
        assert one["EXPORTER_IPV4_ADDRESS"] == sink.address
        assert "INTERFACE_NAME" not in one
    assert {"IPV4_LOCAL_ADDR", "IPV4_REMOTE_ADDR", "L4_LOCAL_PORT", "LAST_SWITCHED"} <= set(
        flows[0]
    )
