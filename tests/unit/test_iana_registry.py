"""Tests IANA's registry as shipped: another's list agrees, and collected records use it."""

from __future__ import annotations

import re
import struct
from importlib import resources

import pytest

from probe.collector.message_source import collecting_process
from probe.errors import ConfigError
from probe.ipfix.elements import parse_registry
from probe.mapping import load_elements, load_registry
from tests.support.ipfix.messages import message, packet, template

REGISTRY = load_registry()


def test_our_own_list_agrees() -> None:
    for element in load_elements():
        if not element.pen:
            known = REGISTRY[element.id]
            assert (known.name, known.type) == (element.name, element.type)


def test_the_list_of_python_ipfix_agrees() -> None:
    text = (resources.files("ipfix") / "iana.iespec").read_text()
    listed = re.findall(r"(\w+)\((\d+)\)<(\w+)>", text)
    assert len(listed) > 390
    differing = [
        (int(number), name) for name, number, kind in listed
        if (REGISTRY[int(number)].name, REGISTRY[int(number)].type.name) != (name, kind)
    ]  # fmt: skip
    assert differing == [(278, "connectionCountNew")], "IANA renamed it since"


@pytest.mark.parametrize("is_netflow9", [False, True])
def test_records_have_ianas_names(is_netflow9: bool) -> None:
    fields = [(89, 1), (34, 4), (48, 2), (70, 3), (102, 2), (90, 8), (225, 4), (491, 2)]
    octets = struct.pack("!BIH3sH8sIH", 64, 100, 7, b"\0\1\2", 3, bytes(8), 1, 2)
    make, kind = (packet, 0) if is_netflow9 else (message, 2)
    (record,) = collecting_process(32473).decode(
        make((kind, template(256, *fields)), (256, octets)), "peer"
    )
    assert not [name for name in record if "/" in name]
    assert (record["forwardingStatus"], record["samplingInterval"], record["samplerId"]) == (
        64, 100, 7,
    )  # fmt: skip
    assert record["mplsTopLabelStackSection"] == "000102"
    assert record["postNATSourceIPv4Address"] == "0.0.0.1"


def test_reverse_elements_too() -> None:
    sent = message((2, template(256, (89, 1, 29305))), (256, b"\x40"))
    (record,) = collecting_process(32473).decode(sent, "peer")
    assert record == {"reverseForwardingStatus": 64}


def test_a_line_that_cannot_be_read() -> None:
    with pytest.raises(ConfigError, match=r"list:2: cannot read '2 x'"):
        parse_registry("1 octetDeltaCount unsigned64\n2 x\n", "list")
