"""Parses rules over addresses, ports, protocols and owners, and matches flows against them.

All terms of a rule must match, as in ``cidr=10.0.0.0/8,port=53``; of a list of rules, one must.
``flow.filter`` applies rules to one flow end at a time. Views apply them to whole flows, which
match if one of their ends does.
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

_ANYWHERE = "is_anywhere"  # the column that marks sockets bound to all addresses
#: Rows of flow ends, or columns with these names: addresses, ports, protocol, ip_version.
Ends = Rows | Mapping[str, NDArray[Any]]
_RowTest = Callable[[Ends], Flags]
_OwnerTest = Callable[[Owner], bool]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, whose tests must all hold. Owner tests run once for each owner of a batch."""

    text: str
    row_tests: tuple[_RowTest, ...]
    owner_tests: tuple[_OwnerTest, ...]

    def may_match(self, rows: Ends) -> Flags:
        """Returns which rows match the rule if their owner may be anyone."""
        matched = np.ones(len(rows["protocol"]), bool)
        for test in self.row_tests:
            matched &= test(rows)
        return matched

    def matches(self, rows: Ends, owners: OwnerTable, ends: Sequence[str] = ("owner",)) -> Flags:
        """Returns which rows match; ``ends`` are columns of owners, one of which has to match."""
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
    """Returns the rule that ``key=value,key=value`` describes, with keys of KEYS.

    Raises ConfigError that names the part that cannot be used.
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
    """Returns rules that match if one value of every key of ``values`` does.

    Returns no rules without any key. Raises ConfigError.
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
    """Chooses what matches an include rule and no exclude rule.

    Without include rules, everything is included.
    """

    def __init__(self, include: Sequence[Rule] = (), exclude: Sequence[Rule] = ()) -> None:
        self._include = tuple(include)
        self._exclude = tuple(exclude)

    def __bool__(self) -> bool:
        """Returns True if there is any rule."""
        return bool(self._include or self._exclude)

    @property
    def asks_for_owners(self) -> bool:
        """Returns True if the owner of an end can change the choice."""
        return any(rule.owner_tests for rule in (*self._include, *self._exclude))

    def may_match(self, rows: Ends) -> Flags:
        """Returns which rows are chosen if their owner may be anyone."""
        kept = np.full(len(rows["protocol"]), not self._include)
        for rule in self._include:
            kept |= rule.may_match(rows)
        for rule in self._exclude:
            if not rule.owner_tests:
                kept &= ~rule.may_match(rows)
        return kept

    def matches(self, rows: Ends, owners: OwnerTable, ends: Sequence[str] = ("owner",)) -> Flags:
        """Returns which rows are chosen, with ``ends`` as in ``Rule.matches``."""
        kept = np.full(len(rows["protocol"]), not self._include)
        for rule in self._include:
            kept |= rule.matches(rows, owners, ends)
        for rule in self._exclude:
            kept &= ~rule.matches(rows, owners, ends)
        return kept

    def matches_sockets(self, sockets: Rows, owners: OwnerTable) -> Flags:
        """Returns which sockets (SOCKET_DTYPE) are chosen.

        ``port`` is the port at which a socket waits, ``cidr`` the address to which it is bound. A
        socket bound to all addresses belongs to every network: an included network keeps it, and
        an excluded network does not drop it.
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
    """Returns columns of RECORD_DTYPE under the names of rules, which treat both ends alike."""
    ends = {
        f"{end}_{name}": records[f"{side}_{name}"]
        for end, side in (("local", "source"), ("remote", "destination"))
        for name in ("address", "port")
    }
    names = ("protocol", "ip_version", "source_owner", "destination_owner")
    return ends | {name: records[name] for name in names}


def _socket_ends(sockets: Rows) -> dict[str, NDArray[Any]]:
    """Returns columns of SOCKET_DTYPE under the names of rules; both ends are the local one."""
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
            # the IPv6 address for all addresses includes those of IPv4
            is_of_family = (rows["ip_version"] == network.version) | (rows["ip_version"] == 6)
            matched |= rows[_ANYWHERE] & is_of_family
        return matched

    return test


def _words(octets: bytes | NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Returns addresses, padded with zeros to 16 octets, as two words each."""
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
    """Matches the beginning of the container id, as docker does, or the whole name."""
    return lambda owner: owner.container.id.startswith(value) or owner.container.name == value


def _pod_test(value: str) -> _OwnerTest:
    """Matches the name of a Pod, or NAMESPACE/NAME."""
    namespace, separator, name = value.rpartition("/")
    return lambda owner: (
        owner.pod.name == name and (not separator or owner.pod.namespace == namespace)
    )


def _namespace_test(value: str) -> _OwnerTest:
    return lambda owner: owner.pod.namespace == value


def _user_test(value: str) -> _OwnerTest:
    """Matches a uid, or a name of the host: a container may give its users any name."""
    uid = _digits(value)
    return lambda owner: (
        uid == owner.process.uid
        or (value == owner.process.user_name and not owner.process.has_own_users)
    )


def _process_test(value: str) -> _OwnerTest:
    """Matches the name or the pid of a process."""
    pid = _digits(value)
    return lambda owner: value == owner.process.name or pid == owner.process.pid


def _digits(value: str) -> int:
    """Returns the number, or -1, which no process has."""
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
