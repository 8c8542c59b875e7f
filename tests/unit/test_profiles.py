"""Tests every profile, both protocols and Biflows: our decoder reads what is encoded."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from probe.errors import ConfigError
from probe.flow.biflow import pair_directions
from probe.flow.owner import Node, Owner, OwnerTable, Pod, Process
from probe.flow.rows import Rows
from probe.ipfix.decode import CollectingProcess, Record
from probe.ipfix.session import ExportSession
from probe.ipfix.template import Field, Template, TemplateDefinition, parse_template
from probe.mapping import (
    Encoder,
    Privacy,
    for_biflow,
    for_netflow9,
    load_elements,
    load_netflow9,
    load_options,
    load_profile,
    load_profiles,
    load_template,
)
from probe.mapping.profiles import parse_profiles
from probe.mapping.tables import COLUMNS, REVERSES
from tests.support.records import NOW_NS, NOW_S, flow_records, owner_table

ELEMENTS = load_elements()
NETFLOW9 = load_netflow9(ELEMENTS)
PROFILES = load_profiles()
STANDARD = ("iana", "nfdump", "akvorado")
#: These are useless when they are cut. A full record must fit into a message of 1200 octets.
TOO_LONG = {
    f"{side}{what}"
    for side in ("source", "destination")
    for what in ("OuterContainerId", "PodLabels", "WorkloadKind", "WorkloadName")
}
POD = "2c48913c-b29f-11e7-9350-020968147796"


def definition(profile: str) -> TemplateDefinition:
    return load_template(load_profile(profile).template, ELEMENTS)


def decoded(
    template: TemplateDefinition, records: Rows, owners: OwnerTable | None = None
) -> list[Record]:
    collector = CollectingProcess(ELEMENTS)
    session = ExportSession(Encoder(template, owners or owner_table()))
    found = [
        record
        for train in session.messages(records, NOW_S)
        for message in train
        for record in collector.decode(bytes(message), 0)
    ]
    assert collector.statistics.errors == collector.statistics.lost_records == 0
    return found


def test_there_are_the_profiles_that_were_asked_for() -> None:
    assert set(PROFILES) == {
        "full", "kubernetes", "everything", "numeric", "iana", "nfdump", "pmacct", "goflow2",
        "akvorado", "nprobe", "antrea",
    }  # fmt: skip
    assert next(iter(PROFILES)) == "full"
    assert all(profile.note for profile in PROFILES.values())


def test_an_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no profile 'nfdumb': use one of full, .*nfdump"):
        load_profile("nfdumb")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a a types", "given:1: expected: name, template, options, note"),
        ("\na a - x\na b - y", "given:3: profile a is there twice"),
    ],
)
def test_broken_profiles(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_profiles(text, "given")


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_options_are_there_and_types_where_an_enterprise_is(profile: object) -> None:
    """Antrea's profile has no options.

    Its reader go-ipfix ends a connection with any Options Template.
    """
    found = PROFILES[profile.name]  # type: ignore[attr-defined]
    options = load_options(ELEMENTS)
    assert set(found.options) <= set(options)
    fields = [field for name in found.options for field in options[name].fields]
    pens = {ELEMENTS[name].pen for name in definition(found.name).names()}
    pens |= {field.element.pen for field in fields}
    if found.name == "antrea":
        assert not found.options
    else:
        assert ("types" in found.options) == (pens != {0})


@pytest.mark.parametrize("name", STANDARD)
@pytest.mark.parametrize("biflow", [False, True])
def test_standard_profiles_have_numbers_of_registries_only(name: str, biflow: bool) -> None:
    """They have no strings, so every record has one length. Their only enterprise is RFC 5103's."""
    found = definition(name)
    if biflow:
        found = for_biflow(found, ELEMENTS)
    fields = [field for pair in found.positions for field in pair]
    assert {field.element.pen for field in fields} == ({0, 29305} if biflow else {0})
    assert not any(field.is_variable for field in fields)
    assert "string" not in {field.element.type.name for field in fields}


def made(profile: str, protocol: str, privacy: Privacy) -> list[Template]:
    found = definition(profile)
    if protocol == "netflow9":
        found, _ = for_netflow9(found, NETFLOW9)
    elif protocol == "biflow":
        found = for_biflow(found, ELEMENTS)
    return list(Encoder(found, owner_table(), privacy).templates)


@pytest.mark.parametrize("protocol", ["ipfix", "netflow9", "biflow"])
@pytest.mark.parametrize("privacy", list(itertools.product([True, False], repeat=4)))
@pytest.mark.parametrize("profile", ["full", "kubernetes"])
def test_wireshark_takes_every_template_of_the_defaults(
    profile: str, privacy: tuple[bool, bool, bool, bool], protocol: str
) -> None:
    """Wireshark's limit is 60 fields. IPv4, IPv6 and translated flows have their own Templates."""
    templates = made(profile, protocol, Privacy(*privacy))
    assert len(templates) == 3
    for template in templates:
        assert len(template.fields) <= 60
        names = {field.element.name for field in template.fields}
        pairs = {name for name in names if name.startswith(("source", "SRC_"))}
        others = {other_side(name) for name in pairs}
        assert others <= names, "an element of one side without that of the other"
        assert "SRC_PROC_NAME" in names or not privacy[2]
        assert "SRC_PROC_CMDLINE" in names or not privacy[3]
        assert profile == "full" or "sourcePodName" in names


def other_side(name: str) -> str:
    return name.replace("source", "destination", 1).replace("SRC_", "DST_", 1)


def test_nothing_is_left_out_without_need() -> None:
    found = definition("full")
    plain, _, translated = made("full", "ipfix", Privacy())
    assert len(plain.fields) == 56
    assert len(translated.fields) == 60
    assert {field.element.name for field in translated.fields} == {
        name for name in found.names() if not name.endswith(("IPv6Address", "_CMDLINE"))
    }


def test_everything_has_no_limit() -> None:
    assert definition("everything").names() == definition("kubernetes").names()
    (template, *_) = made("everything", "biflow", Privacy(command_lines=True))
    assert {field.element.name for field in template.fields} >= {
        name for name in definition("kubernetes").names()
        if not name.startswith("post") and "IPv6" not in name
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("limit sixty flowId", "expected: limit, the most fields"),
        ("limit 0 flowId", "expected: limit"),
        ("limit 60 nope", "nope is not in the list"),
    ],
)
def test_a_bad_limit_is_refused(line: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"^given:2: .*{reason}"):
        parse_template(f"octetDeltaCount\n{line}\n", "given", ELEMENTS)


@pytest.mark.parametrize("name", PROFILES)
def test_what_every_collector_handled(name: str) -> None:
    """tcpControlBits has 1 octet and counters have 8, which all collectors can read."""
    lengths = {
        field.element.name: field.length for pair in definition(name).positions for field in pair
    }
    assert lengths.get("tcpControlBits", 1) == 1
    assert lengths["octetDeltaCount"] == lengths["packetDeltaCount"] == 8


def test_antrea_has_only_what_its_collector_knows_in_full_length() -> None:
    """go-ipfix refuses a Template with another element, and ignores the lengths in it."""
    for pair in definition("antrea").positions:
        for field in pair:
            assert field.element.pen in (0, 56506)
            length = 16 if field.element.name.endswith("PodUUID") else field.element.type.length
            assert field.length == length


def test_nprobe_has_elements_of_iana_and_ntop_only() -> None:
    assert {ELEMENTS[name].pen for name in definition("nprobe").names()} == {0, 35632}


def test_akvorado_gets_interfaces_and_a_sampling_rate() -> None:
    """Akvorado drops flows without either."""
    (record,) = decoded(definition("akvorado"), flow_records(1))
    assert (record["egressInterface"], record["samplingInterval"]) == (2, 1)


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("ip_version", [4, 6])
def test_profiles_tell_the_same_of_a_flow(name: str, ip_version: int) -> None:
    records = flow_records(50, ip_version=ip_version)
    found = decoded(definition(name), records)
    assert sorted(int(record["octetDeltaCount"]) for record in found) == list(range(1000, 1050))
    address = "10.0.0.7" if ip_version == 4 else "a00:7::1"
    (record,) = [one for one in found if one["sourceTransportPort"] == 1031]
    assert record[f"sourceIPv{ip_version}Address"] == address
    start_ms = NOW_NS // 1_000_000 - 4993
    if name == "antrea":
        assert record["flowStartSeconds"] == start_ms // 1000
    else:
        assert record["flowStartMilliseconds"] == start_ms
    assert int(record.get("biflowDirection", 2)) == 2


@pytest.mark.parametrize("name", [name for name in PROFILES if name != "antrea"])
def test_translated_flows_tell_their_key_beyond_the_nat(name: str) -> None:
    records = flow_records(2)
    records["translated"] = (0, 1)
    records["nat_source_address"][1] = (198, 51, 100, 7)
    records["nat_source_port"][1] = 61000
    plain, translated = sorted(
        decoded(definition(name), records), key=lambda one: one["sourceTransportPort"]
    )
    assert "postNATSourceIPv4Address" not in plain
    assert translated["postNATSourceIPv4Address"] == "198.51.100.7"
    assert translated["postNAPTSourceTransportPort"] == 61000


def test_no_flow_is_left_behind_for_want_of_a_template() -> None:
    records = flow_records(3, ip_version=6)
    records["translated"] = 1
    assert len(decoded(definition("full"), records)) == 3


def test_pods_and_nodes() -> None:
    table = OwnerTable()
    table.add(Owner(pod=Pod("web-1", "shop", POD), node=Node("worker-3")))
    records = flow_records(1, owners=1)
    records["destination_owner"] = 0
    (record,) = decoded(definition("antrea"), records, table)
    assert record["sourcePodUUID"] == POD.replace("-", "")
    assert record["destinationPodUUID"] == "0" * 32
    assert (record["sourcePodName"], record["sourcePodNamespace"]) == ("web-1", "shop")
    assert (record["sourceNodeName"], record["destinationNodeName"]) == ("worker-3", "")


def test_a_uuid_that_ends_in_zeros() -> None:
    table = OwnerTable()
    table.add(Owner(pod=Pod(uid="2c48913cb29f11e79350000000000000")))
    (record,) = decoded(definition("antrea"), flow_records(1, owners=1), table)
    assert record["sourcePodUUID"] == "2c48913cb29f11e79350000000000000"


def test_an_uid_that_is_no_uuid() -> None:
    """Records leave even if an API gives a UID that is no UUID."""
    table = OwnerTable()
    table.add(Owner(pod=Pod("web-1", uid="not-a-uuid")))
    (record,) = decoded(definition("antrea"), flow_records(1, owners=1), table)
    assert (record["sourcePodName"], record["sourcePodUUID"]) == ("web-1", "0" * 32)


# -- NetFlow v9 -----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", PROFILES)
def test_netflow9_has_a_field_type_for_all_of_it(name: str) -> None:
    found, left_out = for_netflow9(definition(name), NETFLOW9)
    assert set(left_out) <= TOO_LONG
    fields = {field for pair in found.positions for field in pair}
    assert {field.element.pen for field in fields} == {0}
    assert not any(field.is_variable for field in fields)
    numbers = [field.element.id for field in fields]
    assert len(set(numbers)) == len(numbers)
    assert "flowStartSysUpTime" in {field.element.name for field in fields}


def test_no_field_type_looks_like_an_ipfix_enterprise_field() -> None:
    """A decoder of both protocols may take a type from 32768 to 57000 for one.

    Nobody uses these numbers.
    """
    sent = [NETFLOW9.field(Field(element, element.type.length)) for element in ELEMENTS]
    numbers = [field.element.id for field in sent if field]
    assert all(number < 32768 or number >= 57472 for number in numbers)
    assert max(numbers) > 60000


def test_netflow9_leaves_out_what_has_no_field_type() -> None:
    text = "octetDeltaCount\nreverseOctetDeltaCount\nuserName"
    found, left_out = for_netflow9(parse_template(text, "given", ELEMENTS), NETFLOW9)
    assert found.names() == {"octetDeltaCount"}
    assert left_out == ["reverseOctetDeltaCount", "userName"]


# -- Biflows --------------------------------------------------------------------------------------
def test_reverses_have_their_forward_elements_number() -> None:
    """RFC 5103 section 6.1 requires it for the elements of IANA."""
    for forward, reverse in REVERSES.items():
        element, other = ELEMENTS[forward], ELEMENTS[reverse]
        assert (element.type, element.semantics, element.units) == (
            (other.type, other.semantics, other.units)
        )  # fmt: skip
        if element.pen == 0:
            assert (other.pen, other.id) == (29305, element.id)
        assert reverse in COLUMNS


@pytest.mark.parametrize("name", PROFILES)
def test_a_biflow_of_any_profile(name: str) -> None:
    records = flow_records(4)
    records["flow_id"] = (1, 1, 2, 3)
    records["biflow_direction"] = (1, 2, 1, 2)
    records["tcp_flags"] = (1, 2, 4, 8)
    found = decoded(for_biflow(definition(name), ELEMENTS), pair_directions(records))
    by_port = {record["sourceTransportPort"]: record for record in found}
    whole, forward, answer = (by_port[port] for port in (1024, 1026, 443))
    assert (whole["octetDeltaCount"], whole["reverseOctetDeltaCount"]) == (1000, 1001)
    assert (whole["packetDeltaCount"], whole["reversePacketDeltaCount"]) == (1, 2)
    assert (forward["octetDeltaCount"], forward["reverseOctetDeltaCount"]) == (1002, 0)
    assert (answer["octetDeltaCount"], answer["reverseOctetDeltaCount"]) == (0, 1003)
    assert {record["biflowDirection"] for record in found} == {1}
    if "tcpControlBits" in whole:
        assert (whole["tcpControlBits"], whole["reverseTcpControlBits"]) == (1, 2)
    unit = "Seconds" if name == "antrea" else "Milliseconds"
    for time in ("Start", "End"):
        assert forward[f"reverseFlow{time}{unit}"] == forward[f"flow{time}{unit}"]
        assert answer[f"flow{time}{unit}"] == answer[f"reverseFlow{time}{unit}"]


def test_retransmissions_and_losses_of_both_directions() -> None:
    records = flow_records(2)
    records["flow_id"], records["biflow_direction"] = 1, (1, 2)
    records["retransmitted"], records["lost"] = (5, 6), (7, 8)
    (record,) = decoded(for_biflow(definition("full"), ELEMENTS), pair_directions(records))
    assert (record["RETRANSMITTED_IN_PKTS"], record["RETRANSMITTED_OUT_PKTS"]) == (5, 6)
    assert record["tcpLostSegmentDeltaCount"] == 7
    assert record["reverseTcpLostSegmentDeltaCount"] == 8


def test_the_direction_is_added_and_the_forward_element_is_last() -> None:
    """If nfcapd takes two elements for the same, the last one wins."""
    given = parse_template("flowId\noctetDeltaCount[4]\ntcpControlBits[1]", "given", ELEMENTS)
    found = for_biflow(given, ELEMENTS)
    assert [(four.element.name, four.length) for four, _ in found.positions] == [
        ("flowId", 8),
        ("biflowDirection", 1),
        ("reverseOctetDeltaCount", 4),
        ("octetDeltaCount", 4),
        ("reverseTcpControlBits", 1),
        ("tcpControlBits", 1),
    ]


def test_a_loss_is_told_with_the_traffic_of_both_directions() -> None:
    records = flow_records(2)
    records["flow_id"], records["biflow_direction"] = 1, (1, 2)
    biflows = pair_directions(records)
    for name, expected in (("nfdump", (3, 2001)), ("full", (3, 2001))):
        encoder = Encoder(for_biflow(definition(name), ELEMENTS), owner_table())
        session = ExportSession(encoder)
        trains = session.messages(biflows, NOW_S)
        sums = [(train.packets, train.flow_octets) for train in trains]
        assert tuple(np.sum(sums, axis=0).tolist()) == expected


#: In no profile, only for users' own Templates. The full Template has the most that v9 can carry.
_ON_REQUEST: Record = {
    "tcpUnacknowledgedSegments": 11, "tcpCongestionWindowSegments": 12, "tcpPacingRate": 1 << 33,
    "tcpDeliveryRate": 1 << 34, "SRC_PROC_ACTUAL_MEMORY": 2048, "SRC_PROC_PEAK_MEMORY": 4096,
    "DST_PROC_ACTUAL_MEMORY": 0, "DST_PROC_PEAK_MEMORY": 0, "SRC_FATHER_PROC_UID": 33,
    "SRC_FATHER_PROC_USER_NAME": "www-data", "DST_FATHER_PROC_UID": 0xFFFFFFFF,
    "DST_FATHER_PROC_USER_NAME": "", "sourceGroupName": "wheel", "destinationGroupName": "",
}  # fmt: skip
_GAUGES = ("unacknowledged", "congestion_window", "pacing_rate", "delivery_rate")


def _on_request() -> tuple[TemplateDefinition, Rows, OwnerTable]:
    owners = OwnerTable()
    owners.add(
        Owner(
            Process(vm_size=2048, vm_peak=4096, group_name="wheel"),
            parent=Process(uid=33, user_name="www-data"),
        )
    )
    records = flow_records(1, owners=0)
    records["source_owner"], records["biflow_direction"] = 1, 1
    for name, value in zip(_GAUGES, _ON_REQUEST.values(), strict=False):
        records[name] = value
    return parse_template("\n".join(_ON_REQUEST), "given", ELEMENTS), records, owners


def test_elements_of_no_profile() -> None:
    template, records, owners = _on_request()
    assert decoded(template, records, owners) == [_ON_REQUEST]
    changed, left_out = for_netflow9(template, NETFLOW9)
    assert not left_out
    assert [pair[0].element.id for pair in changed.positions][:5] == [
        60046, 60047, 60048, 60049, 57855
    ]  # fmt: skip


def test_gauges_of_both_directions_in_a_biflow() -> None:
    _, records, owners = _on_request()
    answer = records.copy()
    answer["biflow_direction"], answer["source_owner"] = 2, 0
    for name in _GAUGES:
        answer[name] += 100
    pair = pair_directions(np.concatenate([records, answer]))
    text = "octetDeltaCount\n" + "\n".join(list(_ON_REQUEST)[:4])
    both = for_biflow(parse_template(text, "given", ELEMENTS), ELEMENTS)
    (record,) = decoded(both, pair, owners)
    for name in list(_ON_REQUEST)[:4]:
        value = _ON_REQUEST[name]
        assert isinstance(value, int)
        reverse = f"reverse{name[0].upper()}{name[1:]}"
        assert (record[name], record[reverse]) == (value, value + 100)
