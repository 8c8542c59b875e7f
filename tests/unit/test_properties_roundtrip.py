"""Tests with hypothesis that the Collecting Process decodes what the probe exported."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probe.flow.columns import RECORD_DTYPE
from probe.flow.owner import Container, Owner, OwnerTable, Process
from probe.flow.rows import Rows
from probe.ipfix.decode import Record
from probe.ipfix.template import Field, TemplateDefinition
from probe.ipfix.types import VARIABLE
from probe.mapping import load_template
from tests.support.ipfix.protocols import (
    ELEMENTS,
    PROTOCOLS,
    Protocol,
    collecting_process,
    messages_of,
)
from tests.support.reader.wire import Known
from tests.support.records import NOW_NS, NOW_S, flow_records, owner_table

protocols = pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda one: str(one.name))
bounded = settings(
    max_examples=100, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip

DAY_NS = 86_400_000_000_000
STATES = ["", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE",
          "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV"]  # fmt: skip
#: Values of the columns that are not plain numbers.
SPECIAL = {
    "first_ns": st.integers(NOW_NS - 20 * DAY_NS, NOW_NS),  # v9's times wrap after 49 days
    "last_ns": st.integers(NOW_NS - 20 * DAY_NS, NOW_NS),
    "ip_version": st.sampled_from([4, 6]),
    "tcp_state": st.integers(0, len(STATES) - 1),
    "dscp": st.integers(0, 63),
    "estimated": st.integers(0, 1),
    "translated": st.integers(0, 1),
    "pad": st.just(0),
}
#: Strings so short that all of an owner's fit without a cut, or strings of any length.
short = st.one_of(
    st.text(max_size=6), st.text(max_size=6, alphabet="a\0\n\x1b\x7f\x9f\udc80é\U0001f427")
)
texts = st.one_of(short, short, st.text(max_size=2000), st.just("ß" * 40_000))
ids = st.one_of(st.none(), st.integers(0, 0xFFFFFFFF))


def owners_with(text: st.SearchStrategy[str]) -> st.SearchStrategy[Owner]:
    process = st.builds(
        Process, pid=ids, name=text, path=text, uid=ids, gid=ids, user_name=text,
        path_source=st.sampled_from(["", "walked", "exec"]), command_line=text,
    )  # fmt: skip
    parent = st.builds(Process, pid=ids, name=text, path=text)
    container = st.builds(Container, id=text)
    return st.builds(Owner, process=process, parent=parent, container=container)


@st.composite
def rows(draw: st.DrawFn, owners: int, most: int = 4) -> Rows:
    """Draws up to ``most`` records; columns are numbers of their whole range."""
    records = np.zeros(draw(st.integers(1, most)), RECORD_DTYPE)
    assert RECORD_DTYPE.names
    for name in RECORD_DTYPE.names:
        kind, shape = (RECORD_DTYPE[name].subdtype or (RECORD_DTYPE[name], ()))[:2]
        for row in range(len(records)):
            if shape:
                size = shape[0] * kind.itemsize
                records[name][row] = np.frombuffer(
                    draw(st.binary(min_size=size, max_size=size)), kind
                )
            elif name.endswith("_owner"):
                records[name][row] = draw(st.integers(0, owners))
            else:
                plain = st.integers(0, int(np.iinfo(kind).max))
                records[name][row] = draw(SPECIAL.get(name, plain))
    return records


# -- the expected value of each element, declared again --------------------------------------------

Value = Callable[[Any, OwnerTable], object]


def column(name: str) -> Value:
    return lambda row, _: int(row[name])


def address(name: str, octets: int) -> Value:
    return lambda row, _: str(ipaddress.ip_address(bytes(row[name][:octets])))


def of_owner(side: str, name: str, otherwise: object = 0) -> Value:
    def value(row: Any, owners: OwnerTable) -> object:
        found = attrgetter(name)(owners[int(row[f"{side}_owner"])])
        return otherwise if found is None else found

    return value


def of_side(side: str, ntop: str) -> dict[str, Value]:
    nobody = 0xFFFFFFFF
    return {
        f"{side}IPv4Address": address(f"{side}_address", 4),
        f"{side}IPv6Address": address(f"{side}_address", 16),
        f"{side}TransportPort": column(f"{side}_port"),
        f"{ntop}_PROC_PID": of_owner(side, "process.pid"),
        f"{ntop}_PROC_NAME": of_owner(side, "process.name"),
        f"{ntop}_PROC_UID": of_owner(side, "process.uid", nobody),
        f"{ntop}_PROC_USER_NAME": of_owner(side, "process.user_name"),
        f"{ntop}_PROC_CMDLINE": of_owner(side, "process.command_line"),
        f"{ntop}_PROC_CONTAINER_ID": of_owner(side, "container.id"),
        f"{ntop}_FATHER_PROC_PID": of_owner(side, "parent.pid"),
        f"{ntop}_FATHER_PROC_NAME": of_owner(side, "parent.name"),
        f"{side}GroupId": of_owner(side, "process.gid", nobody),
        f"{side}ProcessPath": of_owner(side, "process.path"),
        f"{side}ProcessPathOrigin": lambda row, owners: ["", "walked", "exec"].index(
            owners[int(row[f"{side}_owner"])].process.path_source
        ),
        f"{side}ParentProcessPath": of_owner(side, "parent.path"),
        f"{side}OwnerOrigin": column(f"{side}_owner_source"),
        f"{side}NetworkNamespaceInode": column(f"{side}_netns_inode"),
        f"{side}NetworkNamespaceCookie": column(f"{side}_netns"),
    }


VALUES: dict[str, Value] = {
    **of_side("source", "SRC"),
    **of_side("destination", "DST"),
    "octetDeltaCount": column("octets"),
    "packetDeltaCount": column("packets"),
    "protocolIdentifier": column("protocol"),
    "ipClassOfService": lambda row, _: int(row["dscp"]) * 4,
    "ipDiffServCodePoint": column("dscp"),
    "tcpControlBits": column("tcp_flags"),
    "ingressInterface": column("ingress_interface"),
    "egressInterface": column("egress_interface"),
    "ipVersion": column("ip_version"),
    "flowDirection": column("flow_direction"),
    "biflowDirection": column("biflow_direction"),
    "flowEndReason": column("end_reason"),
    "flowId": column("flow_id"),
    "flowStartSeconds": lambda row, _: int(row["first_ns"]) // 10**9,
    "flowEndSeconds": lambda row, _: int(row["last_ns"]) // 10**9,
    "flowStartMilliseconds": lambda row, _: int(row["first_ns"]) // 10**6,
    "flowEndMilliseconds": lambda row, _: int(row["last_ns"]) // 10**6,
    "RETRANSMITTED_IN_PKTS": column("retransmitted"),
    "tcpSmoothedRttMicroseconds": column("rtt_us"),
    "tcpRttVarianceMicroseconds": column("rtt_var_us"),
    "tcpLostSegmentDeltaCount": column("lost"),
    "countersEstimated": lambda row, _: bool(row["estimated"]),
    "tcpState": lambda row, _: STATES[int(row["tcp_state"])],
}
FAMILIES = {"sourceIPv4Address": "sourceIPv6Address",
            "destinationIPv4Address": "destinationIPv6Address"}  # fmt: skip
UPTIMES = {"flowStartSysUpTime": "flowStartMilliseconds", "flowEndSysUpTime": "flowEndMilliseconds"}


def said(text: str) -> str:
    """Returns ``text`` with replacements for control characters and invalid characters."""
    control = {*range(32), *range(127, 160)}
    kept = "".join("\N{REPLACEMENT CHARACTER}" if ord(c) in control else c for c in text)
    return kept.encode("utf-8", "replace").decode()


def cut(text: str, octets: int) -> str:
    while len(text.encode()) > octets:
        text = text[: max(octets, len(text) // 2)] if len(text) > 2 * octets else text[:-1]
    return text


def assert_says(record: Record, field: Field, expected: object) -> None:
    """Checks a value. A number saturates in a shorter field, and a long string is cut."""
    name, found = field.element.name, record[field.element.name]
    if isinstance(expected, str) and field.element.type.name == "string":
        whole = said(expected)
        if not field.is_variable:
            assert found == cut(whole, field.length), name
        elif len(whole.encode()) <= 24:
            assert found == whole, name
        else:
            assert whole.startswith(str(found)), name
    elif isinstance(expected, int) and not isinstance(expected, bool):
        assert found == min(expected, (1 << 8 * field.length) - 1), name
    else:
        assert found == expected, name


def exported(
    protocol: Protocol, definition: TemplateDefinition, owners: OwnerTable, records: Rows, size: int
) -> list[Record]:
    """Returns the flow records of our decoder, sorted by flowId."""
    session = protocol.session(definition, owners, size)
    process = collecting_process()
    found = [
        record
        for octets in messages_of(session.messages(records, NOW_S))
        for record in process.decode(octets, "peer")
    ]
    counted = process.statistics
    assert counted.errors == counted.unknown_sets == counted.lost_records == 0
    assert counted.lost_messages == counted.template_errors == 0
    assert not counted.oddities
    return sorted(found, key=lambda record: record["flowId"])


def assert_round_trip(
    protocol: Protocol, definition: TemplateDefinition, owners: OwnerTable, records: Rows, size: int
) -> None:
    records = records.copy()
    records["flow_id"] = range(1, len(records) + 1)
    found = exported(protocol, definition, owners, records, size)
    assert len(found) == len(records)
    for row, record in zip(records, found, strict=True):
        fields = definition.fields(int(row["ip_version"]))
        kept = {one.element.name: one for field in fields if (one := protocol.field(field))}
        for name, field in kept.items():
            told = UPTIMES.get(name, name)
            whole = field if told == name else Field(ELEMENTS[told], 8)
            assert_says(record, whole, VALUES[told](row, owners))
        assert record.keys() == kept.keys() | {
            UPTIMES[name] for name in kept.keys() & UPTIMES.keys()
        }


# -- the properties -------------------------------------------------------------------------------

FULL = load_template("full", ELEMENTS)


@protocols
@bounded
@given(data=st.data())
def test_any_record_of_any_owner(protocol: Protocol, data: st.DataObject) -> None:
    table = OwnerTable()
    count = data.draw(st.integers(0, 3))
    for owner in data.draw(st.lists(owners_with(texts), min_size=count, max_size=count)):
        table.add(owner)
    records = data.draw(rows(count))
    assert_round_trip(protocol, definition_of(FULL.names()), table, records, 9000)


def definition_of(names: set[str]) -> TemplateDefinition:
    """Returns the full Template's fields with these names and an expected value."""
    known = [pair for pair in FULL.positions if pair[0].element.name in names & VALUES.keys()]
    assert len(known) > 45
    return TemplateDefinition("given", tuple(known))


@st.composite
def definitions(draw: st.DrawFn) -> TemplateDefinition:
    """Draws any elements in any order, numbers of any size and strings of any kind of length."""
    choices = sorted(VALUES.keys() - FAMILIES.keys() - set(FAMILIES.values()) - {"flowId"})
    names = draw(st.lists(st.sampled_from(choices), unique=True, max_size=12))
    names += draw(st.lists(st.sampled_from(sorted(FAMILIES)), unique=True))
    positions = []
    for name in draw(st.permutations([*names, "flowId"])):
        first = ELEMENTS[name]
        second = ELEMENTS[FAMILIES.get(name, name)]
        length = draw(st.sampled_from(_lengths(name)))
        positions.append((Field(first, length or first.type.length),
                          Field(second, length or second.type.length)))  # fmt: skip
    return TemplateDefinition("given", tuple(positions))


def _lengths(name: str) -> list[int]:
    """Returns the possible lengths; 0 means the element's own."""
    kind = ELEMENTS[name].type
    if kind.name == "string":
        return [VARIABLE, VARIABLE, 1, 7, 64]
    if name == "flowId" or not kind.is_integer:
        return [0]
    return [length for length in (1, 2, 4, 8) if length <= kind.length]


@protocols
@bounded
@given(definition=definitions(), data=st.data())
def test_any_template(
    protocol: Protocol, definition: TemplateDefinition, data: st.DataObject
) -> None:
    table = OwnerTable()
    for owner in data.draw(st.lists(owners_with(texts), min_size=2, max_size=2)):
        table.add(owner)
    records = data.draw(rows(2, most=3))
    assert_round_trip(protocol, definition, table, records, 4000)


@protocols
@bounded
@given(
    name=st.sampled_from(["full", "numeric"]),
    size=st.integers(1200, 9000),
    batches=st.lists(st.integers(0, 150), min_size=1, max_size=6),
    sizes=st.lists(st.integers(1200, 9000), max_size=6),
)
def test_any_split_into_messages(
    protocol: Protocol, name: str, size: int, batches: list[int], sizes: list[int]
) -> None:
    """A foreign reader checks sequence, size and Set rules. Nothing is lost or sent twice."""
    session = protocol.session(load_template(name, ELEMENTS), owner_table(), size)
    known, process = Known(), collecting_process()
    following, flow_id, seen = 0, 0, []
    for number, batch in enumerate(batches):
        records = flow_records(batch, ip_version=4 + 2 * (number % 2))
        records["flow_id"] += flow_id
        flow_id += batch
        if number < len(sizes):
            session.max_message = size = sizes[number]
        for octets in messages_of(session.messages(records, NOW_S + number)):
            assert len(octets) <= size
            read = known.read(octets)
            data_records = read.record_count(False) + read.record_count(True)
            assert (read.broken, read.domain) == (None, 7)
            assert (read.sets, read.unknown_sets) == (1, 0)
            assert read.sequence == following
            assert read.count in (None, data_records + read.template_count)
            assert len(octets) % (4 if protocol.is_netflow9 else 1) == 0
            following += 1 if protocol.is_netflow9 else data_records
            seen += [record["flowId"] for record in process.decode(octets, "peer")]
    assert sorted(map(int, seen)) == list(range(1, flow_id + 1))
    assert process.statistics.errors == 0
    assert not process.statistics.oddities
    assert process.statistics.lost_records == process.statistics.lost_messages == 0
