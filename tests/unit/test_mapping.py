"""Tests every element's value for both sides, both IP versions and any place in a Template."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from probe.errors import ConfigError
from probe.flow.owner import Container, Node, Owner, OwnerTable, Pod, Process
from probe.flow.rows import Rows
from probe.ipfix.decode import CollectingProcess, Record
from probe.ipfix.session import ExportSession
from probe.ipfix.template import TemplateDefinition, parse_template
from probe.mapping import Encoder, Privacy, load_elements, load_template
from tests.support.records import NOW_NS, NOW_S, flow_records, owner, owner_table

ELEMENTS = load_elements()


def encoder_of(text: str, owners: OwnerTable | None = None, **privacy: bool) -> Encoder:
    """Returns an Encoder for a Template's name or, with blanks or lines, its text."""
    shipped = text in ("full", "kubernetes", "kubernetes*", "numeric")
    definition = load_template(text, ELEMENTS) if shipped else _definition(text)
    return Encoder(definition, owners or owner_table(), Privacy(**privacy))


def _definition(text: str) -> TemplateDefinition:
    return parse_template("\n".join(text.split(" ")), "given", ELEMENTS)


def decoded(encoder: Encoder, records: Rows, max_message: int = 1400) -> list[Record]:
    """Returns the records as a Collecting Process decodes them.

    They are sorted by flowId if they have one.
    """
    collector = CollectingProcess(ELEMENTS)
    trains = ExportSession(encoder, max_message=max_message).messages(records, NOW_S)
    result = [
        record for train in trains for one in train for record in collector.decode(bytes(one), 0)
    ]
    assert collector.statistics.errors == collector.statistics.lost_records == 0
    return sorted(result, key=lambda record: record.get("flowId", 0))


def test_all_that_is_told_of_a_container() -> None:
    """Each value is on its own side, in the Template that names Pods."""
    outer, pod = "ab" * 32, "2c48913c-b29f-11e7-9350-020968147796"
    owners = OwnerTable()
    owners.add(
        Owner(
            Process(7),
            container=Container("cd" * 32, outer_id=outer, name="nginx", image="nginx:1"),
            pod=Pod("web-1", "shop", pod, "Deployment/web", labels=(("app", "web"), ("tier", "ü"))),
            node=Node("node-3"),
        )
    )
    records = flow_records(2, owners=0)
    records["source_owner"], records["destination_owner"] = [1, 0], [0, 1]
    there = {
        "OuterContainerId": outer, "ContainerName": "nginx", "ContainerImage": "nginx:1",
        "PodNamespace": "shop", "PodName": "web-1", "PodLabels": '{"app":"web","tier":"ü"}',
        "Workload": "Deployment/web", "NodeName": "node-3", "SystemdUnit": "",
    }  # fmt: skip
    encoder = encoder_of("kubernetes", owners)
    for record, (side, other) in zip(
        decoded(encoder, records),
        [("source", "destination"), ("destination", "source")],
        strict=True,
    ):
        assert {name: record[f"{side}{name}"] for name in there} == there
        assert {record[f"{other}{name}"] for name in there} == {""}


def test_the_default_template_is_for_wireshark_as_it_is() -> None:
    """Wireshark ignores Templates with more than 60 fields."""
    templates = {
        name: [{field.element.name for field in one.fields} for one in encoder_of(name).templates]
        for name in ("full", "kubernetes*")
    }
    for fields, more in zip(*templates.values(), strict=True):
        assert fields < more
        assert len(fields) <= 60


def test_a_record_of_the_longest_template() -> None:
    records = flow_records(4)
    records["destination_owner"] = [2, 3, 4, 0]
    record = decoded(encoder_of("kubernetes*"), records)[1]
    assert record == {
        "sourceIPv4Address": "10.0.0.1",
        "destinationIPv4Address": "192.0.0.1",
        "sourceTransportPort": 1025,
        "destinationTransportPort": 443,
        "protocolIdentifier": 6,
        "ipVersion": 4,
        "flowDirection": 1,
        "biflowDirection": 2,
        "tcpControlBits": 0x1B,
        "flowEndReason": 2,
        "ipDiffServCodePoint": 46,
        "countersEstimated": True,
        "octetDeltaCount": 1001,
        "packetDeltaCount": 2,
        "flowStartMilliseconds": NOW_NS // 1_000_000 - 4999,
        "flowEndMilliseconds": NOW_NS // 1_000_000 - 3499,
        "flowId": 2,
        "ingressInterface": 0,
        "egressInterface": 2,
        "SRC_PROC_PID": 1002,
        "DST_PROC_PID": 1003,
        "SRC_FATHER_PROC_PID": 2,
        "DST_FATHER_PROC_PID": 3,
        "SRC_PROC_UID": 2,
        "DST_PROC_UID": 3,
        "sourceGroupId": 102,
        "destinationGroupId": 103,
        "sourceProcessPathOrigin": 1,
        "destinationProcessPathOrigin": 1,
        "sourceOwnerOrigin": 1,
        "destinationOwnerOrigin": 2,
        "sourceNetworkNamespaceInode": 4026531840,
        "destinationNetworkNamespaceInode": 4026532000,
        "sourceNetworkNamespaceCookie": 1,
        "destinationNetworkNamespaceCookie": 2,
        "tcpSmoothedRttMicroseconds": 251,
        "tcpRttVarianceMicroseconds": 25,
        "RETRANSMITTED_IN_PKTS": 1,
        "tcpLostSegmentDeltaCount": 1,
        "tcpState": "SYN_SENT",
        "SRC_PROC_NAME": "worker-2",
        "SRC_PROC_USER_NAME": "user-2",
        "SRC_PROC_CONTAINER_ID": "000000000002",
        "sourceOuterContainerId": "",
        "sourceContainerName": "web-2",
        "sourceContainerImage": "nginx:2",
        "sourcePodNamespace": "",
        "sourcePodName": "",
        "sourcePodLabels": "",
        "sourceServicePortName": "",
        "sourceWorkload": "",
        "sourceWorkloadKind": "",
        "sourceWorkloadName": "",
        "sourceNodeName": "",
        "sourceNodeZone": "",
        "sourceClusterName": "",
        "sourceSystemdUnit": "worker@2.service",
        "SRC_FATHER_PROC_NAME": "init",
        "sourceProcessPath": "/usr/bin/worker-2",
        "sourceParentProcessPath": "/sbin/init",
        "DST_PROC_NAME": "worker-3",
        "DST_PROC_USER_NAME": "user-3",
        "DST_PROC_CONTAINER_ID": "000000000003",
        "destinationOuterContainerId": "",
        "destinationContainerName": "web-3",
        "destinationContainerImage": "nginx:3",
        "destinationPodNamespace": "",
        "destinationPodName": "",
        "destinationPodLabels": "",
        "destinationServicePortName": "",
        "destinationWorkload": "",
        "destinationWorkloadKind": "",
        "destinationWorkloadName": "",
        "destinationNodeName": "",
        "destinationNodeZone": "",
        "destinationClusterName": "",
        "destinationSystemdUnit": "worker@3.service",
        "DST_FATHER_PROC_NAME": "init",
        "destinationProcessPath": "/usr/bin/worker-3",
        "destinationParentProcessPath": "/sbin/init",
    }


@pytest.mark.parametrize("count", [1, 2, 1023, 1024, 1025, 3000])
def test_every_record_arrives_once(count: int) -> None:
    for name in ("full", "numeric"):
        result = decoded(encoder_of(name), flow_records(count))
        assert [record["flowId"] for record in result] == list(range(1, count + 1))
        assert [record["octetDeltaCount"] for record in result] == list(range(1000, 1000 + count))


def test_ip_versions_may_be_mixed() -> None:
    records = np.concatenate([flow_records(3), flow_records(3, ip_version=6)])
    records["flow_id"] = range(1, 7)
    result = decoded(encoder_of("full"), records.take([0, 3, 1, 4, 2, 5]))
    assert [record["ipVersion"] for record in result] == [4, 4, 4, 6, 6, 6]
    assert result[1]["sourceIPv4Address"] == "10.0.0.1"
    assert result[5]["sourceIPv6Address"] == "a00:2::1"
    assert "sourceIPv4Address" not in result[5]


def test_an_unknown_owner_is_told_from_root() -> None:
    table = OwnerTable()
    root = table.add(Owner(Process(1, uid=0, gid=0)))
    records = flow_records(1, owners=0)
    records["source_owner"] = root
    (record,) = decoded(encoder_of("full", table), records)
    assert (record["SRC_PROC_UID"], record["sourceGroupId"]) == (0, 0)
    assert (record["DST_PROC_UID"], record["destinationGroupId"]) == (0xFFFFFFFF, 0xFFFFFFFF)
    assert (record["DST_PROC_PID"], record["DST_PROC_NAME"]) == (0, "")
    assert record["destinationProcessPathOrigin"] == 0


def test_udp_has_no_tcp_state() -> None:
    result = decoded(encoder_of("full"), flow_records(30))
    states = {(record["protocolIdentifier"], record["tcpState"]) for record in result}
    assert (17, "") in states
    assert all(state != "" for protocol, state in states if protocol == 6)


@pytest.mark.parametrize(
    "text",
    [
        "SRC_PROC_NAME flowId",
        "SRC_PROC_NAME flowId DST_PROC_NAME",
        "tcpState SRC_PROC_NAME DST_PROC_NAME SRC_PROC_USER_NAME flowId tcpControlBits",
        "DST_PROC_NAME SRC_PROC_NAME",
        "flowId SRC_PROC_NAME octetDeltaCount DST_PROC_NAME packetDeltaCount SRC_PROC_USER_NAME",
    ],
)
def test_strings_anywhere_in_a_template(text: str) -> None:
    records = flow_records(40)
    names = text.split(" ")
    everything = decoded(encoder_of("full"), records)
    expected = [{name: record[name] for name in names} for record in everything]
    result = decoded(encoder_of(text), records)
    assert [list(record) for record in result] == [names] * 40

    def rows(some: list[Record]) -> list[str]:
        return sorted(map(str, some))

    assert rows(result) == rows(expected)


def test_names_of_any_octets_are_valid_utf8() -> None:
    table = OwnerTable()
    table.add(Owner(Process(name="a\x00\x1b[31m\n", user_name="größe", path="bad\udc80")))
    records = flow_records(1, owners=1)
    (record,) = decoded(encoder_of("full", table), records)
    assert record["SRC_PROC_NAME"] == "a��[31m�"
    assert record["SRC_PROC_USER_NAME"] == "größe"
    assert record["sourceProcessPath"] == "bad?"


def test_long_strings_take_the_long_form_or_are_cut_to_fit() -> None:
    table = OwnerTable()
    long = replace(
        owner(1),
        process=replace(owner(1).process, path="/" + "é" * 250),
        parent=replace(owner(1).parent, path="/" + "p" * 253),
    )
    table.add(long)
    encoder = encoder_of("flowId sourceProcessPath sourceParentProcessPath DST_PROC_NAME", table)
    (record,) = decoded(encoder, flow_records(1, owners=1), max_message=2000)
    assert record["sourceProcessPath"] == long.process.path
    assert record["sourceParentProcessPath"] == long.parent.path
    (record,) = decoded(encoder, flow_records(1, owners=1), max_message=600)
    shortened = str(record["sourceProcessPath"])
    assert long.process.path.startswith(shortened)
    assert 32 < len(shortened) < len(long.process.path)
    assert record["DST_PROC_NAME"] == "worker-1"


def test_fixed_lengths_saturate_and_pad() -> None:
    text = (
        "flowId octetDeltaCount[2] packetDeltaCount[4] SRC_PROC_PID[1] SRC_PROC_NAME[6] tcpState[4]"
    )
    records = flow_records(1)
    records["octets"], records["packets"] = 70_000, 70_000
    records["protocol"], records["tcp_state"] = 6, 1
    (record,) = decoded(encoder_of(text), records)
    assert record["octetDeltaCount"] == 65535
    assert record["packetDeltaCount"] == 70_000
    assert record["SRC_PROC_PID"] == 255
    assert record["SRC_PROC_NAME"] == "worker"
    assert record["tcpState"] == "ESTA"


def test_other_units() -> None:
    (record,) = decoded(
        encoder_of("flowId flowStartSeconds flowEndSeconds ipClassOfService"), flow_records(1)
    )
    assert record["flowStartSeconds"] == int(NOW_S) - 5
    assert record["flowEndSeconds"] == int(NOW_S) - 4
    assert record["ipClassOfService"] == 46 << 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("flowId vlanId", "given: Sockflow has no value for vlanId"),
        ("flowId octetDeltaCount[5]", "octetDeltaCount: a number takes 1, 2, 4 or 8 octets"),
    ],
)
def test_what_cannot_be_filled_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason.replace("(", ".")):
        encoder_of(text)


@pytest.mark.parametrize(
    ("setting", "gone", "kept"),
    [
        ("users", {"SRC_PROC_USER_NAME", "DST_PROC_UID", "sourceGroupId"}, "SRC_PROC_NAME"),
        ("paths", {"sourceProcessPath", "destinationParentProcessPath"}, "DST_PROC_NAME"),
        ("names", {"SRC_PROC_NAME", "DST_FATHER_PROC_NAME"}, "DST_PROC_USER_NAME"),
    ],
)
def test_privacy_leaves_elements_out(setting: str, gone: set[str], kept: str) -> None:
    encoder = encoder_of("full", None, **{setting: False})
    (record,) = decoded(encoder, flow_records(1))
    assert not gone & set(record)
    assert kept in record


def test_command_lines_only_when_asked_for() -> None:
    text = "flowId SRC_PROC_CMDLINE"
    assert decoded(encoder_of(text), flow_records(1)) == [{"flowId": 1}]
    (record,) = decoded(encoder_of(text, command_lines=True), flow_records(1))
    assert record["SRC_PROC_CMDLINE"] == "worker --number 1"


def test_a_reused_index_gets_its_new_owner_after_forget() -> None:
    table = owner_table(2)
    encoder = encoder_of("full", table)
    records = flow_records(1, owners=1)
    assert decoded(encoder, records)[0]["SRC_PROC_NAME"] == "worker-1"
    table.release(1)
    encoder.forget([1, 999_999])
    assert table.add(owner(9)) == 1
    (record,) = decoded(encoder, records)
    assert (record["SRC_PROC_NAME"], record["DST_PROC_PID"]) == ("worker-9", 1009)


def test_owners_that_appear_later_are_encoded() -> None:
    table = owner_table(1)
    encoder = encoder_of("full", table)
    session = ExportSession(encoder)
    session.messages(flow_records(1, owners=1), NOW_S)
    for number in range(2, 2000):
        table.add(owner(number))
    records = flow_records(1999, owners=1999)
    result = decoded(encoder, records)
    assert [record["SRC_PROC_PID"] for record in result] == [1000 + n for n in range(1, 2000)]


def test_the_records_given_are_left_alone() -> None:
    records = flow_records(100)
    before = records.copy()
    decoded(encoder_of("full"), records)
    assert (records == before).all()
