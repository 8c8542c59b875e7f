from __future__ import annotations

from pathlib import Path

import pytest

from probe.errors import ConfigError
from probe.ipfix.elements import ElementTable, parse_elements
from probe.ipfix.template import Template, parse_template
from probe.ipfix.types import TYPES, VARIABLE
from probe.ipfix.wire import IPFIX
from probe.mapping import load_elements, load_template
from probe.mapping.tables import TRANSLATION

ELEMENTS = """
# comment
octetDeltaCount   0/1       unsigned64   deltaCounter octets
sourceIPv4Address 0/8       ipv4Address  -            -
sourceIPv6Address 0/27      ipv6Address  -            -
userName          0/371     string       -            -
ownThing          private/5 unsigned32   quantity     microseconds
"""


@pytest.fixture
def elements() -> ElementTable:
    return parse_elements(ELEMENTS, private_pen=4711)


def test_elements_are_found_by_name_and_number(elements: ElementTable) -> None:
    own = elements["ownThing"]
    assert (own.pen, own.id, own.type) == (4711, 5, TYPES["unsigned32"])
    assert (own.semantics, own.units) == (1, 7)
    assert elements.numbered(4711, 5) is own
    assert elements.numbered(0, 8) is elements["sourceIPv4Address"]
    assert elements.get("nonsense") is None


@pytest.mark.parametrize(
    "line",
    [
        "name 0/1 unsigned64 -",
        "name 0/x unsigned64 - -",
        "name 0/1 unsigned65 - -",
        "name 0/1 unsigned64 sum -",
        "name 0/1 unsigned64 - furlongs",
        "name 0/40000 unsigned64 - -",
        "name 1 unsigned64 - -",
        "octetDeltaCount 0/2 unsigned64 - -",
        "other 0/1 unsigned64 - -",
    ],
)
def test_a_bad_declaration_is_refused_with_its_place(line: str) -> None:
    text = "octetDeltaCount 0/1 unsigned64 deltaCounter octets\n\n" + line
    with pytest.raises(ConfigError, match=r"^some/file:3: "):
        parse_elements(text, "some/file")


def test_a_position_may_differ_between_ip_versions(elements: ElementTable) -> None:
    text = "sourceIPv4Address | sourceIPv6Address\noctetDeltaCount[4]\nuserName\nuserName4"
    with pytest.raises(ConfigError, match=r"t\.txt:4: userName4 is not in the list"):
        parse_template(text, "t.txt", elements)
    definition = parse_template(text.rpartition("\n")[0], "t.txt", elements)
    ipv4, ipv6 = Template(256, definition.fields(4)), Template(257, definition.fields(6))
    assert [f.length for f in ipv4.fields] == [4, 4, VARIABLE]
    assert ipv6.fields[0].element.name == "sourceIPv6Address"
    assert (ipv4.fixed_length, ipv6.fixed_length) == (8, 20)
    assert ipv4.has_variable_length


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no Information Element"),
        ("# nothing\n", "no Information Element"),
        ("octetDeltaCount\noctetDeltaCount", "t:2: octetDeltaCount is in this template already"),
        ("octetDeltaCount[9]", "9 octets is no length for unsigned64"),
        ("octetDeltaCount[0]", "0 octets is no length"),
        ("sourceIPv4Address[3]", "3 octets is no length"),
        ("octetDeltaCount[65535]", "65535 octets is no length"),
        ("octetDeltaCount[x]", "is not an element name"),
        ("octetDeltaCount | userName | ownThing", "more than two alternatives"),
    ],
)
def test_a_bad_template_is_refused(elements: ElementTable, text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_template(text, "t", elements)
    assert reason in str(caught.value)


def test_template_record_on_the_wire(elements: ElementTable) -> None:
    """RFC 7011 sections 3.2 and 3.4.1: an enterprise element has the enterprise bit and number."""
    definition = parse_template("octetDeltaCount\nownThing\nuserName", "t", elements)
    assert IPFIX.encode(Template(300, definition.fields(4))).hex(" ", 2) == (
        "012c 0003 0001 0008 8005 0004 0000 1267 0173 ffff"  # 4711 is 0x1267
    )


def test_template_without_any_field_left(elements: ElementTable) -> None:
    definition = parse_template("userName", "t", elements)
    with pytest.raises(ConfigError, match="no Information Element is left"):
        definition.fields(4, lambda element: element.name != "userName")


def test_shipped_templates() -> None:
    elements = load_elements(private_pen=4711)
    definition = load_template("numeric", elements)
    numeric = Template(256, definition.fields(4, lambda found: found.name not in TRANSLATION))
    assert numeric.fixed_length == 120
    assert Template(256, definition.fields(4)).fixed_length == 120 + 12
    assert not numeric.has_variable_length
    full = Template(256, load_template("full", elements).fields(4))
    assert {f.element.pen for f in full.fields} == {0, 35632, 56506, 4711}
    variable = [f.is_variable for f in full.fields]
    assert variable == sorted(variable), "numbers first, then strings"
    tcp_flags = next(f for f in full.fields if f.element.name == "tcpControlBits")
    assert tcp_flags.length == 1


def test_template_file_errors_name_the_file(tmp_path: Path) -> None:
    elements = load_elements()
    with pytest.raises(ConfigError, match="cannot read template"):
        load_template(str(tmp_path / "missing.txt"), elements)
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\0")
    with pytest.raises(ConfigError, match="not text in UTF-8"):
        load_template(str(binary), elements)
    with pytest.raises(ConfigError, match="private enterprise number 0"):
        load_elements(private_pen=0)
