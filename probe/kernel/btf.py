"""Reads the BTF of the kernel object into numpy dtypes. Only bpf/flow.h declares the records.

Documentation/bpf/btf.rst of the kernel describes the format. This module understands what the
object's records need. Bit-fields, floats and holes raise an error that names the field.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from probe.errors import KernelError

_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM, _FWD, _TYPEDEF = 1, 2, 3, 4, 5, 6, 7, 8
_VOLATILE, _CONST, _RESTRICT, _FUNC, _PROTO, _VAR, _DATASEC = 9, 10, 11, 12, 13, 14, 15
_FLOAT, _DECL_TAG, _TYPE_TAG, _ENUM64 = 16, 17, 18, 19

#: Octets behind the 12-octet header of a type: of a kind, and of each member of a kind.
_EXTRA = {_INT: 4, _ARRAY: 12, _VAR: 4, _DECL_TAG: 4}
_PER_MEMBER = {_STRUCT: 12, _UNION: 12, _ENUM: 8, _PROTO: 8, _DATASEC: 12, _ENUM64: 12}

_Format = str | tuple[str, tuple[int]]


@dataclass(slots=True)
class _Type:
    name: str
    kind: int
    size: int  # of a reference, as a typedef, the id of the other type
    body: bytes
    members: int
    bitfields: bool


class Btf:
    """The types of one ``.BTF`` section. Raises KernelError if the octets are no BTF."""

    def __init__(self, raw: bytes) -> None:
        magic, _, _, header, types, types_len, strings, strings_len = struct.unpack_from(
            "<HBBIIIII", raw
        )
        if magic != 0xEB9F:
            raise KernelError("the kernel object has no BTF: build it again with `make -C bpf`")
        self._strings = raw[header + strings : header + strings + strings_len]
        self._types: list[_Type] = [_Type("void", 0, 0, b"", 0, False)]
        self._read_types(raw[header + types : header + types + types_len])

    def _read_types(self, raw: bytes) -> None:
        at = 0
        while at < len(raw):
            name, info, size = struct.unpack_from("<III", raw, at)
            kind, members = info >> 24 & 31, info & 0xFFFF
            length = _EXTRA.get(kind, 0) + _PER_MEMBER.get(kind, 0) * members
            body = raw[at + 12 : at + 12 + length]
            self._types.append(_Type(self._text(name), kind, size, body, members, info >> 31 == 1))
            at += 12 + length

    def _text(self, at: int) -> str:
        return self._strings[at : self._strings.index(b"\0", at)].decode()

    def _find(self, kind: int, name: str) -> _Type:
        for entry in self._types:
            if entry.kind == kind and entry.name == name:
                return entry
        raise KernelError(f"the kernel object does not declare {name}: run `make -C bpf`")

    def _resolve(self, type_id: int) -> _Type:
        entry = self._types[type_id]
        while entry.kind in (_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG):
            entry = self._types[entry.size]
        return entry

    def struct_dtype(self, name: str) -> np.dtype[np.void]:
        """Returns the numpy dtype of ``struct name``, with its members in order and no holes.

        Raises KernelError if the struct has a hole, or a member of a kind that a row cannot have.
        The error names the field.
        """
        members = self._members(self._find(_STRUCT, name))
        return np.dtype({"names": [*members], "formats": [*members.values()]})

    def _members(self, entry: _Type) -> dict[str, _Format]:
        """Returns {member: format}. The members of a struct within replace it."""
        found: dict[str, _Format] = {}
        end = 0
        for member, type_id, bits in struct.iter_unpack("<III", entry.body):
            field, inner = self._text(member), self._resolve(type_id)
            if bits != end * 8 or entry.bitfields:
                raise KernelError(f"struct {entry.name} has a hole or bit-field at {field}")
            if inner.kind == _STRUCT:
                found |= self._members(inner)
                end += inner.size
                continue
            found[field] = self._format(type_id, f"{entry.name}.{field}")
            end += np.dtype(found[field]).itemsize
        if end != entry.size:
            unnamed = entry.size - end
            raise KernelError(f"struct {entry.name} has {unnamed} unnamed octets at its end")
        return found

    def _format(self, type_id: int, field: str) -> _Format:
        entry = self._resolve(type_id)
        if entry.kind == _INT and entry.size in (1, 2, 4, 8):
            return f"u{entry.size}"
        if entry.kind == _ARRAY:
            element, _, count = struct.unpack("<III", entry.body)
            inner = self._format(element, field)
            if isinstance(inner, str):
                return inner, (count,)
        raise KernelError(f"{field} is of a type that a row cannot have")

    def enumerators(self, name: str) -> dict[str, int]:
        """Returns ``enum name`` as {enumerator: value}."""
        entry = self._find(_ENUM, name)
        return {self._text(n): v for n, v in struct.iter_unpack("<Ii", entry.body)}

    def variables(self, section: str) -> dict[str, tuple[int, int]]:
        """Returns the variables of a section ('.bss', '.rodata') as {name: (offset, octets)}."""
        entry = self._find(_DATASEC, section)
        return {
            self._types[variable].name: (offset, size)
            for variable, offset, size in struct.iter_unpack("<III", entry.body)
        }
