"""FlowFilter: what each term keeps, what is counted, and what is refused."""

from __future__ import annotations

import ipaddress

import numpy as np
import pytest

from probe.errors import ConfigError
from probe.flow.batch import FlowBatch, Mark, Rows, row_dtype
from probe.flow.filter import Choice, FlowFilter, combine, parse_rule
from probe.flow.owner import Owner, OwnerTable

# id, local, remote, local port, remote port, protocol, owner
ENDS = (
    (1, "10.0.0.1", "192.0.2.1", 40000, 53, 17, 1),
    (2, "172.16.0.1", "10.9.9.9", 443, 50000, 6, 2),
    (3, "2001:db8::1", "2001:db8:ffff::2", 8080, 50001, 6, 0),
)


def owners() -> OwnerTable:
    table = OwnerTable()
    table.add(
        Owner(pid=77, process_name="dig", uid=1000, user_name="ada", container_id="abcdef012345")
    )
    table.add(
        Owner(
            process_name="nginx", uid=33, user_name="www-data", pod_name="web-1",
            pod_namespace="shop", container_id="99", container_name="web",
        )
    )  # fmt: skip
    return table


def flows() -> FlowBatch:
    rows: Rows = np.zeros(len(ENDS), row_dtype())
    for row, (identity, local, remote, *numbers) in zip(rows, ENDS, strict=True):
        row["id"], row["ip_version"] = identity, ipaddress.ip_address(local).version
        for name, text in (("local_address", local), ("remote_address", remote)):
            packed = ipaddress.ip_address(text).packed
            row[name] = np.frombuffer(packed.ljust(16, b"\0"), np.uint8)
        row["local_port"], row["remote_port"], row["protocol"], row["owner"] = numbers
    rows["tx_packets"], rows["rx_packets"], rows["tx_octets"], rows["rx_octets"] = 1, 2, 30, 40
    return FlowBatch(rows)


def kept(flow_filter: FlowFilter) -> list[int]:
    ids: list[int] = flow_filter.select(flows(), owners()).rows["id"].tolist()
    return ids


@pytest.mark.parametrize(
    ("rule", "matched"),
    [
        ("cidr=10.0.0.0/8", [1, 2]),
        ("cidr=10.0.0.1", [1]),
        ("cidr=0.0.0.0/0", [1, 2]),
        ("cidr=2001:db8:ffff::/48", [3]),
        ("cidr=::/0", [3]),
        ("port=53", [1]),
        ("port=443-8080", [2, 3]),
        ("protocol=udp", [1]),
        ("protocol=6", [2, 3]),
        ("container=abc", [1]),
        ("container=web", [2]),
        ("pod=web-1", [2]),
        ("pod=shop/web-1", [2]),
        ("pod=default/web-1", []),
        ("pod=web", []),
        ("namespace=shop", [2]),
        ("process=77", [1]),
        ("user=ada", [1]),
        ("user=33", [2]),
        ("process=nginx", [2]),
        ("cidr=10.0.0.0/8, protocol=tcp", [2]),
        ("cidr=10.0.0.0/8,cidr=192.0.2.0/24", [1]),
        ("user=None", []),
    ],
)
def test_a_rule_keeps_or_drops_what_it_matches(rule: str, matched: list[int]) -> None:
    parsed = parse_rule(rule)
    assert kept(FlowFilter(include=[parsed])) == matched
    assert kept(FlowFilter(exclude=[parsed])) == [n for n in (1, 2, 3) if n not in matched]


def test_rules_are_alternatives_and_exclusion_wins() -> None:
    include = [parse_rule("port=53"), parse_rule("process=nginx")]
    assert kept(FlowFilter(include=include)) == [1, 2]
    assert kept(FlowFilter(include=include, exclude=[parse_rule("protocol=tcp")])) == [1]
    assert kept(FlowFilter()) == [1, 2, 3]


def test_what_is_excluded_is_counted_and_a_flow_once() -> None:
    flow_filter = FlowFilter(exclude=[parse_rule("protocol=tcp")])
    for mark in (0, Mark.CLOSED, 0):
        batch = flows()
        batch.rows["mark"] = mark
        flow_filter.select(batch, owners())
    assert (flow_filter.excluded_rows, flow_filter.excluded_packets) == (6, 18)
    assert (flow_filter.excluded_octets, flow_filter.excluded_flows) == (420, 4)


@pytest.mark.parametrize(
    "text",
    ["", "port", "port=", "colour=red", "port=x", "port=70000", "port=9-1", "port=-1",
     "cidr=10.0.0.0/33", "cidr=host", "protocol=tcpx", "protocol=256", "port=1,"],
)  # fmt: skip
def test_nonsense_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ConfigError, match="filter"):
        parse_rule(text)


def test_of_each_key_one_value_must_hold() -> None:
    rules = combine({"protocol": ["tcp"], "port": ["53", "443"], "user": []})
    assert [rule.text for rule in rules] == ["protocol=tcp,port=53", "protocol=tcp,port=443"]
    assert kept(FlowFilter(include=rules)) == [2]
    assert combine({"port": []}) == []
    with pytest.raises(ConfigError, match="'x' is not a number"):
        combine({"port": ["x"]})


def test_a_flow_matches_by_one_of_its_ends() -> None:
    rows = flows().rows
    columns = {name: rows[name] for name in rows.dtype.names or ()}
    columns["other"] = np.array([2, 0, 0], np.uint64)
    rule = parse_rule("process=nginx,port=1-60000")
    assert rule.matches(columns, owners(), ("owner", "other")).tolist() == [True, True, False]
    both = parse_rule("process=nginx,user=ada")  # of the same end
    assert not both.matches(columns, owners(), ("owner", "other")).any()
    choice = Choice(exclude=[rule])
    assert choice.matches(columns, owners(), ("owner", "other")).tolist() == [False, False, True]
