"""Rules over addresses, ports, protocols and owners, and what they match.

A rule is a conjunction of terms, ``cidr=10.0.0.0/8,port=53``; a list of rules is a disjunction.
``flow.filter`` applies them to what the probe meters, one flow end at a time. Views look at whole
flows, which match where one of their ends does.
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
from probe.flow.owner import Owner, OwnerTable
from probe.flow.rows import Flags, Rows

_PROTOCOLS = {"tcp": 6, "udp": 17}
KEYS = ("cidr", "port", "protocol", "container", "pod", "namespace", "user", "process")

_ANYWHERE = "is_anywhere"  # a column of sockets that are bound to all addresses
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

    def may_match(self, rows: Ends) -> Flags:
        """Whether the rule matches for some owner, whoever that is."""
        matched = np.ones(len(rows["protocol"]), bool)
        for test in self.row_tests:
            matched &= test(rows)
        return matched

    def matches(self, rows: Ends, owners: OwnerTable, ends: Sequence[str] = ("owner",)) -> Flags:
        """``ends``: columns of owners, one of whom has to match."""
        matched = self.may_match(rows)
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

    @property
    def asks_for_owners(self) -> bool:
        """Whether it matters who an end's owner is."""
        return any(rule.owner_tests for rule in (*self._include, *self._exclude))

    def may_match(self, rows: Ends) -> Flags:
        """What matches for some owner, whoever that is."""
        kept = np.full(len(rows["protocol"]), not self._include)
        for rule in self._include:
            kept |= rule.may_match(rows)
        for rule in self._exclude:
            if not rule.owner_tests:
                kept &= ~rule.may_match(rows)
        return kept

    def matches(self, rows: Ends, owners: OwnerTable, ends: Sequence[str] = ("owner",)) -> Flags:
        """``ends`` as of ``Rule.matches``."""
        kept = np.full(len(rows["protocol"]), not self._include)
        for rule in self._include:
            kept |= rule.matches(rows, owners, ends)
        for rule in self._exclude:
            kept &= ~rule.matches(rows, owners, ends)
        return kept

    def matches_sockets(self, sockets: Rows, owners: OwnerTable) -> Flags:
        """Of SOCKET_DTYPE: ``port`` is the port that a socket waits at, ``cidr`` the address that
        it is bound to.

        One that is bound to all addresses waits at those of any network, and at others, too: where
        a network is included it is kept, and where a network is excluded it is not left out.
        """
        ends = _socket_ends(sockets)
        kept = np.full(len(sockets), not self._include)
        anywhere: Flags = (sockets["local_address"] == 0).all(axis=1)
        for rule in self._include:
            kept |= rule.matches(ends | {_ANYWHERE: anywhere}, owners)
        for rule in self._exclude:
            kept &= ~rule.matches(ends, owners)
        return kept


def record_ends(records: Rows) -> Mapping[str, NDArray[Any]]:
    """Columns of RECORD_DTYPE as rules want them, for which both ends are alike."""
    ends = {
        f"{end}_{name}": records[f"{side}_{name}"]
        for end, side in (("local", "source"), ("remote", "destination"))
        for name in ("address", "port")
    }
    names = ("protocol", "ip_version", "source_owner", "destination_owner")
    return ends | {name: records[name] for name in names}


def _socket_ends(sockets: Rows) -> dict[str, NDArray[Any]]:
    """Columns of SOCKET_DTYPE: without a peer both ends are the local one."""
    ends = {
        f"{end}_{name}": sockets[f"local_{name}"]
        for end in ("local", "remote")
        for name in ("address", "port")
    }
    return ends | {name: sockets[name] for name in ("protocol", "ip_version", "owner")}


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
        if isinstance(rows, Mapping) and _ANYWHERE in rows:
            # The IPv6 address that stands for all takes IPv4 as well.
            is_of_family = (rows["ip_version"] == network.version) | (rows["ip_version"] == 6)
            matched |= rows[_ANYWHERE] & is_of_family
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
    return lambda owner: owner.container.id.startswith(value) or owner.container.name == value


def _pod_test(value: str) -> _OwnerTest:
    """By its name, or NAMESPACE/NAME."""
    namespace, separator, name = value.rpartition("/")
    return lambda owner: (
        owner.pod.name == name and (not separator or owner.pod.namespace == namespace)
    )


def _namespace_test(value: str) -> _OwnerTest:
    return lambda owner: owner.pod.namespace == value


def _user_test(value: str) -> _OwnerTest:
    """By uid, or by a name that the host gives: a container may call its users anything."""
    uid = _digits(value)
    return lambda owner: (
        uid == owner.process.uid
        or (value == owner.process.user_name and not owner.process.has_own_users)
    )


def _process_test(value: str) -> _OwnerTest:
    """By name or by pid."""
    pid = _digits(value)
    return lambda owner: value == owner.process.name or pid == owner.process.pid


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
