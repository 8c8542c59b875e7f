"""Tests the wire format of Netlink against this kernel and against damaged octets."""

from __future__ import annotations

import errno
import json
import socket
import struct
import subprocess
import sys

import pytest

from probe.netlink import wire
from probe.netlink.rtnetlink import open_route, read_link, read_links, read_nsid

_WHAT_IS_LOADED = """
import json, sys
from probe.netlink.rtnetlink import read_links
assert read_links()
ours = [name for name in sys.modules if name.split(".")[0] in ("pyroute2", "asyncio")]
from pyroute2 import IPRoute
import pyroute2.netlink.rtnl
with IPRoute() as route:
    theirs = {one["index"]: one.get_attr("IFLA_IFNAME") for one in route.get_links()}
print(json.dumps([ours, theirs == {one.index: one.name for one in read_links()}]))
"""


def test_of_pyroute2_only_messages_are_loaded_and_the_whole_package_still_works() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WHAT_IS_LOADED], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [[], True]


def test_the_kernel_says_what_it_dislikes() -> None:
    """Strict checking refuses an unknown attribute of a dump, with the kernel's own words."""
    link = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + struct.pack("=HHI", 8, 13, 1)
    with open_route() as route:
        route.send(wire.encode_message(18, wire.F_DUMP, 7, link))
        with pytest.raises(OSError, match=r"Invalid argument \(.*attribute") as raised:
            list(wire.Reply(route, 7))
    assert raised.value.errno == errno.EINVAL


def test_what_is_not_there() -> None:
    with open_route() as route:
        with pytest.raises(OSError, match="No such device"):
            read_link(route, 2**30)
        with pytest.raises(ProcessLookupError):
            read_nsid(route, 2**30)
        assert read_link(route, 1) == read_links()[0], "the socket still works"


@pytest.mark.parametrize("size", [0, 3, 15, 200, 2**32 - 1])
def test_a_damaged_message_ends_a_datagram(size: int) -> None:
    whole = wire.encode_message(20, 0, 1, bytes(8))
    damaged = struct.pack("=I", size) + whole[4:]
    assert [found[3] for found in wire.messages(whole + damaged)] == [0]
    body = struct.pack("=HH", 8, 1) + bytes(4)
    assert len(list(wire.attributes(body * 2, 0, 16))) == 2
    assert len(list(wire.attributes(body + struct.pack("=HH", size % 65536, 1), 0, 12))) == 1


def test_an_interrupted_dump_is_noticed() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        part = wire.HEADER.pack(20, 16, wire.F_MULTI | wire.F_DUMP_INTERRUPTED, 5, 0) + bytes(4)
        done = wire.HEADER.pack(20, wire.DONE, wire.F_MULTI, 5, 0) + bytes(4)
        theirs.send(part + wire.HEADER.pack(16, 16, 0, 4, 0))  # the second is of another request
        theirs.send(part + done)
        reply = wire.Reply(ours, 5)
        assert len(list(reply)) == 2
    assert reply.is_interrupted
