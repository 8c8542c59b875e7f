"""Answers a request from a tree (RFC 3416 section 4.2; version 1 by RFC 3584)."""

from __future__ import annotations

from probe.snmp.ber import SEQUENCE, Oid, encode
from probe.snmp.message import GET, GET_BULK, GET_NEXT, V1, Request, encode_response
from probe.snmp.tree import END_OF_MIB_VIEW, Position, Tree, encode_varbind

_TOO_BIG, _NO_SUCH_NAME, _NO_CREATION, _NOT_WRITABLE = 1, 2, 11, 17
_EMPTY = encode(SEQUENCE, b"")
#: Octets of a response around its variable bindings.
_FRAME = 32


class NoAnswer(Exception):
    """Raised for a request that its version does not have."""


def respond(tree: Tree, version: int, request: Request, limit: int) -> bytes:
    """Returns the response PDU, of at most ``limit`` octets. Raises NoAnswer."""
    if request.kind == GET_BULK:
        if version == V1:
            raise NoAnswer("a GetBulk of version 1")
        return _respond_bulk(tree, request, limit)
    if request.kind in (GET, GET_NEXT):
        return _respond_each(tree, version, request, limit)
    return _refuse_set(tree, version, request)


def _respond_each(tree: Tree, version: int, request: Request, limit: int) -> bytes:
    parts: list[bytes] = []
    size = _FRAME
    for number, name in enumerate(request.names, 1):
        varbind = (_get if request.kind == GET else _next)(tree, version, name)
        if varbind is None:
            return encode_response(request.request_id, _NO_SUCH_NAME, number, request.varbinds)
        parts.append(varbind)
        size += len(varbind)
        if size > limit:
            same = request.varbinds if version == V1 else _EMPTY
            return encode_response(request.request_id, _TOO_BIG, 0, same)
    return encode_response(request.request_id, 0, 0, encode(SEQUENCE, b"".join(parts)))


def _get(tree: Tree, version: int, name: Oid) -> bytes | None:
    found = tree.find(name)
    if version != V1:
        return encode_varbind(name, found) if isinstance(found, bytes) else tree.varbind(found)
    if isinstance(found, bytes) or tree.columns[found[0]].is_counter64:
        return None
    return tree.varbind(found)


def _next(tree: Tree, version: int, name: Oid) -> bytes | None:
    found = tree.after(name)
    if version == V1:
        found = tree.without_counter64(found)
        return tree.varbind(found) if found else None
    return tree.varbind(found) if found else encode_varbind(name, END_OF_MIB_VIEW)


def _respond_bulk(tree: Tree, request: Request, limit: int) -> bytes:
    """Returns as many variable bindings as fit; stops after a repetition of only ends."""
    once = max(0, min(request.first, len(request.names)))
    parts: list[bytes] = []
    room = limit - _FRAME
    names = list(request.names)
    places: list[Position | None] = [tree.after(name) for name in names]
    repetitions = max(0, request.second) if len(names) > once else 0
    for repetition in range(repetitions + 1):
        # the first round answers the non-repeaters
        chosen = range(once) if repetition == 0 else range(once, len(names))
        is_over = repetition > 0
        for at in chosen:
            place = places[at]
            if place is None:
                varbind = encode_varbind(names[at], END_OF_MIB_VIEW)
            else:
                varbind = tree.varbind(place)
            room -= len(varbind)
            if room < 0:
                return _bulk(request, parts)
            parts.append(varbind)
            if place is not None:
                is_over = False
                places[at] = tree.step(place)
                if places[at] is None:
                    names[at] = tree.name(place)
        if is_over:
            break
    return _bulk(request, parts)


def _bulk(request: Request, parts: list[bytes]) -> bytes:
    return encode_response(request.request_id, 0, 0, encode(SEQUENCE, b"".join(parts)))


def _refuse_set(tree: Tree, version: int, request: Request) -> bytes:
    """Refuses a Set, because all objects are read-only."""
    status, index = _NO_SUCH_NAME, 1
    if version != V1 and request.names:
        is_here = not isinstance(tree.find(request.names[0]), bytes)
        status = _NOT_WRITABLE if is_here else _NO_CREATION
    elif not request.names:
        status, index = 0, 0
    return encode_response(request.request_id, status, index, request.varbinds)
