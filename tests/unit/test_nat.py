"""Tests which records a translation concerns and what it costs.

A dictionary is the kernel's table.
"""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from probe.enrich.nat import Nat
from probe.flow.columns import RECORD_DTYPE, ROW_DTYPE
from probe.flow.rows import Rows
from probe.netlink.conntrack import Conntrack, Entries, Tuples
from tests.unit.test_conntrack import tuples

TCP, UDP, SCTP = 6, 17, 132
HOST = 77
Tuple = tuple[str, int, str, int, int]

#: A client behind masquerading: its packets leave with the host's address.
CLIENT: Tuple = ("10.0.0.2", 5000, "192.0.2.1", 443, TCP)
CLIENT_REPLY: Tuple = ("192.0.2.1", 443, "198.51.100.9", 61000, TCP)
#: A server behind a published port.
SERVED: Tuple = ("192.0.2.1", 6000, "198.51.100.9", 8080, TCP)
SERVED_REPLY: Tuple = ("10.0.0.2", 80, "192.0.2.1", 6000, TCP)


def back(one: Tuple) -> Tuple:
    return (one[2], one[3], one[0], one[1], one[4])


class FakeConntrack(Conntrack):
    """A table of ``connections`` ORIG -> REPLY, found by both tuples as in the kernel."""

    def __init__(self, *connections: tuple[Tuple, Tuple], cost_ns: int = 0) -> None:
        super().__init__()
        self.loaded = True
        self.error = 0
        self.asked: list[Tuples] = []
        self.cpu_ns = 0
        self.cost_ns = cost_ns
        self._table: dict[object, tuple[Tuples, Tuples]] = {}
        for pair in connections:
            both = tuples(*pair)
            for one in both:
                self._table[one.item()] = (both[0], both[1])

    def open(self) -> bool:
        return self.loaded

    def read_count(self) -> int:
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        return len(self._table) // 2

    def look_up(self, tuples: Tuples) -> Entries:
        self.asked.append(tuples)
        self.cpu_ns += self.cost_ns * len(tuples)
        entries = Entries.none(len(tuples))
        for at, one in enumerate(tuples):
            if (found := self._table.get(one.item())) is not None:
                entries.found[at] = True
                entries.original[at], entries.reply[at] = found
        return entries


def records(*wanted: Tuple, flows: tuple[int, ...] = ()) -> Rows:
    made: Rows = np.zeros(len(wanted), RECORD_DTYPE)
    found = tuples(*wanted)
    for side in ("source", "destination"):
        octets = np.ascontiguousarray(found[side]).view(np.uint8).reshape(-1, 4)
        made[f"{side}_address"][:, :4] = octets
        made[f"{side}_port"] = found[f"{side}_port"]
    made["protocol"], made["ip_version"] = found["protocol"], 4
    made["flow_id"] = flows or range(1, len(wanted) + 1)
    return made


def after(record: np.void) -> Tuple | None:
    """Returns the translated tuple.

    Without a translation it returns None and checks that nothing is filled in.
    """
    addresses = [bytes(record[f"nat_{side}_address"]) for side in ("source", "destination")]
    ports = [int(record[f"nat_{side}_port"]) for side in ("source", "destination")]
    if not record["translated"]:
        assert not any([*addresses[0], *addresses[1], *ports])
        return None
    shown = [".".join(map(str, address)) for address in addresses]
    return shown[0], ports[0], shown[1], ports[1], int(record["protocol"])


def applied(conntrack: FakeConntrack, given: Rows, host_netns: int = HOST) -> list[Tuple | None]:
    Nat(host_netns, conntrack).apply(given)
    return [after(record) for record in given]


@pytest.mark.parametrize(
    ("connection", "seen", "wanted"),
    [
        ((CLIENT, CLIENT_REPLY), CLIENT, back(CLIENT_REPLY)),
        ((SERVED, SERVED_REPLY), SERVED_REPLY, back(SERVED)),
        ((SERVED, SERVED_REPLY), SERVED, back(SERVED_REPLY)),
        ((CLIENT, CLIENT_REPLY), back(CLIENT), None),
        ((SERVED, SERVED_REPLY), back(SERVED_REPLY), None),
        ((CLIENT, back(CLIENT)), CLIENT, None),
        ((CLIENT, CLIENT_REPLY), (*CLIENT[:4], UDP), None),
        ((CLIENT, CLIENT_REPLY), ("10.0.0.2", 5001, *CLIENT[2:]), None),
    ],
    ids=["masqueraded", "answer of a published server", "client of a published server",
         "answer to a masqueraded client", "request as a published server sees it",
         "tracked and not translated", "another protocol", "another port"],
)  # fmt: skip
def test_one_record(connection: tuple[Tuple, Tuple], seen: Tuple, wanted: Tuple | None) -> None:
    assert applied(FakeConntrack(connection), records(seen)) == [wanted]


def test_both_directions_by_one_look_up() -> None:
    """Both ends are local: one record has the client's view, the other the server's."""
    conntrack = FakeConntrack((SERVED, SERVED_REPLY))
    given = records(SERVED, SERVED_REPLY, flows=(9, 9))
    assert applied(conntrack, given) == [back(SERVED_REPLY), back(SERVED)]
    assert [len(asked) for asked in conntrack.asked] == [1]


def test_the_other_direction_is_looked_up_if_the_first_is_unknown() -> None:
    """The table lacks the request as the server sees it, but has the answer."""
    conntrack = FakeConntrack((SERVED, SERVED_REPLY))
    given = records(back(SERVED_REPLY), SERVED_REPLY, flows=(9, 9))
    assert applied(conntrack, given) == [None, back(SERVED)]
    assert [len(asked) for asked in conntrack.asked] == [1, 1]


def test_what_comes_back_to_a_masqueraded_client_is_not_looked_up() -> None:
    """The entry of the request shows that the answer's addresses are already translated."""
    conntrack = FakeConntrack((CLIENT, CLIENT_REPLY))
    given = records(CLIENT, back(CLIENT), flows=(9, 9))
    assert applied(conntrack, given) == [back(CLIENT_REPLY), None]
    assert [len(asked) for asked in conntrack.asked] == [1]


def test_two_translations_on_one_way() -> None:
    """The server's socket sees addresses that were translated twice.

    Its answer has its own entry.
    """
    conntrack = FakeConntrack((CLIENT, CLIENT_REPLY), (SERVED, SERVED_REPLY))
    given = records(CLIENT, SERVED_REPLY, flows=(9, 9))
    assert applied(conntrack, given) == [back(CLIENT_REPLY), back(SERVED)]
    assert [len(asked) for asked in conntrack.asked] == [1, 1]


def test_many_flows_keep_their_own_translation() -> None:
    seen = [(f"10.0.{n // 250}.{n % 250}", 1000 + n, "192.0.2.1", 443, UDP) for n in range(500)]
    replies = [("192.0.2.1", 443, "198.51.100.9", 20000 + n, UDP) for n in range(500)]
    conntrack = FakeConntrack(*zip(seen[::2], replies[::2], strict=True))
    given = records(*seen, *map(back, seen), flows=(*range(500), *range(500)))
    wanted = [None if n % 2 else back(replies[n]) for n in range(500)]
    assert applied(conntrack, given) == wanted + [None] * 500


def test_only_tcp_and_udp_over_ipv4_is_asked_for() -> None:
    given = records(CLIENT, (*CLIENT[:4], SCTP))
    given["ip_version"][0] = 6
    conntrack = FakeConntrack((CLIENT, CLIENT_REPLY))
    assert applied(conntrack, given) == [None, None]
    assert not conntrack.asked


@pytest.mark.parametrize(("source_netns", "known"), [(HOST, True), (HOST + 1, False)])
def test_loopback_elsewhere_is_not_ours(source_netns: int, known: bool) -> None:
    """Every namespace has 127.0.0.1 with the same ports."""
    local: Tuple = ("127.0.0.1", 5000, "127.0.0.1", 30000, TCP)
    reply: Tuple = ("10.0.0.2", 80, "10.0.0.1", 5000, TCP)
    given = records(local)
    given["source_netns"] = source_netns
    found = applied(FakeConntrack((local, reply)), given)
    assert found == [back(reply) if known else None]


def test_part_of_a_larger_array_is_filled_in_place() -> None:
    given = records(CLIENT, CLIENT, CLIENT, flows=(1, 2, 3))
    Nat(HOST, FakeConntrack((CLIENT, CLIENT_REPLY))).apply(given[1:2])
    assert given["translated"].tolist() == [0, 1, 0]


def test_nothing_tracked_nothing_asked() -> None:
    conntrack = FakeConntrack()
    assert applied(conntrack, records(CLIENT)) == [None]
    assert not conntrack.asked


def test_not_loaded_now_but_later() -> None:
    conntrack = FakeConntrack((CLIENT, CLIENT_REPLY))
    conntrack.loaded = False
    nat, given = Nat(HOST, conntrack), records(CLIENT)
    nat.apply(given)
    assert after(given[0]) is None
    conntrack.loaded = True
    nat.apply(given)
    assert after(given[0]) == back(CLIENT_REPLY)


def test_not_allowed_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    conntrack = FakeConntrack((CLIENT, CLIENT_REPLY))
    conntrack.error = errno.EPERM
    nat, given = Nat(HOST, conntrack), records(CLIENT)
    with caplog.at_level("INFO"):
        nat.apply(given)
        conntrack.error = 0
        nat.apply(given)
    assert after(given[0]) is None
    assert [r.levelname for r in caplog.records] == ["INFO"]
    assert "Operation not permitted" in caplog.text


def test_bad_luck_is_counted_and_warned_of_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    conntrack = FakeConntrack((CLIENT, CLIENT_REPLY))
    conntrack.error = errno.ENOBUFS
    now = [0]
    nat, given = Nat(HOST, conntrack, monotonic_ns=lambda: now[0]), records(CLIENT)
    for now[0] in (0, 10**9, 61 * 10**9):
        nat.apply(given)
    assert nat.statistics.errors == 3
    assert len(caplog.records) == 2
    conntrack.error = 0
    nat.apply(given)
    assert after(given[0]) == back(CLIENT_REPLY)


def test_no_more_than_one_per_cent_of_a_core(caplog: pytest.LogCaptureFixture) -> None:
    """Look-ups are bounded to 2000 a second, plus what was saved up.

    Ten thousand records a second would take 5 us each.
    """
    seen = [("10.0.0.2", port, "192.0.2.1", 443, UDP) for port in range(10_000)]
    given = records(*seen)
    given["octets"] = np.random.default_rng(3).permutation(10_000)
    largest = set(np.argsort(given["octets"])[-1000:].tolist())
    conntrack = FakeConntrack((CLIENT, CLIENT_REPLY), cost_ns=5000)
    now = [0]
    nat = Nat(HOST, conntrack, monotonic_ns=lambda: now[0], thread_ns=lambda: conntrack.cpu_ns)
    for second in range(100):
        now[0] = second * 10**9
        conntrack.asked.clear()
        nat.apply(given)
    assert sum(map(len, conntrack.asked)) == pytest.approx(2000, rel=0.01)
    asked = {int(one["source_port"]) for asked in conntrack.asked for one in asked}
    assert largest <= asked
    assert conntrack.cpu_ns <= 0.01 * now[0] + 51e6
    counted = nat.statistics
    assert counted.looked_up + counted.skipped == 100 * 10_000
    assert len([r for r in caplog.records if "more than could be looked up" in r.message]) == 2


def test_a_stall_of_the_machine_does_not_end_translation() -> None:
    """The thread's clock also counts time in which others had the core."""
    conntrack = FakeConntrack((CLIENT, CLIENT_REPLY), cost_ns=4000)
    now = [0]
    nat = Nat(HOST, conntrack, monotonic_ns=lambda: now[0], thread_ns=lambda: conntrack.cpu_ns)
    many = records(*(CLIENT for _ in range(500)), flows=(*range(500),))
    for now[0] in range(0, 10**9, 10**8):
        conntrack.cost_ns = 4000 if now[0] else 1_000_000
        nat.apply(many)
    assert (nat.statistics.looked_up, nat.statistics.skipped) == (5000, 0)


def test_look_ups_that_have_become_slow_are_fewer() -> None:
    conntrack = FakeConntrack((CLIENT, CLIENT_REPLY), cost_ns=4000)
    now = [0]
    nat = Nat(HOST, conntrack, monotonic_ns=lambda: now[0], thread_ns=lambda: conntrack.cpu_ns)
    many = records(*(CLIENT for _ in range(500)), flows=(*range(500),))
    for now[0] in range(0, 60 * 10**9, 10**9):
        conntrack.cost_ns = 1_000_000
        nat.apply(many)
        if now[0] == 20 * 10**9:
            conntrack.asked.clear()
            spent_ns = conntrack.cpu_ns
    assert conntrack.cpu_ns - spent_ns <= 0.011 * 40 * 10**9
    assert sum(map(len, conntrack.asked)) > 100


def ends(*wanted: Tuple, **columns: int) -> Rows:
    """Returns rows of flow ends with these tuples; the source is local."""
    made: Rows = np.zeros(len(wanted), ROW_DTYPE)
    found = tuples(*wanted)
    for side, name in (("source", "local"), ("destination", "remote")):
        octets = np.ascontiguousarray(found[side]).view(np.uint8).reshape(-1, 4)
        made[f"{name}_address"][:, :4] = octets
        made[f"{name}_port"] = found[f"{side}_port"]
    made["protocol"], made["ip_version"] = found["protocol"], 4
    for name, value in columns.items():
        made[name] = value
    return made


def udp(one: Tuple | tuple[str, int, str, int]) -> Tuple:
    return (one[0], one[1], one[2], one[3], UDP)


def peers_of(nat: Nat, rows: Rows) -> tuple[list[int], dict[int, Tuple]]:
    asked, found, peers = nat.find_peers(rows, np.arange(len(rows)))
    seen = {
        int(at): (
            ".".join(map(str, peer["local_address"][:4])), int(peer["local_port"]),
            ".".join(map(str, peer["remote_address"][:4])), int(peer["remote_port"]),
            int(peer["protocol"]),
        )
        for at, peer in zip(found, peers, strict=True)
    }  # fmt: skip
    return sorted(asked.tolist()), seen


def test_peers_of_ends_that_are_translated() -> None:
    """Both ends of one connection see the other side of its entry. Other ends see nothing."""
    one = udp(SERVED), udp(SERVED_REPLY)
    plain = udp(("10.0.0.5", 9, "10.0.0.6", 53))
    nat = Nat(HOST, FakeConntrack(one, (plain, back(plain))))
    rows = ends(one[0], one[1], plain, udp(("10.0.0.7", 9, "10.0.0.6", 53)))
    assert peers_of(nat, rows) == ([0, 1, 2, 3], {0: one[1], 1: one[0]})
    assert (nat.statistics.ends_looked_up, nat.statistics.ends_translated) == (4, 2)
    assert nat.statistics.looked_up == 0


def test_peers_are_asked_for_within_half_of_the_time_and_again_later() -> None:
    clock = [0]
    conntrack = FakeConntrack((udp(SERVED), udp(SERVED_REPLY)), cost_ns=4000)
    nat = Nat(HOST, conntrack, lambda: clock[0], lambda: conntrack.cpu_ns)
    rows = ends(*(udp(("10.0.0.2", n, "10.0.0.3", 53)) for n in range(20000)))
    rows[0] = ends(udp(SERVED))[0]
    asked, found = peers_of(nat, rows)
    assert 0 < len(asked) < 10000
    assert 19999 in asked  # ends with the most packets are first
    assert found == {}
    rest = np.delete(rows, asked)
    for _ in range(20):
        clock[0] += 1_000_000_000
        now, found = peers_of(nat, rest)
        rest = np.delete(rest, now)
        if found:
            break
    assert list(found.values()) == [udp(SERVED_REPLY)]


def test_ends_of_another_loopback_are_not_asked_about() -> None:
    one: Tuple = ("127.0.0.1", 5, "127.0.0.2", 6, UDP)
    conntrack = FakeConntrack((one, ("127.0.0.3", 7, "127.0.0.1", 5, UDP)))
    nat = Nat(HOST, conntrack)
    assert peers_of(nat, ends(one, netns=HOST + 1)) == ([0], {})
    assert peers_of(nat, ends(one, netns=HOST))[1].keys() == {0}


@pytest.mark.parametrize("why", ["not loaded", "refused"])
def test_where_nothing_may_be_asked_no_end_waits(why: str) -> None:
    conntrack = FakeConntrack((udp(SERVED), udp(SERVED_REPLY)))
    conntrack.loaded = why != "not loaded"
    conntrack.error = errno.EPERM if why == "refused" else 0
    nat = Nat(HOST, conntrack)
    for _ in range(2):
        assert peers_of(nat, ends(udp(SERVED))) == ([0], {})
