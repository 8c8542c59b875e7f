"""Tests how records are summed to flows, sorted, grouped and shown by the commands."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from probe.commands import flow_options as options
from probe.commands.cli import main
from probe.flow.codes import EventKind
from probe.flow.columns import EVENT_DTYPE, RECORD_DTYPE, SOCKET_DTYPE
from probe.flow.filter import Choice, combine, parse_rule
from probe.flow.owner import Container, Owner, OwnerTable, Pod, Process
from probe.flow.rows import Rows
from probe.view import groups, order
from probe.view.describe import container_text, to_flow
from probe.view.event_views import Events, Listening, event_line
from probe.view.flow_views import FlowsByLine, GroupsAtEnd, JsonFlows
from probe.view.flows import FlowTable
from probe.view.live import LiveFlows
from probe.view.tree import tree_lines
from tests.support.json_schema import check_line
from tests.support.records import NOW_NS, NOW_S, flow_records

CURL = Owner(
    Process(12, "curl", uid=1000, user_name="ada"),
    parent=Process(9, "bash"),
    container=Container("c" * 64, name="shell"),
)
NGINX = Owner(
    Process(34, "nginx", uid=33, user_name="www-data"),
    parent=Process(1, "init"),
    container=Container("d" * 64, name="web"),
    pod=Pod("web-1", "shop"),
)
DIG = Owner(Process(56, "dig", uid=0, user_name="root"))


def owners() -> OwnerTable:
    table = OwnerTable()
    for owner in (CURL, NGINX, DIG):
        table.add(owner)
    return table


def record(flow: int, client: int = 1, server: int = 2, **more: Any) -> Rows:
    """Returns a record from client to server; with ``answer=True`` from server to client.

    Both are owners; 0 is an end on another host.
    """
    found: Rows = np.zeros(1, RECORD_DTYPE)
    row = found[0]
    row["flow_id"], row["protocol"], row["ip_version"], row["tcp_state"] = flow, 6, 4, 1
    row["first_ns"], row["last_ns"] = NOW_NS - 10**9, NOW_NS
    row["end_reason"], row["octets"], row["packets"] = 2, 100, 2
    ends = [(client, 40000 + flow, 1, 7), (server, 80, 2, 8)]
    is_answer = more.pop("answer", False)
    row["biflow_direction"] = 2 if is_answer else 1
    for side, (owner, port, host, netns) in zip(
        ("source", "destination"), ends[::-1] if is_answer else ends, strict=True
    ):
        row[f"{side}_owner"], row[f"{side}_port"] = owner, port
        row[f"{side}_address"][:4] = 10, 0, 0, host
        row[f"{side}_netns"] = netns if owner else 0
    for name, value in more.items():
        row[name] = value
    return found


def live(*records: Rows) -> LiveFlows:
    flows = LiveFlows()
    for one in records:
        flows.observe(one, NOW_NS)
    return flows


# -- the table -------------------------------------------------------------------------------------
def test_directions_are_summed_up_apart() -> None:
    both = np.concatenate([record(1), record(1, answer=True, octets=7, packets=1)])
    flows = live(both, record(1, retransmitted=3, last_ns=NOW_NS + 5), record(9, octets=1))
    one, other = flows.rows
    assert (one["flow_id"], one["client_octets"], one["client_packets"]) == (1, 200, 4)
    assert (one["server_octets"], one["server_packets"], one["retransmitted"]) == (7, 1, 3)
    assert (one["client_owner"], one["server_owner"], one["client_port"]) == (1, 2, 40001)
    assert (one["first_ns"], one["last_ns"]) == (NOW_NS - 10**9, NOW_NS + 5)
    assert (other["flow_id"], other["client_octets"]) == (9, 1)
    assert flows.owners_in_use() == {1, 2}


def test_thousands_of_records_at_once_equal_the_plain_way() -> None:
    records = np.concatenate([flow_records(900), flow_records(500)])
    records["flow_id"] %= 300
    records["biflow_direction"] = 1
    flows = live(records)
    assert flows.rows["flow_id"].tolist() == list(range(300))
    for flow in (0, 7, 299):
        first = records[records["flow_id"] == flow][0]
        mine = [r for r in records if r["flow_id"] == flow]
        sent = sum(int(r["octets"]) for r in mine if r["source_port"] == first["source_port"]
                   and (r["source_address"] == first["source_address"]).all())  # fmt: skip
        row = flows.rows[flow]
        assert row["client_octets"] == sent
        assert row["client_octets"] + row["server_octets"] == sum(int(r["octets"]) for r in mine)
        assert row["last_ns"] == max(r["last_ns"] for r in mine)
        assert row["end_reason"] == mine[-1]["end_reason"]


def test_each_socket_has_its_own_rtt() -> None:
    flows = live(
        record(1, rtt_us=500, rtt_var_us=50),
        record(1, answer=True, rtt_us=90),
        record(2, client=0, rtt_us=70, answer=True),
        record(2, client=0, rtt_us=80),
    )
    here, away = flows.rows
    assert (here["client_rtt_us"], here["client_rtt_var_us"], here["server_rtt_us"]) == (
        500,
        50,
        90,
    )
    # the client is remote, so both records come from the server's socket
    assert (away["client_rtt_us"], away["server_rtt_us"]) == (0, 80)
    assert (away["client_is_here"], away["server_is_here"]) == (False, True)


@pytest.mark.parametrize("first_is_answer", [False, True])
def test_where_nobody_began_the_lower_port_serves(first_is_answer: bool) -> None:
    unknown = record(1, answer=first_is_answer, biflow_direction=0)
    row = live(unknown, record(1, answer=not first_is_answer, biflow_direction=2)).rows[0]
    assert (row["client_port"], row["server_port"]) == (40001, 80)
    assert row["client_octets"] == row["server_octets"] == 100


def test_the_end_and_its_news() -> None:
    left: list[int] = []
    flows = LiveFlows(on_leave=lambda rows: left.extend(rows["flow_id"].tolist()))
    flows.observe(np.concatenate([record(1), record(2)]), NOW_NS)
    assert flows.take_news()["flow_id"].tolist() == [1, 2]
    flows.observe(record(2, end_reason=3), NOW_NS + 5)
    assert flows.take_news()["flow_id"].tolist() == [2]
    assert not len(flows.take_news())
    flows.forget_ended(NOW_NS + 5)
    assert len(flows) == 2
    flows.forget_ended(NOW_NS + 6)
    assert (len(flows), flows.flows, left) == (1, 2, [2])


def test_the_longest_silent_leave_first() -> None:
    left: list[int] = []
    flows = LiveFlows(limit=3, on_leave=lambda rows: left.extend(rows["flow_id"].tolist()))
    for number in (4, 1, 3, 2):
        flows.observe(record(number, last_ns=NOW_NS + number), NOW_NS)
    assert (flows.rows["flow_id"].tolist(), left) == ([2, 3, 4], [1])


# -- order -----------------------------------------------------------------------------------------
SORTED = {
    "latest": [3, 2, 1], "octets": [2, 3, 1], "sent": [2, 1, 3], "received": [3, 2, 1],
    "packets": [3, 2, 1], "rtt": [1, 3, 2], "resent": [2, 3, 1], "age": [1, 2, 3],
    "client": [1, 2, 3], "server": [3, 2, 1], "process": [2, 1, 3], "user": [2, 1, 3],
    "container": [2, 3, 1],
}  # fmt: skip


@pytest.mark.parametrize("key", order.FLOW_ORDERS)
def test_sorted(key: str) -> None:
    flows = live(
        record(1, client=3, server=0, octets=50, rtt_us=900, first_ns=NOW_NS - 10**10),
        record(2, octets=500, packets=1, retransmitted=4, last_ns=NOW_NS + 1),
        record(2, answer=True, octets=5, packets=2),
        record(3, client=0, octets=1, packets=5, rtt_us=3, last_ns=NOW_NS + 2, end_reason=3),
        record(3, client=0, answer=True, octets=60, last_ns=NOW_NS + 2, end_reason=3),
    )
    flows.rows["server_port"] = [82, 81, 80]
    found = order.sort_flows(flows.rows, key, owners())["flow_id"].tolist()
    assert found == SORTED[key]
    assert not len(order.sort_flows(flows.rows[:0], key, owners()))


def test_the_command_offers_what_there_is() -> None:
    assert set(options.ORDERS) == set(order.FLOW_ORDERS)
    assert set(options.GROUP_ORDERS) == set(groups.GROUP_ORDERS)
    assert set(options.GROUPS) == set(groups.GROUPS)


# -- groups ----------------------------------------------------------------------------------------
def some_flows() -> Rows:
    """Returns records of four flows.

    curl asks nginx twice, dig asks a remote server, and a remote client asks nginx.
    """
    return np.concatenate([
        record(1, rtt_us=400, rtt_var_us=40), record(1, answer=True, rtt_us=100, octets=1000),
        record(2, rtt_us=200, rtt_var_us=20),
        record(3, client=3, server=0), record(3, client=3, server=0, answer=True, octets=30),
        record(4, client=0), record(4, client=0, answer=True, octets=9, rtt_us=300, rtt_var_us=8),
    ])  # fmt: skip


def test_as_client_and_as_server() -> None:
    found = dict(groups.Groups("container", owners()).totals(live(some_flows()).rows, "octets"))
    assert list(found) == ["shop/web-1/web", "shell", "-"]
    web, shell, none = found.values()
    assert (web.client.flows, web.server.flows) == (0, 3)
    assert (web.server.rtt_us.value, web.server.rtt_var_us.value) == (
        200,
        4,
    )  # mean of the two that have one
    assert (web.octets_sent, web.octets_received) == (1009, 300)
    assert (shell.client.flows, shell.client.rtt_us.value, shell.client.rtt_var_us.value) == (
        2, 300, 30,
    )  # fmt: skip
    assert (shell.octets_sent, shell.octets_received) == (200, 1000)
    assert (none.client.flows, none.server.flows, none.octets_received) == (1, 0, 30)


@pytest.mark.parametrize(
    ("by", "names"),
    [("pod", ["shop/web-1", "-"]), ("process", ["nginx", "curl", "dig"]),
     ("user", ["www-data", "ada", "root"])],
)  # fmt: skip
def test_by_other_names(by: str, names: list[str]) -> None:
    found = groups.Groups(by, owners()).totals(live(some_flows()).rows, "received")
    assert sorted(name for name, _ in found) == sorted(names)
    assert [one.octets_received for _, one in found] == sorted(
        (one.octets_received for _, one in found), reverse=True
    )


def test_what_has_left_the_table_still_counts() -> None:
    by = groups.Groups("process", owners())
    flows = LiveFlows(limit=2, on_leave=by.leave)
    for one in (some_flows(), record(5, end_reason=3)):
        flows.observe(one, NOW_NS)
    flows.forget_ended(NOW_NS + 1)
    assert len(flows) == 1
    for _ in range(2):  # reading the table changes nothing
        found = dict(by.totals(flows.rows, "name"))
        assert list(found) == ["curl", "dig", "nginx"]
        assert (found["nginx"].server.flows, found["curl"].client.flows) == (4, 3)
        assert found["curl"].client.rtt_us.value == 300


def view(kind: Any, *arguments: Any, choice: Choice | None = None) -> tuple[Any, io.StringIO]:
    stream = io.StringIO()
    known = [stream if one is ... else one for one in arguments]
    return kind(owners(), choice or Choice(), *known), stream


@pytest.mark.parametrize("as_json", [True, False])
def test_groups_without_a_terminal_are_written_once(as_json: bool) -> None:
    found, stream = view(GroupsAtEnd, ..., "name", "container", as_json)
    found.send(some_flows(), NOW_S)
    found.refresh()
    assert not stream.getvalue()
    found.end()
    lines = stream.getvalue().splitlines()
    if not as_json:
        assert lines[0].split()[:5] == ["container", "as", "client", "as", "server"]
        assert lines[2].split() == ["shell", "2", "0", "200", "B", "1", "kB", "0.3", "ms", "0.03",
                                    "ms"]  # fmt: skip
        return
    none, shell, web = (check_line(line, "summary") for line in lines)
    assert "LOCAL_CONTAINER" not in none
    assert shell["LOCAL_CONTAINER"]["DOCKER"] == {"ID": "c" * 64, "NAME": "shell"}
    assert web["LOCAL_CONTAINER"]["KUBE"]["POD"] == "web-1"
    assert web["AS_SERVER"] == {"FLOWS": 3, "RTT": 0.2, "RTT_VARIANCE": 0.004}


def test_a_container_has_not_the_service_of_some_of_its_flows() -> None:
    table = owners()
    by = groups.Groups("container", table)
    reached = table.add(replace(NGINX, service="shop/web:http"))
    flows = live(np.concatenate([record(1, server=reached), record(2, server=2)]))
    found = dict(by.totals(flows.rows, "octets"))
    web = found["shop/web-1/web"]
    assert web.server.flows == 2
    told = groups.group_object("container", "shop/web-1/web", web, NOW_S)
    assert "SERVICE" not in told["LOCAL_CONTAINER"]["KUBE"]  # type: ignore[index]


# -- lines -----------------------------------------------------------------------------------------
def test_a_line_for_each_flow_with_news() -> None:
    found, stream = view(FlowsByLine, ..., "octets")
    found.send(some_flows(), NOW_S)
    found.refresh()
    found.refresh()
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == [f"10.0.0.1:4000{n}" for n in (1, 3, 4, 2)]
    assert lines[0].startswith(
        "tcp 10.0.0.1:40001 > 10.0.0.2:80, sent 2 p 100 B, received 2 p 1 kB, rtt 0.4 ms, "
        "process curl(12) > nginx(34), user ada > www-data, container shell > shop/web-1/web, age"
    )
    assert lines[0].endswith("state established")
    found.send(record(2), NOW_S)
    found.refresh()
    assert len(stream.getvalue().splitlines()) == len(lines) + 1


def test_json_of_flows_is_that_of_run() -> None:
    found, stream = view(JsonFlows, ..., choice=Choice(combine({"process": ["nginx"]})))
    found.send(some_flows(), NOW_S)
    found.send(record(7, client=3, server=0), NOW_S)
    lines = [check_line(line, "flow") for line in stream.getvalue().splitlines()]
    assert [line["FLOW_ID"] for line in lines] == ["1", "2", "4"]
    assert lines[0]["BYTES_RCVD"] == 1000


@pytest.mark.parametrize(
    ("include", "exclude", "shown"),
    [
        ({"pod": ["shop/web-1"]}, [], [1, 2, 4]),
        ({"namespace": ["shop"], "user": ["ada"]}, [], []),  # they belong to different ends
        ({"container": ["shell"], "port": ["80"]}, [], [1, 2]),
        ({"process": ["12", "dig"]}, [], [1, 2, 3]),
        ({"port": ["40004"], "cidr": ["10.0.0.0/30"]}, [], [4]),
        ({}, ["process=curl", "port=40003"], [4]),
    ],
)
def test_filters(include: dict[str, list[str]], exclude: list[str], shown: list[int]) -> None:
    choice = Choice(combine(include), [parse_rule(text) for text in exclude])
    found, _ = view(FlowsByLine, ..., "latest", choice=choice)
    found.send(some_flows(), NOW_S)
    assert found.flows.rows["flow_id"].tolist() == shown


def test_a_tree_of_host_parent_and_process() -> None:
    rows = live(some_flows()).rows
    both, away = (tree_lines(rows[number], owners(), "node-7", NOW_S) for number in (0, 2))
    assert both[1:] == [
        "├─ 10.0.0.1 on node-7",
        "│  └─ bash(9)",
        "│     └─ curl(12), user ada, container shell",
        "└─ 10.0.0.2 on node-7",
        "   └─ init(1)",
        "      └─ nginx(34), user www-data, container shop/web-1/web",
    ]
    assert away[1:] == ["├─ 10.0.0.1 on node-7", "│  └─ dig(56), user root", "└─ 10.0.0.2"]


# -- events and sockets ----------------------------------------------------------------------------
def event(kind: EventKind, **columns: Any) -> Rows:
    found: Rows = np.zeros(1, EVENT_DTYPE)
    found["kind"], found["time_ns"], found["owner"] = kind, NOW_NS, 1
    if kind < EventKind.CONTAINER_START:
        found["ip_version"], found["protocol"], found["role"], found["count"] = 4, 6, 1, 1
        found["local_address"][0, :4], found["remote_address"][0, :4] = (10, 0, 0, 1), (10, 0, 0, 2)
        found["local_port"], found["remote_port"] = 40000, 80
    for name, value in columns.items():
        found[name] = value
    return found


WHO = "process curl(12), parent bash(9), user ada, container shell"
FLOW = "tcp 10.0.0.1:40000 > 10.0.0.2:80"


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (event(EventKind.CONNECT), f"CONNECT {FLOW}, {WHO}"),
        (event(EventKind.ACCEPT, role=2), f"ACCEPT {FLOW.replace('>', '<')}, {WHO}"),
        (event(EventKind.CONNECT_FAILED, error=111), f"CONNECT_FAILED {FLOW}, ECONNREFUSED, {WHO}"),
        (event(EventKind.CONNECT_FAILED), f"CONNECT_FAILED {FLOW}, {WHO}"),
        (event(EventKind.RETRANSMIT, count=3), f"RETRANSMIT {FLOW}, 3 segments, {WHO}"),
        (event(EventKind.CLOSE, tx_octets=1500, rtt_us=90),
         f"CLOSE {FLOW}, sent 1.5 kB, received 0 B, rtt 0.09 ms, {WHO}"),
        (event(EventKind.SEND, protocol=17), f"SEND {FLOW.replace('tcp', 'udp')}, {WHO}"),
        (event(EventKind.CONTAINER_START),
         "CONTAINER_START shell, process curl(12), parent bash(9), user ada"),
        (event(EventKind.CONNECT, owner=0), f"CONNECT {FLOW}"),
    ],
)  # fmt: skip
def test_lines_of_events(one: Rows, text: str) -> None:
    clock, _, rest = event_line(one[0], owners()[int(one["owner"][0])]).partition(" ")
    assert rest == text
    assert clock.endswith(":05.000")


@pytest.mark.parametrize("as_json", [True, False])
def test_events_of_some_kinds_and_of_a_container(as_json: bool) -> None:
    kinds = [EventKind.CLOSE, EventKind.CONTAINER_STOP]
    choice = Choice(combine({"container": ["shell"]}))
    found, stream = view(Events, ..., as_json, kinds, choice=choice)
    found.send_events(np.concatenate([
        event(EventKind.CONNECT), event(EventKind.CLOSE), event(EventKind.CLOSE, owner=2),
        event(EventKind.CONTAINER_STOP),
    ]), NOW_S)  # fmt: skip
    lines = stream.getvalue().splitlines()
    if as_json:
        assert [check_line(line)["EVENT_TYPE"] for line in lines] == ["CLOSE", "CONTAINER_STOP"]
    else:
        assert [line.split()[1] for line in lines] == ["CLOSE", "CONTAINER_STOP"]
    assert found.summary() == "2 events"


@pytest.mark.parametrize("as_json", [True, False])
def test_sockets_that_come_and_go(as_json: bool) -> None:
    sockets: Rows = np.zeros(3, SOCKET_DTYPE)
    sockets["owner"], sockets["local_port"], sockets["ip_version"] = [2, 3, 2], [80, 53, 80], 4
    sockets["protocol"], sockets["tcp_state"], sockets["gone"] = [6, 17, 6], [10, 7, 10], [0, 0, 1]
    found, stream = view(Listening, ..., as_json, choice=Choice(exclude=[parse_rule("port=53")]))
    found.send_sockets(sockets, NOW_S)
    lines = stream.getvalue().splitlines()
    if as_json:
        told = [check_line(line, "socket")["EVENT_TYPE"] for line in lines]
        assert told == ["LISTEN", "LISTEN_END"]
    else:
        who = "process nginx(34), parent init(1), user www-data, container shop/web-1/web"
        assert lines == [f"{what} tcp 0.0.0.0:80, {who}" for what in ("open", "closed")]


# -- the command line ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("flows --sort size", "--sort 'size' is none of latest,"),
        ("flows --by pod --sort client", "--sort 'client' is none of octets,"),
        ("flows --tree --by pod", "not allowed with"),
        ("flows --tree --json", "leave --tree out"),
        ("flows --port 1-x", "'x' is not a number"),
        ("flows --cidr 10.0.0.0/99", "filter 'cidr=10.0.0.0/99'"),
        ("flows --exclude nginx", "not KEY=VALUE"),
        ("flows --duration -1", "duration must be at least 0"),
        ("events --kind OPEN", "there is no such kind, but CONNECT,"),
        ("events --tree", "unrecognized arguments: --tree"),
    ],
)
def test_refused(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments.split()) == 2
    assert message in capsys.readouterr().err


def test_kinds_of_events() -> None:
    assert options.kinds({"kind": ["connect_failed, CLOSE", "SEND"]}) == [
        EventKind.CONNECT_FAILED, EventKind.CLOSE, EventKind.SEND,
    ]  # fmt: skip
    assert options.kinds({"kind": []}) == list(EventKind)


SERVICE = Owner(pod=Pod(namespace="shop", workload="Service/web"))
POD_ONLY = Owner(pod=Pod("web-1", "shop", "u"))
IN_POD = Owner(container=Container(name="nginx"), pod=Pod("web-1", "shop", workload="Job/a"))
LABELS = [
    (SERVICE, "shop/Service/web"),
    (POD_ONLY, "shop/web-1"),
    (IN_POD, "shop/web-1/nginx"),
    (Owner(container=Container("d" * 64)), "d" * 12),
    (Owner(container=Container("d" * 64, name="ab")), "ab"),
    (Owner(), ""),
]


@pytest.mark.parametrize(("who", "label"), LABELS)
def test_one_label_for_a_container_in_every_view(who: Owner, label: str) -> None:
    """The label of a local owner equals the one made of collected elements."""
    assert container_text(who) == label
    record = {
        "protocolIdentifier": 6, "sourceIPv4Address": "10.0.0.1", "sourceTransportPort": 4000,
        "destinationIPv4Address": "10.0.0.2", "destinationTransportPort": 80,
        "destinationPodNamespace": who.pod.namespace, "destinationPodName": who.pod.name,
        "destinationWorkload": who.pod.workload, "destinationContainerName": who.container.name,
        "DST_PROC_CONTAINER_ID": who.container.id,
    }  # fmt: skip
    table = FlowTable()
    table.observe([record], NOW_S)
    (flow,) = table.newest(1)
    assert flow.server.container == label


@pytest.mark.parametrize(("who", "label"), LABELS[:3])
def test_who_is_at_the_other_end_is_told_in_lines_trees_and_events(who: Owner, label: str) -> None:
    table = owners()
    other = table.add(who)
    there = record(1, client=1, server=0, destination_owner=other)
    (row,) = live(there).rows
    assert to_flow(row, table).server.container == label
    assert any(label in line for line in tree_lines(row, table, "node", NOW_S))
    stream = io.StringIO()
    events = Events(table, Choice(), stream, False, list(EventKind))
    events.send_events(event(EventKind.CONNECT, remote_owner=other), NOW_S)
    assert stream.getvalue().endswith(f"{WHO}, peer {label}\n")
    in_json = io.StringIO()
    events = Events(table, Choice(), in_json, True, list(EventKind))
    events.send_events(event(EventKind.CONNECT, remote_owner=other), NOW_S)
    found = check_line(in_json.getvalue())
    assert found["REMOTE_CONTAINER"]["KUBE"]["NS"] == "shop"
