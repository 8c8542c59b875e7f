"""Elements that the reader knows: IANA's registry from python-ipfix, and legal lengths."""

from __future__ import annotations

import re
from importlib import resources

from tests.support.reader.wire import Field

REVERSE = 29305
_LINE = re.compile(r"(\w+)\((\d+)\)<(\w+)>\[")
#: Elements behind 433, where python-ipfix ends, and a name that IANA has changed since.
_SINCE = """
newConnectionDeltaCount(278)<unsigned32>[4]
basicList(291)<basicList>[v]
subTemplateList(292)<subTemplateList>[v]
subTemplateMultiList(293)<subTemplateMultiList>[v]
httpStatusCode(457)<unsigned16>[2]
sourceTransportPortsLimit(458)<unsigned16>[2]
"""
#: Types by their numbers in informationElementDataType (RFC 5610 section 3.1).
_TYPES = """
octetArray unsigned8 unsigned16 unsigned32 unsigned64 signed8 signed16 signed32 signed64 float32
float64 boolean macAddress string dateTimeSeconds dateTimeMilliseconds dateTimeMicroseconds
dateTimeNanoseconds ipv4Address ipv6Address basicList subTemplateList subTemplateMultiList
"""
TYPE_NUMBERS = dict(enumerate(_TYPES.split()))
_ANY = {"octetArray", "string", "basicList", "subTemplateList", "subTemplateMultiList"}
_FIXED = {
    "float32": (4,), "float64": (4, 8), "boolean": (1,), "macAddress": (6,),
    "ipv4Address": (4,), "ipv6Address": (16,), "dateTimeSeconds": (4,),
    "dateTimeMilliseconds": (8,), "dateTimeMicroseconds": (8,), "dateTimeNanoseconds": (8,),
}  # fmt: skip
_IDENTIFIERS = {10, 14, 137, 138, 141, 142, 143, 144, 145, 148, 149}
_CONFIGURATION = {130, 131, 173, *range(211, 218)}
_STATISTICS = {40, 41, 42, *range(163, 169)}
#: Elements without a reverse (RFC 5103 section 6.1), by section of RFC 5102.
IRREVERSIBLE = _IDENTIFIERS | _CONFIGURATION | _STATISTICS | {210, 239}


def _read() -> dict[int, tuple[str, str]]:
    shipped = resources.files("ipfix").joinpath("iana.iespec").read_text()
    found = [_LINE.match(line) for line in (shipped + _SINCE).splitlines()]
    return {int(one[2]): (one[1], one[3]) for one in found if one}


_IANA = _read()


def type_of(field: Field) -> str | None:
    """Returns the type of an IANA element or its reverse, None if the registry lacks it."""
    known = _IANA.get(field.number) if field.enterprise in (0, REVERSE) else None
    return known[1] if known else None


def name_of(field: Field) -> str:
    """Returns 'octetDeltaCount', 'reverseOctetDeltaCount', '32473/1' or the number of a v9 type."""
    known = _IANA.get(field.number)
    if field.enterprise == 0:
        return known[0] if known else str(field.number)
    if field.enterprise == REVERSE and known:
        return f"reverse{known[0][0].upper()}{known[0][1:]}"
    return f"{field.enterprise}/{field.number}"


def is_legal(kind: str, length: int) -> bool:
    """Returns True if a field of this type may have this length, or a reduced one."""
    if kind in _ANY:
        return True
    if kind in _FIXED:
        return length in _FIXED[kind]
    return 1 <= length <= int(kind.lstrip("unsiged")) // 8


def may_vary(kind: str) -> bool:
    return kind in _ANY
