"""Tests ``?strings=plain``, for a collector that writes names into JSON unchanged (goflow2)."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from probe.config import RunConfig
from probe.errors import ConfigError
from probe.export.sink_factory import SinkFactory
from probe.flow.owner import Container, Owner, OwnerTable, Process
from probe.interfaces.names import InterfaceList
from probe.ipfix.decode import CollectingProcess, Record
from probe.ipfix.options import encode_options
from probe.ipfix.text import PLAIN, encode_plain
from probe.mapping import load_elements, load_netflow9, load_options, load_profiles
from probe.run.destinations import open_sink, parse_destination
from tests.support.records import NOW_S, Metering, flow_records

NAME = 'a"b\\c\n'
PROTOCOLS = ("ipfix", "netflow9")


@pytest.fixture
def sink() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(60)
        yield receiver


def names(sink: socket.socket, protocol: str, query: str, profile: str = "") -> list[str]:
    """Returns all strings of the first records and options that a destination gets."""
    owners = OwnerTable()
    owners.add(Owner(Process(1, NAME, user_name=NAME), container=Container(name=NAME)))
    config = RunConfig(profile=profile, kubernetes=True, kubernetes_node=NAME)
    factory = SinkFactory(config, owners, Metering(), InterfaceList(), boot_s=NOW_S - 100)
    port = sink.getsockname()[1]
    url = f"{protocol}://127.0.0.1:{port}?{query}&pace=0"
    stream = open_sink(parse_destination(url), factory)
    try:
        stream.send(flow_records(1, owners=1), NOW_S)
        stream.pump(1024.0)
        count = stream.statistics.sent_messages
    finally:
        stream.close()
    elements = load_elements()
    collector = CollectingProcess(elements, load_netflow9(elements))
    records: list[Record] = []
    for _ in range(count):
        decoded = collector.decode_message(sink.recv(65535), 0)
        records += decoded.flows + decoded.options
    assert any("octetDeltaCount" in one for one in records)
    assert any("observationDomainName" in one for one in records), "options"
    return [value for one in records for value in one.values() if isinstance(value, str)]


def as_goflow2_writes(text: str) -> str:
    """Returns ``text`` between quotation marks, without escapes."""
    return f'"{text}"'


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("query", ["profile=goflow2", "profile=full&strings=plain"])
def test_no_name_breaks_json_that_is_not_escaped(
    sink: socket.socket, protocol: str, query: str
) -> None:
    found = names(sink, protocol, query)
    assert found
    for name in found:
        assert json.loads(as_goflow2_writes(name)) == name
    assert sum(name.startswith("a'b_c\N{REPLACEMENT CHARACTER}") for name in found) >= 3


def test_the_profile_of_the_configuration_counts_too(sink: socket.socket) -> None:
    assert not any('"' in name for name in names(sink, "ipfix", "", profile="goflow2"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("query", ["profile=full", "profile=goflow2&strings=full"])
def test_other_destinations_get_names_as_they_are(
    sink: socket.socket, protocol: str, query: str
) -> None:
    assert 'a"b\\c\N{REPLACEMENT CHARACTER}' in names(sink, protocol, query)


def test_fields_of_fixed_length_have_no_nul() -> None:
    """Strings of v9 and of options end in spaces, because a NUL in JSON is an error as well."""
    assert PLAIN.fill('"é', 4) == "'é ".encode()
    assert PLAIN.fill("é" * 3, 5) == "éé ".encode()
    template = load_options(load_elements())["losses"].template(300)
    octets = encode_options(template, [{"lossCause": 'r"g'}], PLAIN)
    assert octets.octets.tobytes() == bytes(4) + b"r'g" + b" " * 29 + bytes(8)  # type: ignore[union-attr]


def test_what_json_would_have_to_escape_is_replaced() -> None:
    everything = "".join(map(chr, range(0x100)))
    plain = encode_plain(everything).decode()
    assert json.loads(as_goflow2_writes(plain)) == plain
    assert len(plain) == len(everything)


def test_a_setting_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match="strings must be plain or full"):
        parse_destination("ipfix://h?strings=none")
    with pytest.raises(ConfigError, match="unknown option strings"):
        parse_destination("json:-?strings=plain")


def test_only_the_profile_for_goflow2_is_plain() -> None:
    plain = [name for name, profile in load_profiles().items() if profile.has_plain_strings]
    assert plain == ["goflow2"]
