"""Makes JSON lines of flows, events and sockets in any format, with a layout for each variant."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.flow.codes import EventKind
from probe.jsonlines import lines
from probe.jsonlines.lines import Fragments, Line, Tree
from probe.jsonlines.local_remote import Columns, take

#: Flags for variants of rows, besides the IP version and TCP.
FAILED, CONTAINER, NAT = 32, 64, 128
TCP = 6
_V6, _IS_TCP = 1, 2
_CONTAINERS = (EventKind.CONTAINER_START, EventKind.CONTAINER_STOP)

#: Makes the layout of a variant from (IP version, is TCP, other flags).
Layout = Callable[[int, bool, int], Tree]


class ErrorNames(dict[int, str]):
    def __missing__(self, number: int) -> str:
        return errno.errorcode.get(number, f"E{number}")


class Layouts:
    """Makes the lines of one kind of object, each by the layout that its variant needs.

    A layout is made when the first row needs it. The lines have the order of the rows.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._lines: dict[int, Line] = {}

    def encode(self, columns: Columns, extra: NDArray[Any]) -> list[str]:
        codes = (
            extra.astype(np.uint8)
            + (columns["ip_version"] == 6)
            + _IS_TCP * (columns["protocol"] == TCP)
        )
        kinds = np.unique(codes).tolist()
        if len(kinds) == 1:
            return self._line(kinds[0]).encode(columns)
        found = [""] * len(codes)
        for code in kinds:
            rows = np.flatnonzero(codes == code)
            encoded = self._line(code).encode(take(columns, rows))
            for row, line in zip(rows.tolist(), encoded, strict=True):
                found[row] = line
        return found

    def _line(self, code: int) -> Line:
        if code not in self._lines:
            version = 6 if code & _V6 else 4
            self._lines[code] = Line(self._layout(version, bool(code & _IS_TCP), code & ~3))
        return self._lines[code]


class ObjectLines:
    """Makes JSON lines of all kinds of rows in the format of a subclass.

    Each row becomes one str without a newline. ``forget`` is that of a Sink.
    """

    def __init__(self, fragments: Sequence[Fragments]) -> None:
        self._fragments = fragments
        self._flows = Layouts(self._flow)
        self._events = Layouts(self._event)
        self._sockets = Layouts(self._socket)

    def flows(self, columns: dict[str, Any]) -> list[str]:
        """Returns the lines for the ``flow_columns`` of records."""
        return self._flows.encode(columns, NAT * (columns["translated"] != 0))

    def events(self, columns: dict[str, Any]) -> list[str]:
        """Returns the lines for the ``event_columns`` of events."""
        extra = np.where(np.isin(columns["kind"], _CONTAINERS), CONTAINER, 0)
        extra += FAILED * (columns["error"] != 0)
        return self._events.encode(columns, extra)

    def sockets(self, columns: dict[str, Any]) -> list[str]:
        """Returns the lines for the ``socket_columns`` of sockets."""
        return self._sockets.encode(columns, np.zeros(len(columns["gone"]), np.uint8))

    def interface(self, found: Mapping[str, Any]) -> str:
        """Returns the line for an ``interface_object``."""
        return lines.encode(found)

    def forget(self, indices: Iterable[int]) -> None:
        released = list(indices)
        for fragments in self._fragments:
            fragments.forget(released)

    def _flow(self, version: int, is_tcp: bool, extra: int) -> Tree:
        raise NotImplementedError

    def _event(self, version: int, is_tcp: bool, extra: int) -> Tree:
        raise NotImplementedError

    def _socket(self, version: int, is_tcp: bool, extra: int) -> Tree:
        raise NotImplementedError
