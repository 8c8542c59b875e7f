"""Tests JSON lines against dicts made one by one, against the schema and against examples."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from probe.flow.biflow import pair_directions
from probe.flow.codes import EventKind
from probe.flow.columns import EVENT_DTYPE, RECORD_DTYPE, SOCKET_DTYPE
from probe.flow.owner import Container, ContainerNames, Node, Owner, OwnerTable, Pod, Process
from probe.flow.rows import Rows
from probe.interfaces.interface import Counters, Interface
from probe.jsonlines.agent_objects import AgentLines
from probe.jsonlines.ecs import EcsLines
from probe.jsonlines.interface_objects import interface_object
from probe.jsonlines.layouts import ObjectLines
from probe.jsonlines.local_remote import event_columns, flow_columns, flow_key, socket_columns
from probe.mapping.tables import Privacy
from probe.view.event_views import event_line
from tests.support.json_schema import SCHEMA, check_line
from tests.support.records import NOW_NS, NOW_S, flow_records, owner_table
from tests.support.talk import COUNTERS, DOCKER, ENDS, KUBE, TCP, WHO, pieces

EXPORTER = {"EXPORTER_IPV4_ADDRESS": "192.0.2.1", "EXPORTER_NAME": "node-7"}
POD = Owner(
    Process(
        21,
        "nginx",
        "/usr/sbin/nginx",
        uid=33,
        user_name="www-data",
        gid=33,
        group_name="www-data",
        vm_size=9000,
        vm_peak=9100,
        command_line="nginx -g secret",
    ),
    parent=Process(20, "sh", "/bin/sh", uid=0, user_name="root", gid=0, vm_size=700, vm_peak=800),
    container=Container("ab" * 32, name="web"),
    pod=Pod("web-1", "shop", "0-1", "Deployment/web", labels=(("app", "web"),)),
    node=Node("node-3"),
)


def table() -> OwnerTable:
    owners = owner_table(4)
    assert owners.add(POD) == 5
    return owners


def agent(privacy: Privacy | None = None, pod_key: str = "KUBE") -> AgentLines:
    return AgentLines(table(), privacy or Privacy(), EXPORTER, pod_key)


def ecs(privacy: Privacy | None = None) -> EcsLines:
    return EcsLines(table(), privacy or Privacy(), EXPORTER)


def flows(lines: ObjectLines, records: Rows) -> list[str]:
    return lines.flows(flow_columns(records))


def one_flow(**columns: Any) -> Rows:
    """Returns both directions of a TCP flow from a client in a Pod to a remote server."""
    records = np.zeros(2, RECORD_DTYPE)
    records["flow_id"] = 1 << 60
    for row, (near, far) in enumerate((("source", "destination"), ("destination", "source"))):
        record = records[row]
        record[f"{near}_address"][:4], record[f"{far}_address"][:4] = (10, 0, 0, 1), (10, 0, 0, 2)
        record[f"{near}_port"], record[f"{far}_port"] = 40000, 443
        record[f"{near}_owner"], record[f"{near}_netns"] = 5, 77
    records["biflow_direction"] = [1, 2]
    records["octets"], records["packets"] = [1000, 9000], [10, 20]
    records["retransmitted"], records["lost"] = [3, 0], [2, 0]
    records["pacing_rate"], records["delivery_rate"] = [5000, 0], [4000, 0]
    records["unacknowledged"] = [7, 0]
    records["protocol"], records["ip_version"], records["tcp_state"] = 6, 4, 1
    records["rtt_us"], records["rtt_var_us"] = 1500, 250
    records["first_ns"], records["last_ns"] = NOW_NS - 2_000_000_000, NOW_NS + 1_234_567
    records["end_reason"] = 2
    for name, value in columns.items():
        records[name] = value
    return records


def some_events() -> Rows:
    """Returns events of every kind, of both IP versions, of TCP and of UDP."""
    kinds = [kind for kind in EventKind for _ in range(4)]
    events = np.zeros(len(kinds), EVENT_DTYPE)
    row = np.arange(len(kinds))
    events["kind"], events["owner"], events["role"] = kinds, row % 6, row % 3
    events["time_ns"], events["flow_id"] = NOW_NS + row, row
    events["ip_version"] = np.where(row % 2, 6, 4)
    events["protocol"] = np.where(row % 4 < 2, 6, 17)
    events["tcp_state"] = np.where(row % 4 < 2, 2, 0)
    events["local_address"][:, 0], events["remote_address"][:, 15] = 10, row
    events["local_port"], events["remote_port"] = 1000 + row, 443
    events["error"] = np.where((events["kind"] == EventKind.CONNECT_FAILED) & (row % 4 < 3), 111, 0)
    events["count"] = 2
    containers = events["kind"] >= EventKind.CONTAINER_START
    for name in ("protocol", "ip_version", "tcp_state", "local_port", "remote_port"):
        events[name][containers] = 0
    return events


def some_sockets() -> Rows:
    sockets = np.zeros(4, SOCKET_DTYPE)
    sockets["owner"], sockets["local_port"] = [5, 1, 0, 2], 80
    sockets["protocol"], sockets["tcp_state"] = [6, 6, 17, 17], [10, 10, 7, 7]
    sockets["ip_version"], sockets["gone"] = [4, 6, 4, 6], [0, 1, 0, 1]
    return sockets


# -- against dicts made one by one -----------------------------------------------------------------
def plain_flow(biflow: Any, owners: OwnerTable) -> dict[str, Any]:
    """Returns what docs/json.md says of one row whose source is the local end."""
    version = int(biflow["ip_version"])
    size = 4 if version == 4 else 16

    def address(column: str) -> str:
        return str(ipaddress.ip_address(bytes(biflow[column])[:size]))

    found: dict[str, Any] = {
        "timestamp": f"{biflow['last_ns'] // 10**9}.{biflow['last_ns'] % 10**9 // 1000:06d}",
        "EVENT_TYPE": "FLOW",
        "IP_PROTOCOL_VERSION": version,
        "PROTOCOL": int(biflow["protocol"]),
        "L4_LOCAL_PORT": int(biflow["source_port"]),
        "L4_REMOTE_PORT": int(biflow["destination_port"]),
        f"IPV{version}_LOCAL_ADDR": address("source_address"),
        f"IPV{version}_REMOTE_ADDR": address("destination_address"),
        "FLOW_ID": str(biflow["flow_id"]),
        "LOCAL_ROLE": "CLIENT",
        "FLOW_START_MILLISECONDS": int(biflow["first_ns"]) // 10**6,
        "FLOW_END_MILLISECONDS": int(biflow["last_ns"]) // 10**6,
        "FLOW_END_REASON": [
            "", "idle timeout", "active timeout", "end of Flow detected", "forced end",
            "lack of resources",
        ][biflow["end_reason"]],
        "BYTES_SENT": int(biflow["octets"]),
        "BYTES_RCVD": int(biflow["reverse_octets"]),
        "PKTS_SENT": int(biflow["packets"]),
        "PKTS_RCVD": int(biflow["reverse_packets"]),
        "INPUT_SNMP": int(biflow["ingress_interface"]),
        "OUTPUT_SNMP": int(biflow["egress_interface"]),
        **EXPORTER,
    }  # fmt: skip
    for end, side in (("LOCAL", "source"), ("REMOTE", "destination")):
        owner = owners[int(biflow[f"{side}_owner"])]
        found |= plain_owner(owner, end)
    if biflow["protocol"] == 6:
        states = [
            "ESTABLISHED", "SYN-SENT", "SYN-RECV", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT",
            "CLOSE", "CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING",
        ]  # fmt: skip
        found["TCP"] = {
            "CONN_STATE": states[biflow["tcp_state"] - 1],
            "RETRAN_PKTS": int(biflow["retransmitted"]),
            "UNACK_SEGMENTS": int(biflow["unacknowledged"]),
            "LOST_PKTS": int(biflow["lost"]),
            "SEGS_IN": int(biflow["reverse_packets"]),
            "SEGS_OUT": int(biflow["packets"]),
            "BYTES_RCVD": int(biflow["reverse_octets"]),
            "RTT": int(biflow["rtt_us"]) / 1000,
            "RTT_VARIANCE": int(biflow["rtt_var_us"]) / 1000,
            "CURRENT_RATE": int(biflow["pacing_rate"]),
            "DELIVERY_RATE": int(biflow["delivery_rate"]),
        }
    return found


def plain_owner(owner: Owner, end: str) -> dict[str, Any]:
    if not owner.process.pid:
        return {}
    return {
        f"{end}_PROCESS": {
            "PID": owner.process.pid, "NAME": owner.process.name, "UID": owner.process.uid,
            "UID_NAME": owner.process.user_name, "GID": owner.process.gid,
            "PROCESS_PATH": owner.process.path, "UNIT": owner.unit,
        },
        f"{end}_FATHER_PROCESS": {
            "PID": owner.parent.pid, "NAME": owner.parent.name, "PROCESS_PATH": owner.parent.path,
        },
        f"{end}_CONTAINER": {
            "ID": owner.container.id,
            "DOCKER": {"ID": owner.container.id, "NAME": owner.container.name},
            "IMAGE": owner.container.image,
        },
    }  # fmt: skip


@pytest.mark.parametrize("version", [4, 6])
def test_flows_equal_the_plain_way(version: int) -> None:
    records = flow_records(500, 4, version)
    records["pacing_rate"], records["unacknowledged"] = np.arange(500) << 40, np.arange(500)
    biflows, owners = pair_directions(records), table()
    biflows["biflow_direction"] = 1
    found = [json.loads(line) for line in flows(agent(), biflows)]
    assert found == [plain_flow(row, owners) for row in biflows]


# -- the schema ------------------------------------------------------------------------------------
def test_the_schema_is_one() -> None:
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(SCHEMA)
    with pytest.raises(AssertionError):
        check_line('{"EVENT_TYPE": "FLOW"}')


@pytest.mark.parametrize(("make", "prefix"), [(agent, ""), (ecs, "ecs_")])
def test_every_line_satisfies_the_schema(make: Any, prefix: str) -> None:
    lines = make()
    for version in (4, 6):
        for line in flows(lines, flow_records(60, 4, version)):
            check_line(line, f"{prefix}flow")
    check_line(flows(lines, one_flow(translated=1))[0], f"{prefix}flow")
    for event, line in zip(some_events(), lines.events(event_columns(some_events())), strict=True):
        is_container = event["kind"] >= EventKind.CONTAINER_START
        check_line(line, f"{prefix}{'container_' if is_container else ''}event")
    for line in lines.sockets(socket_columns(some_sockets(), NOW_S)):
        check_line(line, f"{prefix}socket")
    for line in interfaces(lines):
        check_line(line, f"{prefix}interface")
        check_line(line)  # the line matches exactly one schema


def interfaces(lines: ObjectLines) -> list[str]:
    counters = Counters(in_octets=5, out_packets=6, in_discards=7)
    names = ContainerNames("web", pod=Pod("web-1", "shop"))
    links = [
        Interface(2, "eth0", counters=counters),
        Interface(7, "veth1", container_id="ab" * 32, names=ContainerNames("db")),
        Interface(8, "veth2", container_id="cd" * 32, names=names),
    ]
    return [lines.interface(interface_object(link, NOW_S, "192.0.2.1")) for link in links]


# -- the examples of the talk: the members that each must have -------------------------------------
def test_the_ebpf_flow_of_the_talk() -> None:
    events = some_events()[:1]
    events["owner"] = 5
    found = json.loads(agent().events(event_columns(events))[0])
    assert pieces(found) >= {"EVENT_TYPE"} | ENDS | WHO | KUBE
    assert (found["EVENT_TYPE"], found["LOCAL_PROCESS"]["UID_NAME"]) == ("CONNECT", "www-data")
    events["owner"] = 1
    found = json.loads(agent().events(event_columns(events))[0])
    assert pieces(found) >= ENDS | DOCKER | {"LOCAL_CONTAINER.DOCKER.ID"}


def test_the_container_that_holds_a_pod_is_told_by_the_name_of_the_pod() -> None:
    """It has the Pod's name, because no API describes it."""
    owners = table()
    holder = Owner(Process(5), container=Container("9" * 64), pod=Pod("web-1", "shop"))
    events = np.zeros(1, EVENT_DTYPE)
    events["kind"], events["owner"] = EventKind.CONTAINER_START, owners.add(holder)
    found = json.loads(AgentLines(owners, Privacy(), EXPORTER).events(event_columns(events))[0])
    assert found["LOCAL_CONTAINER"]["KUBE"] == {"NAME": "web-1", "POD": "web-1", "NS": "shop"}
    found = json.loads(EcsLines(owners, Privacy(), EXPORTER).events(event_columns(events))[0])
    assert (found["container"]["name"], found["container"]["id"]) == ("web-1", "9" * 64)
    line = event_line(events[0], holder)
    assert "CONTAINER_START shop/web-1, " in line


def test_the_netlink_flow_of_the_talk() -> None:
    (line,) = flows(agent(), one_flow())
    found = check_line(line, "flow")
    assert pieces(found) >= ENDS | WHO | KUBE | TCP
    assert found["TCP"] == {
        "CONN_STATE": "ESTABLISHED", "RETRAN_PKTS": 3, "UNACK_SEGMENTS": 7, "LOST_PKTS": 2,
        "SEGS_IN": 20, "SEGS_OUT": 10, "BYTES_RCVD": 9000, "RTT": 1.5, "RTT_VARIANCE": 0.25,
        "CURRENT_RATE": 5000, "DELIVERY_RATE": 4000,
    }  # fmt: skip
    assert found["timestamp"] == "1767323045.001234"
    assert found["LOCAL_CONTAINER"]["KUBE"] == {
        "NAME": "web", "POD": "web-1", "NS": "shop", "UID": "0-1", "NODE": "node-3",
        "WORKLOAD": "Deployment/web", "WORKLOAD_KIND": "Deployment", "WORKLOAD_NAME": "web",
        "LABELS": {"app": "web"},
    }  # fmt: skip
    assert "K8S" in json.loads(flows(agent(pod_key="K8S"), one_flow())[0])["LOCAL_CONTAINER"]


def test_the_interface_counters_of_the_talk() -> None:
    host, docker, pod = (json.loads(line) for line in interfaces(agent()))
    assert pieces(host) == COUNTERS
    assert pieces(docker) == COUNTERS | DOCKER
    assert pieces(pod) == COUNTERS | KUBE
    assert (host["ifInOctets"], host["ifOutPackets"], host["ifInDrops"]) == (5, 6, 7)


# -- which end is local ----------------------------------------------------------------------------
def test_a_server_of_a_remote_client_is_the_local_end() -> None:
    records = one_flow(biflow_direction=[2, 1])
    (line,) = flows(agent(), records)
    found = json.loads(line)
    assert (found["LOCAL_ROLE"], found["L4_LOCAL_PORT"]) == ("SERVER", 40000)
    assert (found["BYTES_SENT"], found["BYTES_RCVD"]) == (1000, 9000)
    assert found["LOCAL_PROCESS"]["PID"] == 21
    assert "REMOTE_PROCESS" not in found
    assert (found["TCP"]["UNACK_SEGMENTS"], found["TCP"]["RETRAN_PKTS"]) == (7, 3)
    found = json.loads(flows(ecs(), records)[0])
    assert (found["source"]["port"], found["destination"]["port"]) == (443, 40000)
    assert (found["source"]["bytes"], found["network"]["bytes"]) == (9000, 10000)
    assert found["network"]["direction"] == "ingress"


def test_one_direction_alone_has_nothing_the_other_way() -> None:
    found = json.loads(flows(agent(), one_flow()[1:])[0])
    assert (found["LOCAL_ROLE"], found["L4_LOCAL_PORT"]) == ("CLIENT", 40000)
    assert (found["BYTES_SENT"], found["BYTES_RCVD"]) == (0, 9000)


def test_both_ends_here_are_both_described() -> None:
    records = one_flow()
    for record, side in zip(records, ("destination", "source"), strict=True):
        record[f"{side}_owner"], record[f"{side}_netns"] = 1, 78
    found = json.loads(flows(agent(), records)[0])
    assert (found["LOCAL_PROCESS"]["PID"], found["REMOTE_PROCESS"]["PID"]) == (21, 1001)
    assert found["REMOTE_CONTAINER"]["DOCKER"]["NAME"] == "web-1"
    found = json.loads(flows(ecs(), records)[0])
    assert found["sockflow"]["remote"]["process"]["pid"] == 1001
    assert found["orchestrator"]["resource"] == {
        "type": "pod", "name": "web-1", "id": "0-1",
        "parent": {"type": "deployment"}, "label": ["app=web"],
    }  # fmt: skip
    assert found["sockflow"]["kubernetes"] == {"workload": "Deployment/web", "node": "node-3"}


def test_a_pod_and_a_service_of_elsewhere() -> None:
    """They are known by their addresses, so they have no process and no container id."""
    there = Owner(pod=Pod("db-0", "data", workload="StatefulSet/db"), node=Node("node-4"))
    service = Owner(pod=Pod(namespace="data", workload="Service/db"))
    for owner, members, resource in (
        (
            there,
            {"NAME": "", "POD": "db-0", "NS": "data", "NODE": "node-4",
             "WORKLOAD": "StatefulSet/db", "WORKLOAD_KIND": "StatefulSet", "WORKLOAD_NAME": "db"},
            {"type": "pod", "name": "db-0", "parent": {"type": "statefulset"}},
        ),
        (
            service,
            {"NAME": "", "POD": "", "NS": "data", "WORKLOAD": "Service/db",
             "WORKLOAD_KIND": "Service", "WORKLOAD_NAME": "db"},
            {"type": "service", "name": "db"},
        ),
    ):  # fmt: skip
        owners = table()
        records = one_flow()
        index = owners.add(owner)
        for record, side in zip(records, ("destination", "source"), strict=True):
            record[f"{side}_owner"] = index
        found = check_line(flows(AgentLines(owners, Privacy(), EXPORTER), records)[0], "flow")
        assert found["REMOTE_CONTAINER"] == {"KUBE": members}
        assert "REMOTE_PROCESS" not in found
        found = check_line(flows(EcsLines(owners, Privacy(), EXPORTER), records)[0], "ecs_flow")
        assert found["sockflow"]["remote"]["orchestrator"]["resource"] == resource


def test_what_is_around_a_container() -> None:
    owners = table()
    owners.replace(
        5, replace(POD, unit="x.service", container=replace(POD.container, outer_id="cd" * 32))
    )
    found = check_line(flows(AgentLines(owners, Privacy(), EXPORTER), one_flow())[0], "flow")
    assert found["LOCAL_CONTAINER"]["OUTER_ID"] == "cd" * 32
    found = check_line(flows(EcsLines(owners, Privacy(), EXPORTER), one_flow())[0], "ecs_flow")
    assert found["sockflow"]["outer_container"] == {"id": "cd" * 32}
    assert found["sockflow"]["unit"] == "x.service"


def test_the_key_is_the_same_from_both_ends() -> None:
    from probe.export.share import flow_hash

    here = flow_columns(one_flow())
    there = {"protocol": here["protocol"]}
    for name in ("address", "port"):
        there[f"local_{name}"], there[f"remote_{name}"] = (
            here[f"remote_{name}"], here[f"local_{name}"]
        )  # fmt: skip
    assert flow_hash(flow_key(here)) == flow_hash(flow_key(there))
    there["local_port"] = there["local_port"] + 1
    assert flow_hash(flow_key(here)) != flow_hash(flow_key(there))


# -- events ----------------------------------------------------------------------------------------
def test_events_keep_their_order_and_their_errors() -> None:
    events = some_events()
    found = [json.loads(line) for line in agent().events(event_columns(events))]
    assert [one["EVENT_TYPE"] for one in found] == [EventKind(kind).name for kind in events["kind"]]
    failed = [one for one in found if one["EVENT_TYPE"] == "CONNECT_FAILED"]
    assert [one.get("ERROR") for one in failed] == ["ECONNREFUSED"] * 3 + [None]
    retransmitted = [one for one in found if one["EVENT_TYPE"] == "RETRANSMIT" and "TCP" in one]
    assert {one["TCP"]["RETRAN_PKTS"] for one in retransmitted} == {2}


# -- what may leave --------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [agent, ecs])
def test_privacy(make: Any) -> None:
    everything = flows(make(Privacy(command_lines=True)), one_flow())[0]
    secrets = {"users": "www-data", "paths": "/usr/sbin", "names": '"nginx"'}
    assert "nginx -g secret" in everything
    assert "secret" not in flows(make(), one_flow())[0]
    for setting, text in secrets.items():
        assert text in everything
        assert text not in flows(make(Privacy(**{setting: False})), one_flow())[0]


@pytest.mark.parametrize("make", [AgentLines, EcsLines])
def test_any_name_gives_valid_json(make: Any) -> None:
    owners = OwnerTable()
    index = owners.add(Owner(Process(1, 'a"\\%s\x00\udc80\n€', user_name="%d")))
    lines = make(owners, Privacy(), {"EXPORTER_NAME": "100%"})
    text = flows(lines, one_flow(source_owner=index, destination_owner=index))[0]
    assert text.isascii()
    assert "\n" not in text
    assert "\\u20ac" in text
    check_line(text)


def test_a_released_owner_is_forgotten() -> None:
    owners = table()
    lines = AgentLines(owners, Privacy(), EXPORTER)
    before = json.loads(flows(lines, one_flow())[0])
    owners.replace(5, Owner(Process(99)))
    lines.forget([5])
    after = json.loads(flows(lines, one_flow())[0])
    assert (before["LOCAL_PROCESS"]["PID"], after["LOCAL_PROCESS"]) == (21, {"PID": 99})


def test_only_columns_that_a_format_asks_for_are_made() -> None:
    columns = flow_columns(one_flow())
    agent().flows(columns)
    made = set(columns)
    assert "tx_pacing_rate" in made
    assert "tx_congestion_window" not in made  # but it is made on request
    assert "tx_congestion_window" in columns
    assert len(columns["tx_congestion_window"]) == 1
