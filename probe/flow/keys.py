"""Flow Keys as words. A hash of them finds an end, and then the whole words are compared.

Packets are of one flow if the whole Flow Key is the same (RFC 7011, section 2). What an address
means depends on where it is used. So the network namespace is a part of the key, and the interface
for link-local addresses and limited broadcast. ::

    word 0          namespace << 4 | is TCP << 3 | IP version
    words 1, 2      local address
    words 3, 4      remote address
    word 5          local port << 48 | remote port << 32 | interface

What stays inside of a namespace is on its loopback interface, whose index is 1 everywhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from probe.flow.codes import Mark
from probe.flow.key_index import U64, secret
from probe.flow.rows import Rows

Flags = NDArray[np.bool_]
#: One column per end: shape (_WORDS, n).
Words = U64

_LOOPBACK_INDEX = 1  # LOOPBACK_IFINDEX in include/net/flow.h
_WORDS = 6
_NAMESPACE, _LOCAL, _REMOTE, _PORTS = 0, slice(1, 3), slice(3, 5), 5
_HALF, _QUARTER, _NIBBLE = np.uint64(32), np.uint64(16), np.uint64(4)
_TURN, _FOLD = np.uint64(33), np.uint64(29)
_HIGH_PORT, _LOW_PORT = np.uint64(0xFFFF << 48), np.uint64(0xFFFF << 32)
_BELOW_PORTS = np.uint64(2**32 - 1)
_OCTET, _BYTE = np.uint64(0xFF), np.uint64(8)  # the first octet of an address is the lowest
_ONE_SIX = np.frombuffer(bytes(7) + b"\1", "<u8")[0]  # the second half of ::1
_SECRET = secret("hash of a flow key")
_FACTOR = secret("factor of a flow key") | np.uint64(1)
#: Ids of the kernel half have the top bit set (new_id() in bpf). Those of Netlink have neither bit.
_ID_BITS, _ID_OF_WORDS = np.uint64(2**62 - 1), np.uint64(2**62)


def words_of(rows: Rows, side: str) -> U64:
    """Returns the addresses of one side as two words each: shape (n, 2)."""
    words: U64 = np.ascontiguousarray(rows[f"{side}_address"]).view("<u8")
    return words


def is_inside(row: np.void) -> bool:
    """Returns True if the addresses tell that the peer is in the same namespace."""
    rows = np.array([row])
    return bool(_is_inside(_tuple_words(rows), rows["ifindex"])[0])


def end_words(rows: Rows) -> Words:
    """Returns the whole Flow Key of UDP ends.

    Sockets that each get a copy of a datagram to a group (multicast, broadcast) are one end,
    whichever namespaces they are in: the datagram was sent once.
    """
    words = _tuple_words(rows)
    netns = rows["netns"].astype(np.uint64) << _NIBBLE
    link = np.where(_is_on_link(words), rows["ifindex"], 0).astype(np.uint64)
    is_group = (rows["mark"] & np.uint8(Mark.GROUP)) != 0
    if is_group.any():
        netns[is_group], link[is_group] = ~np.uint64(15), 0
    words[_NAMESPACE] |= netns
    words[_PORTS] |= link
    return words


def end_ids(words: Words) -> U64:
    """Returns ids of ends. Two ends may have one by chance, so the words must be compared, too."""
    return (hash_words(words) & _ID_BITS) | _ID_OF_WORDS


def next_ids(ids: U64) -> U64:
    """Returns other ids, for ends whose ids other ends have."""
    return ((ids * _FACTOR + _SECRET) & _ID_BITS) | _ID_OF_WORDS


def join_words(rows: Rows) -> tuple[Words, Words]:
    """Returns the words of ends that are joined by 5-tuple, and those of their peers."""
    own = _tuple_words(rows)
    netns = rows["netns"].astype(np.uint64) << _NIBBLE
    own[_NAMESPACE] |= netns * _is_inside(own, rows["ifindex"])
    return own, mirrored(own)


def mirrored(words: Words) -> Words:
    """Returns the words of the peers."""
    found = words.copy()
    found[_LOCAL], found[_REMOTE] = words[_REMOTE], words[_LOCAL]
    ports = words[_PORTS]
    swapped = ports << _QUARTER & _HIGH_PORT | ports >> _QUARTER & _LOW_PORT
    found[_PORTS] = swapped | ports & _BELOW_PORTS
    return found


def hash_words(words: Words) -> U64:
    """Returns 64 bits of each column, which only who knows the secret can foresee."""
    hashed = np.full(words.shape[1], _SECRET)
    for word in words:
        hashed ^= word
        hashed ^= hashed >> _TURN
        hashed *= _FACTOR
        hashed ^= hashed >> _FOLD
    return hashed


def are_equal(a: Words, b: Words) -> Flags:
    equal: Flags = (a == b).all(axis=0)
    return equal


def _tuple_words(rows: Rows) -> Words:
    """Returns the 5-tuple and the version of IP, without namespace and interface."""
    words = np.empty((_WORDS, len(rows)), np.uint64)
    words[_NAMESPACE] = (rows["protocol"] == 6).astype(np.uint64) << np.uint64(3)
    words[_NAMESPACE] |= rows["ip_version"] & np.uint8(7)
    words[_LOCAL], words[_REMOTE] = words_of(rows, "local").T, words_of(rows, "remote").T
    local, remote = (rows[f"{side}_port"].astype(np.uint64) for side in ("local", "remote"))
    words[_PORTS] = local << np.uint64(48) | remote << _HALF
    return words


def _is_inside(words: Words, interfaces: NDArray[np.uint32]) -> Flags:
    """Returns whose packets neither leave their namespace nor come from outside."""
    inside: Flags = interfaces == _LOOPBACK_INDEX
    four = _is_version_4(words)
    for high, low in (words[_LOCAL], words[_REMOTE]):
        inside |= four & (high & _OCTET == 127)
        inside |= ~four & (high == 0) & (low == _ONE_SIX)
    return inside


def _is_on_link(words: Words) -> Flags:
    """Returns who has an address that is valid on every link.

    These are 169.254/16, 255.255.255.255, fe80::/10 and ff02::/16.
    """
    found = np.zeros(words.shape[1], bool)
    four = _is_version_4(words)
    for high, _ in (words[_LOCAL], words[_REMOTE]):
        first, second = high & _OCTET, high >> _BYTE & _OCTET
        found |= four & ((first == 255) | ((first == 169) & (second == 254)))
        found |= ~four & (first == 0xFE) & (second & np.uint64(0xC0) == 0x80)
        found |= ~four & (first == 0xFF) & (second & np.uint64(0x0F) <= 2)
    return found


def _is_version_4(words: Words) -> Flags:
    is_four: Flags = words[_NAMESPACE] & np.uint64(7) == 4
    return is_four
