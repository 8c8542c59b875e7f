"""Data types, semantics and units of Information Elements (RFC 7012 section 3, RFC 5610)."""

from __future__ import annotations

from dataclasses import dataclass

#: Length that announces a variable-length field in a Template Record (RFC 7011 section 7).
VARIABLE = 65535


@dataclass(frozen=True, slots=True)
class DataType:
    """A data type: its code in informationElementDataType (339), and its length in octets.

    ``length`` is VARIABLE for strings and octet arrays.
    """

    name: str
    code: int
    length: int

    @property
    def is_integer(self) -> bool:
        return 1 <= self.code <= 8 or self.name == "unsigned256"

    def allows(self, length: int) -> bool:
        """Returns True if a field may have this length (RFC 7011 section 6.2, reduced size)."""
        if self.length == VARIABLE:
            return length > 0
        if self.is_integer:
            return 0 < length <= self.length
        return length == self.length or (self.name == "float64" and length == 4)


TYPES: dict[str, DataType] = {
    name: DataType(name, code, length)
    for code, (name, length) in enumerate(
        [
            ("octetArray", VARIABLE),
            ("unsigned8", 1),
            ("unsigned16", 2),
            ("unsigned32", 4),
            ("unsigned64", 8),
            ("signed8", 1),
            ("signed16", 2),
            ("signed32", 4),
            ("signed64", 8),
            ("float32", 4),
            ("float64", 8),
            ("boolean", 1),
            ("macAddress", 6),
            ("string", VARIABLE),
            ("dateTimeSeconds", 4),
            ("dateTimeMilliseconds", 8),
            ("dateTimeMicroseconds", 8),
            ("dateTimeNanoseconds", 8),
            ("ipv4Address", 4),
            ("ipv6Address", 16),
            ("basicList", VARIABLE),
            ("subTemplateList", VARIABLE),
            ("subTemplateMultiList", VARIABLE),
            ("unsigned256", 32),
        ]
    )
}
TYPES_BY_CODE: dict[int, DataType] = {kind.code: kind for kind in TYPES.values()}

#: Codes of informationElementSemantics (344); '-' is the default.
SEMANTICS = {
    name: code
    for code, name in enumerate(
        ["-", "quantity", "totalCounter", "deltaCounter", "identifier", "flags", "list"]
    )
}

#: Codes of informationElementUnits (345); '-' is none.
UNITS = {
    name: code
    for code, name in enumerate(
        [
            "-",
            "bits",
            "octets",
            "packets",
            "flows",
            "seconds",
            "milliseconds",
            "microseconds",
            "nanoseconds",
            "4-octet words",
            "messages",
            "hops",
            "entries",
            "frames",
        ]
    )
}
