"""Tests answers per address: pollers get what they ask for, a flood's victim gets little."""

from __future__ import annotations

from probe.snmp.allowance import Allowance


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def given(allowance: Allowance, address: str, answers: int, octets: int = 60_000) -> int:
    return octets * sum(allowance.take(address, octets, 500) for _ in range(answers))


def test_a_flood_is_bounded_and_others_are_answered() -> None:
    allowance = Allowance(Clock())
    flood = given(allowance, "192.0.2.1", 10_000)
    assert 1_000_000 < flood < 2_000_000
    assert given(allowance, "192.0.2.1", 1) == 0
    assert given(allowance, "192.0.2.2", 1) == 60_000


def test_it_fills_up_again() -> None:
    clock = Clock()
    allowance = Allowance(clock)
    first = given(allowance, "192.0.2.1", 10_000)
    clock.now += 5
    assert 0.4 * first < given(allowance, "192.0.2.1", 10_000) < 0.6 * first
    clock.now += 3600
    assert given(allowance, "192.0.2.1", 10_000) == first


def test_eight_walks_of_a_large_tree_are_never_refused() -> None:
    allowance = Allowance(Clock())
    walk = 43_000 * 30
    assert all(allowance.take("192.0.2.1", walk, 43_000) for _ in range(8))


def test_an_ipv6_host_has_one_allowance_for_all_its_addresses() -> None:
    allowance = Allowance(Clock())
    given(allowance, "2001:db8::1", 10_000)
    assert given(allowance, "2001:db8::ffff:1", 1) == 0
    assert given(allowance, "2001:db8:0:1::1", 1) == 60_000
    assert given(allowance, "fe80::1%eth0", 1) == 60_000
    given(allowance, "::ffff:192.0.2.1", 10_000)
    assert given(allowance, "::ffff:192.0.2.2", 1) == 60_000


def test_a_flood_of_forged_addresses_leaves_bounded_memory() -> None:
    allowance = Allowance(Clock())
    for number in range(10_000):
        allowance.take(f"10.0.{number >> 8}.{number & 255}", 100, 10)
    assert len(allowance._used) <= 4096
