"""The agent's data: the tree of all objects, refreshed once in each burst of requests."""

from __future__ import annotations

import fnmatch
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from probe import __version__
from probe.interfaces.interface import Interface
from probe.snmp.ber import (
    COUNTER32,
    OBJECT_IDENTIFIER,
    OCTET_STRING,
    TIME_TICKS,
    Oid,
    encode,
    encode_integer,
    encode_oid_body,
)
from probe.snmp.ifmib import Changes, build_columns, find_stack
from probe.snmp.naming import Behind
from probe.snmp.settings import SnmpSettings
from probe.snmp.tree import SCALAR, Column, Rows, Tree

SYSTEM: Oid = (1, 3, 6, 1, 2, 1, 1)
SNMP: Oid = (1, 3, 6, 1, 2, 1, 11)
_ENTERPRISES: Oid = (1, 3, 6, 1, 4, 1)
_SERVICES = 72  # sysServices of a host: transport and application (RFC 3418)
_MIBS: tuple[tuple[Oid, str], ...] = (
    ((1, 3, 6, 1, 6, 3, 1), "SNMPv2-MIB (RFC 3418): system and snmp"),
    ((1, 3, 6, 1, 2, 1, 31), "IF-MIB (RFC 2863): interfaces by the containers behind them"),
)
#: The greatest age of counters in an answer.
_BURST_S = 1.0
_TICKS_MASK = 0xFFFFFFFF


@dataclass(slots=True)
class Counted:
    """Counters of the snmp group (RFC 3418) since the agent started."""

    received: int = 0
    sent: int = 0
    bad_versions: int = 0
    bad_communities: int = 0
    bad_uses: int = 0
    malformed: int = 0
    dropped: int = 0


class AgentView:
    """The data of the agent.

    ``read_links`` returns all interfaces by index. ``pen`` is the enterprise of sysObjectID.
    ``count_refused`` counts the datagrams that ``gate`` refused for their community.
    """

    def __init__(
        self,
        settings: SnmpSettings,
        read_links: Callable[[], Sequence[Interface]],
        pen: int,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        count_refused: Callable[[], int] = int,
    ) -> None:
        self.counted = Counted()
        self._count_refused = count_refused
        self._settings = settings
        self._read_links = read_links
        self._pen = pen
        self._clock, self._monotonic = clock, monotonic
        self._began, self._began_s = monotonic(), clock()
        self._behind: dict[int, Behind] = {}
        self._tree: Tree | None = None
        self._built = 0.0
        self._told_at = 0
        self._changes = Changes()
        self._rows: dict[int, float] = {}
        self._stack: list[Oid] = []

    def set_behind(self, behind: dict[int, Behind]) -> None:
        """Sets the container behind each interface, by index."""
        self._behind = behind
        self._tree = None

    def invalidate(self) -> None:
        """Refreshes before the next answer, because interfaces have come or gone."""
        self._tree = None
        self._told_at = self.uptime()

    def tree(self) -> Tree:
        now = self._monotonic()
        if self._tree is None or now - self._built > _BURST_S:
            self._tree, self._built = self._build(), now
        return self._tree

    @property
    def size(self) -> int:
        """Returns the number of objects at the latest request."""
        return len(self._tree) if self._tree else 0

    def uptime(self) -> int:
        """Returns sysUpTime."""
        return int((self._monotonic() - self._began) * 100) & _TICKS_MASK

    def ticks(self, time_s: float) -> int:
        """Returns sysUpTime at a Unix time, as if the clock were never set; 0 before the start."""
        ago_s = self._clock() - time_s
        return max(0, min(self.uptime(), int((self._monotonic() - self._began - ago_s) * 100)))

    def _build(self) -> Tree:
        links = [link for link in self._read_links() if self._is_shown(link)]
        self._note_changes(links)
        columns = build_columns(links, self._behind, self._ticks_of_row, self._changes)
        return Tree([*self._system(), *columns, *self._snmp()])

    def _is_shown(self, link: Interface) -> bool:
        return any(
            pattern == "all" or pattern == link.kind or fnmatch.fnmatchcase(link.name, pattern)
            for pattern in self._settings.interfaces
        )

    def _ticks_of_row(self, time_s: float) -> int:
        """Returns sysUpTime of a row's change, 0 for rows that are older than the agent."""
        return 0 if time_s <= self._began_s else self.ticks(time_s)

    def _note_changes(self, links: Sequence[Interface]) -> None:
        """Notes changes with the time of their rtnetlink message, not that of a request."""
        rows, stack = {link.index: link.since_s for link in links}, find_stack(links)
        table = self._changes.table if rows == self._rows else self._told_at
        stacked = self._changes.stack if stack == self._stack else self._told_at
        self._changes = Changes(table, stacked)
        self._rows, self._stack = rows, stack

    def _system(self) -> list[Column]:
        host = os.uname()
        text = f"Sockflow {__version__} on {host.sysname} {host.release} {host.machine}"
        object_id = encode(OBJECT_IDENTIFIER, encode_oid_body((*_ENTERPRISES, self._pen, 1)))
        values = {
            1: _text(text),
            2: object_id,
            4: _text(self._settings.contact),
            5: _text(host.nodename),
            6: _text(self._settings.location),
            7: encode_integer(_SERVICES),
        }
        columns = [_scalar((*SYSTEM, number), value) for number, value in values.items()]
        uptime = Column((*SYSTEM, 3), SCALAR, lambda _: encode_integer(self.uptime(), TIME_TICKS))
        return [*columns, uptime, *_SUPPORTED]

    def _snmp(self) -> list[Column]:
        names = {1: "received", 2: "sent", 3: "bad_versions", 4: "bad_communities", 5: "bad_uses",
                 6: "malformed", 31: "dropped"}  # fmt: skip
        columns = [Column((*SNMP, at), SCALAR, self._counter(name)) for at, name in names.items()]
        no_traps = _scalar((*SNMP, 30), encode_integer(2))
        return [*columns, no_traps, _scalar((*SNMP, 32), encode_integer(0, COUNTER32))]

    def _counter(self, name: str) -> Callable[[int], bytes]:
        is_refused = name in ("received", "bad_communities")

        def read(_: int) -> bytes:
            count = getattr(self.counted, name) + (self._count_refused() if is_refused else 0)
            return encode_integer(count & 0xFFFFFFFF, COUNTER32)

        return read


def _scalar(prefix: Oid, value: bytes) -> Column:
    return Column(prefix, SCALAR, lambda _: value)


def _text(text: str) -> bytes:
    return encode(OCTET_STRING, text.encode("utf-8", "replace"))


def _supported() -> list[Column]:
    """Returns sysORLastChange and sysORTable: the MIBs that the agent has from its start."""
    rows = Rows([(number,) for number in range(1, len(_MIBS) + 1)])
    zero = encode_integer(0, TIME_TICKS)
    ids = [encode(OBJECT_IDENTIFIER, encode_oid_body(oid)) for oid, _ in _MIBS]
    texts = [_text(text) for _, text in _MIBS]
    return [
        _scalar((*SYSTEM, 8), zero),
        Column((*SYSTEM, 9, 1, 2), rows, ids.__getitem__),
        Column((*SYSTEM, 9, 1, 3), rows, texts.__getitem__),
        Column((*SYSTEM, 9, 1, 4), rows, lambda _: zero),
    ]


_SUPPORTED = _supported()
