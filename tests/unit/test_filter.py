"""Tests FlowFilter: what each term keeps, what is counted, and what is refused."""

from __future__ import annotations

import ipaddress

import numpy as np
import pytest

from probe.errors import ConfigError
from probe.flow.batch import FlowBatch
from probe.flow.cache import FlowCache
from probe.flow.codes import Mark
from probe.flow.columns import ROW_DTYPE
from probe.flow.filter import Choice, FlowFilter, LateNames, combine, parse_rule
from probe.flow.owner import Container, Owner, OwnerTable, Pod, Process
from probe.flow.rows import Rows

# id, local, remote, local port, remote port, protocol, owner
ENDS = (
    (1, "10.0.0.1", "192.0.2.1", 40000, 53, 17, 1),
    (2, "172.16.0.1", "10.9.9.9", 443, 50000, 6, 2),
    (3, "2001:db8::1", "2001:db8:ffff::2", 8080, 50001, 6, 0),
)


def owners() -> OwnerTable:
    table = OwnerTable()
    table.add(
        Owner(Process(77, "dig", uid=1000, user_name="ada"), container=Container("abcdef012345"))
    )
    table.add(
        Owner(
            Process(name="nginx", uid=33, user_name="www-data"),
            container=Container("99", name="web"),
            pod=Pod("web-1", "shop"),
        )
    )
    return table


def flows() -> FlowBatch:
    rows: Rows = np.zeros(len(ENDS), ROW_DTYPE)
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
    both = parse_rule("process=nginx,user=ada")  # both terms must hold for the same end
    assert not both.matches(columns, owners(), ("owner", "other")).any()
    choice = Choice(exclude=[rule])
    assert choice.matches(columns, owners(), ("owner", "other")).tolist() == [False, False, True]


def test_more_excluded_ends_than_are_remembered() -> None:
    """A close of a forgotten end must not end the probe.

    Peers of UDP sockets never close, so ends are forgotten.
    """
    flow_filter, table = FlowFilter(exclude=[parse_rule("port=53")]), owners()

    def exclude(first: int, count: int, mark: int = 0) -> None:
        rows: Rows = np.zeros(count, ROW_DTYPE)
        rows["id"], rows["remote_port"] = np.arange(first, first + count), 53
        rows["tx_packets"], rows["mark"] = 1, mark
        assert not len(flow_filter.select(FlowBatch(rows), table))

    exclude(1, 300_000)
    assert (flow_filter.excluded_flows, flow_filter.excluded_packets) == (300_000, 300_000)
    assert flow_filter.forgotten_flows >= 300_000 - 131_072
    exclude(299_991, 20, Mark.CLOSED)  # half of them known, all of them closed
    exclude(1, 10, Mark.CLOSED)  # forgotten long ago: counted again, and no error
    assert flow_filter.excluded_flows == 300_000 + 10 + 10


# -- names that come late --------------------------------------------------------------------------
SECOND = 10**9


class Late:
    """A filter in front of a cache and behind it. The process of one end is in a container."""

    def __init__(self, include: str = "", exclude: str = "") -> None:
        parsed = [[parse_rule(text)] if text else [] for text in (include, exclude)]
        self.filter = FlowFilter(*parsed)
        self.cache = FlowCache()
        self.owners = OwnerTable()
        self.job = self.owners.add(Owner(Process(name="job"), container=Container("aa")))
        self.nginx = self.owners.add(Owner(Process(name="nginx")))
        self.nameless = np.array([self.job])

    def name(self, container: str) -> None:
        named = Owner(Process(name="job"), container=Container("aa", name=container))
        self.owners.replace(self.job, named)
        self.nameless = np.zeros(0, np.int64)

    def observe(self, *ends: Rows) -> None:
        late = LateNames(self.nameless, self.cache.knows)
        batch = self.filter.select(FlowBatch(np.concatenate(ends)), self.owners, late)
        self.cache.observe(batch, SECOND)

    def records(self) -> Rows:
        return self.filter.select_records(self.cache.flush(2 * SECOND, 0), self.owners)

    def excluded(self) -> tuple[int, int, int]:
        chosen = self.filter
        return chosen.excluded_flows, chosen.excluded_packets, chosen.excluded_octets


def end(number: int, owner: int, is_client: bool = True, mark: int = Mark.CLOSED) -> Rows:
    """Returns one end of a TCP connection between ports 40000 and 80, 3 packets out and 2 in."""
    rows: Rows = np.zeros(1, ROW_DTYPE)
    rows["id"], rows["owner"], rows["owner_source"], rows["mark"] = number, owner, 1, mark
    rows["ip_version"], rows["protocol"], rows["netns"] = 4, 6, 5
    rows["local_address"][:, 0], rows["remote_address"][:, 0] = 10, 10
    client, server = ("local", "remote") if is_client else ("remote", "local")
    rows[f"{client}_port"], rows[f"{server}_port"] = 40000, 80
    rows["isn_local"], rows["isn_remote"] = (7, 8) if is_client else (8, 7)
    rows["role"] = 1 if is_client else 2
    rows["tx_packets"], rows["rx_packets"] = (3, 2) if is_client else (2, 3)
    rows["tx_octets"], rows["rx_octets"] = rows["tx_packets"] * 100, rows["rx_packets"] * 100
    rows["start_ns"] = rows["last_ns"] = SECOND
    return rows


@pytest.mark.parametrize(
    ("include", "exclude", "name", "records"),
    [("container=blink", "", "blink", 2), ("container=blink", "", "other", 0),
     ("", "container=blink", "blink", 0), ("", "container=blink", "other", 2),
     ("container=blink,port=80", "", "blink", 2), ("container=blink,port=81", "", "blink", 0),
     ("container=blink", "process=job", "blink", 0)],
)  # fmt: skip
def test_rules_by_name_wait_for_the_name(
    include: str, exclude: str, name: str, records: int
) -> None:
    """The end and its flow are over before the container's name comes."""
    late = Late(include, exclude)
    late.observe(end(1, late.job))
    late.name(name)
    told = late.records()
    assert len(told) == records
    assert late.excluded() == ((0, 0, 0) if records else (1, 5, 500))


def test_a_flow_is_judged_once_although_its_name_comes_in_the_midst() -> None:
    late = Late(exclude="container=blink")
    late.observe(end(1, late.job, mark=0))
    late.name("blink")
    late.observe(end(1, late.job))  # the cache knows this end, so its rows go there
    assert not len(late.records())
    assert late.excluded() == (1, 10, 1000)
    late.observe(end(2, late.job))  # the cache does not know this end, so it is dropped at once
    assert late.cache.entries == 0
    assert late.excluded() == (2, 15, 1500)


def test_an_owner_that_is_found_late_counts() -> None:
    """The Netlink source may find the owner of a socket some reads later."""
    late = Late(include="process=nginx")
    late.observe(end(1, 0, mark=0))
    late.observe(end(1, late.nginx))
    told = late.records()
    assert told["packets"].tolist() == [6, 4]
    assert late.excluded() == (0, 0, 0)


@pytest.mark.parametrize("is_joined", [False, True])
def test_the_end_of_a_peer_keeps_its_own_verdict(is_joined: bool) -> None:
    """In a connection within the host the rules keep nginx's end and exclude the other."""
    late = Late(exclude="container=blink")
    ends = [end(1, late.job), end(2, late.nginx, is_client=False)]
    if is_joined:
        late.observe(*ends)
        late.name("blink")
    else:  # the name is known from the beginning
        late.name("blink")
        late.observe(*ends)
    told = late.records()
    here = {(int(r["source_owner"]), int(r["destination_owner"])) for r in told}
    assert here == {(0, late.nginx), (late.nginx, 0)}
    assert late.excluded() == (1, 5, 500)


def test_both_ends_of_a_flow_are_dropped_and_counted() -> None:
    late = Late(include="container=web")
    other = late.owners.add(Owner(container=Container("bb")))
    late.nameless = np.array([late.job, other])
    late.observe(end(1, late.job), end(2, other, is_client=False))
    late.name("blink")
    assert not len(late.records())
    assert late.excluded() == (2, 10, 1000)


def test_where_no_rule_asks_for_owners_records_are_not_looked_at() -> None:
    late = Late(include="port=80")
    late.observe(end(1, late.job))
    records = late.cache.flush(2 * SECOND, 0)
    assert late.filter.select_records(records, late.owners) is records
