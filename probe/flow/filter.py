"""Which rows reach the cache: rules over addresses, ports, protocols and owners.

A rule is a conjunction of terms, ``cidr=10.0.0.0/8,port=53``; a list of rules is a disjunction.
In front of the cache rules see one flow end at a time: ``process=nginx`` keeps (or drops) nginx's
end of a connection, and what it says of both directions, while its local peer's end is judged by
its own owner. Views look at whole flows, which match where one of their ends does.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.errors import ConfigError
from probe.flow.batch import FlowBatch, Mark, Rows
from probe.flow.ends import Flags, take_rows
from probe.flow.index import KeyIndex, distinct
from probe.flow.owner import Owner, OwnerTable

_PROTOCOLS = {"tcp": 6, "udp": 17}
KEYS = ("cidr", "port", "protocol", "container", "pod", "namespace", "user", "process")
#: Excluded flow ends that are remembered to be counted once.
_REMEMBERED = 131072

#: Rows of flow ends, or columns with the same names (addresses, ports, protocol, ip_version).
Ends = Rows | Mapping[str, NDArray[Any]]
_RowTest = Callable[[Ends], Flags]
_OwnerTest = Callable[[Owner], bool]


@dataclass(frozen=True, slots=True)
class Rule:
    """All tests must hold. Owner tests run once per distinct owner of a batch."""

    text: str
    row_tests: tuple[_RowTest, ...]
    owner_tests: tuple[_OwnerTest, ...]

    def matches(self, rows: Ends, owners: OwnerTable, ends: Sequence[str] = ("owner",)) -> Flags:
        """``ends``: columns of owners, one of whom has to match."""
        matched = np.ones(len(rows["protocol"]), bool)
        for test in self.row_tests:
            matched &= test(rows)
        if self.owner_tests and matched.any():
            verdicts = [self._owner_matches(rows[name], owners) for name in ends]
            matched &= np.logical_or.reduce(verdicts)
        return matched

    def _owner_matches(self, indices: NDArray[np.uint64], owners: OwnerTable) -> Flags:
        present = np.flatnonzero(np.bincount(indices.astype(np.int64)))
        verdicts = np.zeros(int(present[-1]) + 1, bool)
        for index in present.tolist():
            verdicts[index] = all(test(owners[index]) for test in self.owner_tests)
        return verdicts[indices.astype(np.int64)]


def parse_rule(text: str) -> Rule:
    """A rule from ``key=value,key=value`` with keys of KEYS.

    Raises ConfigError, naming the part that cannot be used.
    """
    terms: list[tuple[str, str]] = []
    for term in text.split(","):
        key, separator, value = (part.strip() for part in term.partition("="))
        if not separator or not value or key not in KEYS:
            raise ConfigError(
                f"filter {text!r}: {term.strip()!r} is not KEY=VALUE with a KEY of "
                + ", ".join(KEYS)
            )
        terms.append((key, value))
    return _rule(text, terms)


def combine(values: Mapping[str, Sequence[str]]) -> list[Rule]:
    """Rules that hold where of each key of ``values`` one value does; none without any key.

    Raises ConfigError.
    """
    choices = [[(key, value) for value in several] for key, several in values.items() if several]
    found = map(list, product(*choices)) if choices else ()
    return [_rule(",".join(f"{key}={value}" for key, value in terms), terms) for terms in found]


def _rule(text: str, terms: Sequence[tuple[str, str]]) -> Rule:
    return Rule(
        text,
        tuple(_ROW_TERMS[key](text, value) for key, value in terms if key in _ROW_TERMS),
        tuple(_OWNER_TERMS[key](value) for key, value in terms if key in _OWNER_TERMS),
    )


class Choice:
    """What matches an include rule (or anything, if there are none) and no exclude rule."""

    def __init__(self, include: Sequence[Rule] = (), exclude: Sequence[Rule] = ()) -> None:
        self._include = tuple(include)
        self._exclude = tuple(exclude)

    def __bool__(self) -> bool:
        """Whether there is any rule."""
        return bool(self._include or self._exclude)

    def matches(self, rows: Ends, owners: OwnerTable, ends: Sequence[str] = ("owner",)) -> Flags:
        """``ends`` as of ``Rule.matches``."""
        kept = np.full(len(rows["protocol"]), not self._include)
        for rule in self._include:
            kept |= rule.matches(rows, owners, ends)
        for rule in self._exclude:
            kept &= ~rule.matches(rows, owners, ends)
        return kept


class FlowFilter:
    """Keeps the rows that are the ``Choice`` of its rules.

    ``excluded_*`` count what was dropped; packets and octets are those sent and received.
    """

    def __init__(self, include: Sequence[Rule] = (), exclude: Sequence[Rule] = ()) -> None:
        self._choice = Choice(include, exclude)
        self._seen = KeyIndex()
        self._serial = 0
        self.excluded_rows = 0
        self.excluded_flows = 0
        self.excluded_packets = 0
        self.excluded_octets = 0

    def select(self, batch: FlowBatch, owners: OwnerTable) -> FlowBatch:
        """The rows to meter; the batch itself if there is nothing to drop."""
        if not len(batch) or not self._choice:
            return batch
        kept = self._choice.matches(batch.rows, owners)
        if kept.all():
            return batch
        rows = np.ascontiguousarray(batch.rows)
        self._count(take_rows(rows, np.flatnonzero(~kept)))
        return FlowBatch(take_rows(rows, np.flatnonzero(kept)))

    def select_events(self, events: Rows, owners: OwnerTable) -> Rows:
        """EVENT_DTYPE by the same rules; those of containers have neither address nor port."""
        if not len(events) or not self._choice:
            return events
        kept = self._choice.matches(events, owners)
        return events if kept.all() else take_rows(events, np.flatnonzero(kept))

    def _count(self, rows: Rows) -> None:
        self.excluded_rows += len(rows)
        self.excluded_packets += int(rows["tx_packets"].sum() + rows["rx_packets"].sum())
        self.excluded_octets += int(rows["tx_octets"].sum() + rows["rx_octets"].sum())
        self.excluded_flows += self._count_new(np.ascontiguousarray(rows["id"]))
        closed = distinct(rows["id"][(rows["mark"] & np.uint8(Mark.CLOSED)) != 0])
        self._seen.remove(closed)

    def _count_new(self, ids: NDArray[np.uint64]) -> int:
        ids = ids[self._seen.find(ids) == 0]
        if len(self._seen) + len(ids) > _REMEMBERED or self._serial > 2**30:
            self._seen, self._serial = KeyIndex(), 0
        before = len(self._seen)
        self._seen.insert(ids, self._serial + 1 + np.arange(len(ids)))
        self._serial += len(ids)
        return len(self._seen) - before


def _cidr_test(text: str, value: str) -> _RowTest:
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError as error:
        raise ConfigError(f"filter {text!r}: {error}") from None
    mask, wanted = _words(network.netmask.packed), _words(network.network_address.packed)

    def test(rows: Ends) -> Flags:
        within = rows["ip_version"] == network.version
        local, remote = (
            ((_words(rows[name]) & mask) == wanted).all(axis=1)
            for name in ("local_address", "remote_address")
        )
        matched: Flags = within & (local | remote)
        return matched

    return test


def _words(octets: bytes | NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Addresses, padded with zeros to 16 octets, as two words each."""
    if isinstance(octets, bytes):
        return np.frombuffer(octets.ljust(16, b"\0"), np.uint64)
    return np.ascontiguousarray(octets).view(np.uint64)


def _port_test(text: str, value: str) -> _RowTest:
    low, separator, high = value.partition("-")
    first = _number(text, low, 65535)
    last = _number(text, high, 65535) if separator else first
    if last < first:
        raise ConfigError(f"filter {text!r}: the range {value} is empty")

    def test(rows: Ends) -> Flags:
        local, remote = rows["local_port"], rows["remote_port"]
        return ((local >= first) & (local <= last)) | ((remote >= first) & (remote <= last))

    return test


def _protocol_test(text: str, value: str) -> _RowTest:
    number = _PROTOCOLS.get(value.lower())
    wanted = _number(text, value, 255) if number is None else number
    return lambda rows: np.asarray(rows["protocol"] == wanted)


def _number(text: str, value: str, highest: int) -> int:
    if not (value.isascii() and value.isdigit() and int(value) <= highest):
        raise ConfigError(f"filter {text!r}: {value!r} is not a number from 0 to {highest}")
    return int(value)


def _container_test(value: str) -> _OwnerTest:
    """By the beginning of the container id, as docker does, or by its whole name."""
    return lambda owner: owner.container_id.startswith(value) or owner.container_name == value


def _pod_test(value: str) -> _OwnerTest:
    """By its name, or NAMESPACE/NAME."""
    namespace, separator, name = value.rpartition("/")
    return lambda owner: (
        owner.pod_name == name and (not separator or owner.pod_namespace == namespace)
    )


def _namespace_test(value: str) -> _OwnerTest:
    return lambda owner: owner.pod_namespace == value


def _user_test(value: str) -> _OwnerTest:
    """By name or by uid."""
    uid = _digits(value)
    return lambda owner: value == owner.user_name or uid == owner.uid


def _process_test(value: str) -> _OwnerTest:
    """By name or by pid."""
    pid = _digits(value)
    return lambda owner: value == owner.process_name or pid == owner.pid


def _digits(value: str) -> int:
    """The number, or -1, which nobody has."""
    return int(value) if value.isascii() and value.isdigit() else -1


_ROW_TERMS: dict[str, Callable[[str, str], _RowTest]] = {
    "cidr": _cidr_test,
    "port": _port_test,
    "protocol": _protocol_test,
}
_OWNER_TERMS: dict[str, Callable[[str], _OwnerTest]] = {
    "container": _container_test,
    "pod": _pod_test,
    "namespace": _namespace_test,
    "user": _user_test,
    "process": _process_test,
}
