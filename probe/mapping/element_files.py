"""Describes enterprise elements to collectors that do not read RFC 5610."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from probe.errors import ConfigError
from probe.ipfix.elements import Element
from probe.ipfix.types import SEMANTICS, UNITS
from probe.mapping.collector_files import snake_case

#: Other enterprises whose elements we send, with the prefixes of their names in libfds.
_SCOPES = {35632: "ntop", 56506: "antrea"}
#: The enterprise of reverse elements (RFC 5103), which libfds makes itself.
_REVERSE = 29305
#: Data types of Telegraf. It shows all others as octets.
_TELEGRAF = {
    **dict.fromkeys(("unsigned8", "unsigned16", "unsigned32", "unsigned64"), "uint"),
    **dict.fromkeys(("dateTimeSeconds", "dateTimeMilliseconds", "boolean"), "uint"),
    **dict.fromkeys(("ipv4Address", "ipv6Address"), "ip"),
    "string": "string",
}


def telegraf_mapping(elements: Iterable[Element]) -> str:
    """Returns the file for ``private_enterprise_number_files`` of Telegraf's inputs.netflow."""
    text = io.StringIO()
    text.write(
        "# telegraf.conf: [[inputs.netflow]] private_enterprise_number_files = [this file]\n"
    )
    rows = csv.writer(text, lineterminator="\n")
    for element in _of_enterprises(elements):
        kind = _TELEGRAF.get(element.type.name, "hex")
        rows.writerow((f"{element.pen}.{element.id}", snake_case(element.name), kind))
    return text.getvalue()


def libfds_elements(elements: Iterable[Element], enterprise: int) -> str:
    """Returns the file for libfds, the library of ipfixcol2, which wants one file per enterprise.

    Raises ConfigError if there are no elements of that enterprise.
    """
    from xml.etree import ElementTree as Tree

    found = list(_of_enterprises(elements))
    own = [element for element in found if element.pen == enterprise != _REVERSE]
    if not own:
        known = sorted({element.pen for element in found} - {_REVERSE})
        hint = f"use --enterprise with one of {', '.join(map(str, known))}"
        raise ConfigError(
            f"there are no elements of enterprise {enterprise}: "
            f"{hint if known else 'this profile has elements of IANA only'}"
        )
    root = Tree.Element("ipfix-elements")
    scope = Tree.SubElement(root, "scope")
    Tree.SubElement(scope, "pen").text = str(enterprise)
    Tree.SubElement(scope, "name").text = _SCOPES.get(enterprise, "sockflow")
    Tree.SubElement(scope, "biflow", mode="none")
    for element in own:
        described = Tree.SubElement(root, "element")
        for key, value in _libfds_values(element):
            Tree.SubElement(described, key).text = value
    Tree.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{Tree.tostring(root, encoding="unicode")}\n'


def _libfds_values(element: Element) -> list[tuple[str, str]]:
    """Returns the known attributes of an element; libfds refuses words that it does not know."""
    values = [
        ("id", str(element.id)),
        ("name", element.name),
        ("dataType", element.type.name),
        ("dataSemantics", _word(SEMANTICS, element.semantics)),
        ("units", _word(UNITS, element.units)),
        ("status", "current"),
    ]
    return [(key, value) for key, value in values if value]


def _word(words: dict[str, int], code: int) -> str:
    """Returns the registry's word for a code, '' if there is none."""
    return next((word for word, number in words.items() if number == code and code), "")


def _of_enterprises(elements: Iterable[Element]) -> Iterable[Element]:
    """Returns the enterprise elements without duplicates, in their order."""
    return (element for element in dict.fromkeys(elements) if element.pen)
