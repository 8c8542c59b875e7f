"""The wire format that all Netlink families share: sockets, headers, attributes and errors.

Theory of operation. A request is one message: a header (``struct nlmsghdr``), the header of its
family, and attributes, each of which begins on a multiple of four octets. The kernel answers within
``send``, so an answer waits in the receive buffer before the first ``recv``. One message answers a
plain request. Many messages with NLM_F_MULTI answer a dump; they fill several datagrams, and
NLMSG_DONE ends them. NLMSG_ERROR refuses either kind of request.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator

# include/uapi/linux/netlink.h
HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port
ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type
NUMBER = struct.Struct("=I")
SIGNED = struct.Struct("=i")
F_REQUEST, F_MULTI, F_DUMP_INTERRUPTED, F_DUMP = 0x1, 0x2, 0x10, 0x300
F_CAPPED, F_ACK_TLVS = 0x100, 0x200  # of NLMSG_ERROR: no copy of the request, has attributes
ERROR, DONE = 2, 3
NESTED = 0x8000
_TYPE = 0x3FFF  # of an attribute, without NESTED and NET_BYTEORDER
_ERROR_TEXT = 1  # NLMSGERR_ATTR_MSG

SOL_NETLINK = 270
ADD_MEMBERSHIP, LISTEN_ALL_NSID, CAP_ACK, EXT_ACK, GET_STRICT_CHK = 1, 8, 10, 11, 12
_SO_RCVBUFFORCE = 33
_RECEIVE_OCTETS = 65536

#: Type, flags and sequence number of a message; where its header begins and where it ends.
Message = tuple[int, int, int, int, int]


def open_socket(protocol: int) -> socket.socket:
    """Returns a socket of a Netlink family, which explains errors in words where the kernel can.

    Raises OSError where the kernel does not have the family.
    """
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    try:
        opened.bind((0, 0))
        opened.setsockopt(SOL_NETLINK, CAP_ACK, 1)
        with contextlib.suppress(OSError):  # Linux 4.12
            opened.setsockopt(SOL_NETLINK, EXT_ACK, 1)
    except OSError:
        opened.close()
        raise
    return opened


def enlarge_buffer(receiver: socket.socket, octets: int) -> None:
    """Makes room for events that wait. Without CAP_NET_ADMIN the host's limit bounds it."""
    try:
        receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, octets)
    except OSError:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, octets)


def encode_message(kind: int, flags: int, number: int, body: bytes) -> bytes:
    """Returns a request: a header before ``body``."""
    return HEADER.pack(HEADER.size + len(body), kind, flags | F_REQUEST, number, 0) + body


def messages(datagram: bytes) -> Iterator[Message]:
    """Yields the messages of one datagram; what is cut off or damaged ends them."""
    start, whole = 0, len(datagram)
    while start + HEADER.size <= whole:
        size, kind, flags, number, _ = HEADER.unpack_from(datagram, start)
        if not HEADER.size <= size <= whole - start:
            return
        yield kind, flags, number, start, start + size
        start += (size + 3) & ~3


def attributes(octets: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields (type, where the value begins, where it ends) of the attributes between two places."""
    while at + ATTRIBUTE.size <= end:
        size, kind = ATTRIBUTE.unpack_from(octets, at)
        if not ATTRIBUTE.size <= size <= end - at:
            return
        yield kind & _TYPE, at + ATTRIBUTE.size, at + size
        at += (size + 3) & ~3


class Reply:
    """The messages that answer request ``number``; iterate once.

    Raises OSError where the kernel refuses the request, with its own words where it has any.
    is_interrupted: the table changed during the dump, so the dump may lack entries.
    """

    def __init__(self, source: socket.socket, number: int) -> None:
        self.is_interrupted = False
        self._source = source
        self._number = number

    def __iter__(self) -> Iterator[tuple[int, bytes, int, int]]:
        """Yields (type, datagram, where the header begins in it, where the message ends)."""
        while True:
            datagram = self._source.recv(_RECEIVE_OCTETS)
            for kind, flags, number, start, end in messages(datagram):
                if number != self._number:
                    continue
                if flags & F_DUMP_INTERRUPTED:
                    self.is_interrupted = True
                if kind in (DONE, ERROR):
                    raise_error(datagram, flags, start, end)
                    return
                yield kind, datagram, start, end
                if not flags & F_MULTI:
                    return


def raise_error(datagram: bytes, flags: int, start: int, end: int) -> None:
    """Raises the OSError that NLMSG_ERROR or NLMSG_DONE carries, nothing where that is 0."""
    at = start + HEADER.size
    code = -SIGNED.unpack_from(datagram, at)[0] if at + SIGNED.size <= end else 0
    if code <= 0:
        return
    kind = HEADER.unpack_from(datagram, start)[1]
    at += SIGNED.size
    if kind == ERROR and at + HEADER.size <= end:  # the request, or only its header
        at += HEADER.size if flags & F_CAPPED else (HEADER.unpack_from(datagram, at)[0] + 3) & ~3
    text = _find_text(datagram, at, end) if flags & F_ACK_TLVS else ""
    raise OSError(code, f"{os.strerror(code)} ({text})" if text else os.strerror(code))


def _find_text(datagram: bytes, at: int, end: int) -> str:
    for kind, begin, stop in attributes(datagram, at, end):
        if kind == _ERROR_TEXT:
            return datagram[begin:stop].rstrip(b"\0").decode("utf-8", "replace")
    return ""
