"""Tests how records become lines for people."""

from __future__ import annotations

import io
from typing import Any

import pytest

from probe import units
from probe.view.flows import Flow, FlowTable
from probe.view.screen import PlainLines, open_view, print_flows


def record(source: str = "10.0.0.1:40000", destination: str = "10.0.0.2:80", **more: Any) -> Any:
    """Returns a Data Record as the Collecting Process gives it."""
    ends: dict[str, str | int] = {}
    for side, end in (("source", source), ("destination", destination)):
        address, _, port = end.rpartition(":")
        version = "IPv6Address" if ":" in address else "IPv4Address"
        ends |= {f"{side}{version}": address, f"{side}TransportPort": int(port)}
    return {
        "protocolIdentifier": 6,
        "octetDeltaCount": 100,
        "packetDeltaCount": 2,
        "flowStartMilliseconds": 1_000_000,
        "flowEndMilliseconds": 1_005_000,
        **ends,
        **more,
    }


def table(*records: Any, now_s: float = 1010.0) -> FlowTable:
    flows = FlowTable()
    flows.observe(records, now_s)
    return flows


def only(*records: Any) -> Flow:
    (flow,) = table(*records).newest(9)
    return flow


def test_both_directions_are_one_flow() -> None:
    back = record("10.0.0.2:80", "10.0.0.1:40000", octetDeltaCount=7, packetDeltaCount=1)
    flow = only(record(), back, record())
    assert (flow.client.endpoint, flow.client.octets, flow.client.packets) == (
        "10.0.0.1:40000",
        200,
        4,
    )
    assert (flow.server.endpoint, flow.server.octets, flow.server.packets) == ("10.0.0.2:80", 7, 1)


def test_the_exporter_says_who_is_the_client() -> None:
    assert only(record(biflowDirection=2)).client.endpoint == "10.0.0.2:80"
    assert only(record(biflowDirection=1)).client.endpoint == "10.0.0.1:40000"
    low = record("10.0.0.2:80", "10.0.0.1:40000")
    assert only(low).client.endpoint == "10.0.0.1:40000"


def test_equal_addresses_of_isolated_namespaces_stay_apart() -> None:
    assert len(table(record(flowId=1), record(flowId=2))) == 2


def test_names_belong_to_their_side() -> None:
    there = record(SRC_PROC_NAME="curl", SRC_PROC_PID=7, SRC_PROC_USER_NAME="ann",
                   DST_PROC_CONTAINER_ID="f" * 64)  # fmt: skip
    back = record("10.0.0.2:80", "10.0.0.1:40000", SRC_PROC_NAME="", DST_PROC_NAME="curl",
                  DST_PROC_PID=7, DST_PROC_UID=0)  # fmt: skip
    flow = only(there, back)
    assert (flow.client.process, flow.client.user) == ("curl(7)", "0")
    assert (flow.server.process, flow.server.container) == ("", "f" * 12)


def test_newest_activity_first() -> None:
    old = record(flowId=1, flowEndMilliseconds=1_002_000)
    new = record(flowId=2, flowEndMilliseconds=1_009_000)
    assert [flow.last_s for flow in table(new, old).newest(9)] == [1009, 1002]


def test_ended_flows_leave_after_a_while() -> None:
    flows = table(record(flowEndReason=3, flowId=1), record(flowEndReason=2, flowId=2))
    flows.forget_ended(1010.0)
    assert len(flows) == 2
    flows.forget_ended(1010.1)
    assert [flow.ended for flow in flows.newest(9)] == [False]


def test_state_and_age() -> None:
    live = only(record(tcpState="ESTABLISHED", flowEndReason=2))
    assert (live.state, live.age_s(1020.0)) == ("ESTABLISHED", 20.0)
    ended = only(record(tcpState="CLOSE", flowEndReason=3))
    assert (ended.state, ended.age_s(1020.0)) == ("closed", 5.0)


def test_bounded() -> None:
    flows = FlowTable(limit=10)
    flows.observe([record(flowId=number) for number in range(50)], 1.0)
    assert len(flows) == 10


def test_other_exporters_records() -> None:
    assert len(table({"octetDeltaCount": 3}, {"exportedMessageTotalCount": 1})) == 0
    flow = only({"protocolIdentifier": 1, "sourceIPv4Address": "10.0.0.1"})
    assert (flow.protocol, flow.client.endpoint, flow.first_s) == ("icmp", "10.0.0.1:?", 1010.0)
    assert only(record("fe80::1:5", "::1:6")).server.endpoint in ("[::1]:6", "[fe80::1]:5")


def test_a_biflow_is_both_directions() -> None:
    """RFC 5103: reverse elements are what the destination sent."""
    one = record(reverseOctetDeltaCount=40, reversePacketDeltaCount=1,
                 reverseFlowEndMilliseconds=1_009_000)  # fmt: skip
    flow = only(one, one)
    assert (flow.client.octets, flow.client.packets) == (200, 4)
    assert (flow.server.octets, flow.server.packets) == (80, 2)
    assert (flow.first_s, flow.last_s) == (1000, 1009)
    back = record("10.0.0.2:80", "10.0.0.1:40000", reverseOctetDeltaCount=3, biflowDirection=2)
    assert (only(one, back).client.octets, only(one, back).server.octets) == (103, 140)


@pytest.mark.parametrize(
    ("unit", "per_second"), [("Seconds", 1), ("Microseconds", 10**6), ("Nanoseconds", 10**9)]
)
def test_times_in_any_unit(unit: str, per_second: int) -> None:
    one = record() | {f"flowStart{unit}": 900 * per_second, f"flowEnd{unit}": 950 * per_second}
    del one["flowStartMilliseconds"], one["flowEndMilliseconds"]
    assert (only(one).first_s, only(one).last_s) == (900, 950)


def test_what_was_recorded_is_printed_by_its_own_clock() -> None:
    stream = io.StringIO()
    flows = table(record(flowId=1), record(flowId=2, flowEndMilliseconds=1_030_000))
    print_flows(flows, stream)
    print_flows(flows, stream)
    ages = [line.rpartition("age ")[2] for line in stream.getvalue().splitlines()]
    assert ages == ["30s", "30s"]


def test_an_exporter_may_send_anything_under_any_name() -> None:
    """Its elements may have any name, type and length."""
    values = ["x" * 70_000, float("nan"), float("inf"), True, -1, 1 << 127, "", "\ud800"]
    names = ("protocolIdentifier", "sourceIPv4Address", "sourceTransportPort", "octetDeltaCount",
             "flowEndReason", "flowStartMilliseconds", "flowEndMilliseconds", "flowId", "tcpState",
             "biflowDirection", "SRC_PROC_NAME", "SRC_PROC_PID", "SRC_PROC_UID",
             "sourcePodNamespace", "sourcePodName", "SRC_PROC_CONTAINER_ID")  # fmt: skip
    some: list[dict[str, Any]] = [{name: value} for name in names for value in values]
    flows = table(*(record() | one for one in some))
    print_flows(flows, stream := io.StringIO())
    assert stream.getvalue()
    assert max(map(len, stream.getvalue().splitlines())) < 2000


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_234_567, "1.23 MB"), (999_999, "1 MB"),
     (10**18, "1e+03 PB")],
)  # fmt: skip
def test_octets(count: int, shown: str) -> None:
    assert units.octets(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.84, "0.8s"), (42, "42s"), (192, "3m12s"), (18_420, "5h07m"), (183_600, "2d03h")],
)
def test_age(seconds: float, shown: str) -> None:
    assert units.age(seconds) == shown


def test_plain_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    flows = table(record(SRC_PROC_NAME="curl", SRC_PROC_PID=7))
    view = open_view(flows, stream)
    assert isinstance(view, PlainLines)
    view.refresh("")
    view.refresh("")
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().startswith(
        "tcp 10.0.0.1:40000 > 10.0.0.2:80, sent 2 p 100 B, received 0 p 0 B, process curl(7)"
    )


@pytest.mark.parametrize(
    ("named", "shown"),
    [
        ({"ContainerName": "web"}, "web"),
        (
            {"ContainerName": "nginx", "PodName": "web-1", "PodNamespace": "shop"},
            "shop/web-1/nginx",
        ),
        ({"PodName": "db-0", "PodNamespace": "data", "Workload": "StatefulSet/db"}, "data/db-0"),
        ({"PodNamespace": "data", "Workload": "Service/db"}, "data/Service/db"),
    ],
)
def test_a_container_by_all_of_its_names(named: dict[str, str], shown: str) -> None:
    flow = only(
        record(SRC_PROC_CONTAINER_ID="ab" * 32, **{f"source{key}": v for key, v in named.items()})
    )
    assert (flow.client.container, flow.server.container) == (shown, "")
