"""Tests Templates in the Collecting Process: withdrawals, broken messages, floods and bounds."""

from __future__ import annotations

import resource
import struct
import time
from pathlib import Path

import pytest

from probe.ipfix.decode import MAX_DOMAINS, CollectingProcess
from probe.ipfix.waiting import MOST_OCTETS
from probe.mapping import load_elements
from tests.support.ipfix.messages import message, options_template, template

OCTETS, PACKETS = (1, 8), (2, 8)


def resident() -> int:
    """Returns the resident memory of this process in octets."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.fixture
def collector() -> CollectingProcess:
    """Returns a collector that knows some Templates.

    A stream has Templates 256 and 257 and Options Template 300, a UDP peer has 256.
    """
    found = CollectingProcess(load_elements())
    known = (2, template(256, OCTETS) + template(257, PACKETS))
    options = (3, options_template(300, 1, (149, 4), (41, 8)))
    found.decode(message(known, options), "stream", is_reliable=True)
    found.decode(message(known), "udp")
    return found


def is_known(collector: CollectingProcess, number: int, peer: str = "stream") -> bool:
    before = collector.statistics.unknown_sets
    body = bytes(12 if number == 300 else 8)
    collector.decode(message((number, body)), peer, is_reliable=peer == "stream")
    return collector.statistics.unknown_sets == before


def test_one_template_is_withdrawn(collector: CollectingProcess) -> None:
    collector.decode(message((2, template(256))), "stream", is_reliable=True)
    assert [is_known(collector, number) for number in (256, 257, 300)] == [False, True, True]
    assert collector.statistics.template_errors == 0


@pytest.mark.parametrize(("set_id", "left"), [(2, [False, False, True]), (3, [True, True, False])])
def test_all_templates_are_withdrawn(
    collector: CollectingProcess, set_id: int, left: list[bool]
) -> None:
    """RFC 7011 section 8.1: the Set withdraws all Templates of its own kind."""
    collector.decode(message((set_id, template(set_id))), "stream", is_reliable=True)
    assert [is_known(collector, number) for number in (256, 257, 300)] == left


def test_withdrawn_and_defined_again_in_one_message(collector: CollectingProcess) -> None:
    sets = (2, template(2) + template(256, PACKETS)), (256, bytes(8))
    records = collector.decode(message(*sets), "stream", is_reliable=True)
    assert records == [{"packetDeltaCount": 0}]
    again = (2, template(2) + template(257, OCTETS) + template(2))
    collector.decode(message(again, sequence=1), "stream", is_reliable=True)
    assert not is_known(collector, 257)
    assert collector.statistics.template_errors == 0


def test_over_udp_withdrawals_are_ignored(collector: CollectingProcess) -> None:
    """RFC 7011 section 8.4: withdrawals over UDP are errors."""
    collector.decode(message((2, template(256) + template(2))), "udp")
    assert is_known(collector, 256, "udp")
    assert collector.statistics.template_errors == 2


@pytest.mark.parametrize(
    "given",
    [(2, template(299)), (3, template(256)), (2, template(300)), (2, template(256, PACKETS))],
)
def test_an_exporter_at_fault_is_counted(
    collector: CollectingProcess, given: tuple[int, bytes]
) -> None:
    """RFC 7011 section 8.1: a withdrawn Template must exist, and one in use must not change."""
    collector.decode(message(given), "stream", is_reliable=True)
    assert collector.statistics.template_errors == 1
    assert is_known(collector, 256)
    assert is_known(collector, 300)


def test_sessions_and_domains_have_their_own_templates(collector: CollectingProcess) -> None:
    assert collector.decode(message((256, bytes(8)), odid=2), "stream", is_reliable=True) == []
    collector.forget("stream")
    assert not is_known(collector, 256)
    assert is_known(collector, 256, "udp")


BROKEN = [(2, template(260, (1, 0))), (4, b""), (2, template(261, OCTETS)[:-2])]


@pytest.mark.parametrize("broken", BROKEN)
def test_the_rest_of_a_broken_message_is_used(
    collector: CollectingProcess, broken: tuple[int, bytes]
) -> None:
    more = (2, template(2) + template(258, OCTETS)), broken, (258, bytes(8))
    decoded = collector.decode_message(message(*more), "stream", is_reliable=True)
    assert decoded.flows == [{"octetDeltaCount": 0}]
    assert len(decoded.losses) == 1
    assert (collector.statistics.errors, collector.statistics.messages) == (1, 3)
    assert [is_known(collector, number) for number in (256, 257, 258)] == [False, False, True]


def test_what_a_broken_message_held_is_not_guessed(collector: CollectingProcess) -> None:
    collector.decode(message((256, bytes(8)), sequence=0), "udp")
    collector.decode(message((256, bytes(8)), (4, b""), sequence=1), "udp")
    collector.decode(message((256, bytes(8)), sequence=9), "udp")
    assert (collector.statistics.lost_records, collector.statistics.errors) == (0, 1)


def test_garbage_pushes_nobody_out(collector: CollectingProcess) -> None:
    for odid in range(5000):
        collector.decode(message((2, b"\1"), (999, bytes(8)), odid=odid), ("192.0.2.9", 1))
    assert is_known(collector, 256)
    assert collector._weight <= 16 << 20


def test_data_before_its_template(collector: CollectingProcess) -> None:
    """Over UDP, data may overtake its Template, and a new collector waits for the next refresh."""
    for sequence in range(3):
        data = message((400, struct.pack("!Q", sequence)), sequence=sequence, odid=9, time_s=1000)
        assert collector.decode(data, "udp") == []
    assert collector.statistics.unknown_sets == 3
    known = (2, template(401, PACKETS) + template(400, OCTETS)), (400, struct.pack("!Q", 3))
    found = collector.decode(message(*known, sequence=3, odid=9, time_s=1060), "udp")
    assert [one["octetDeltaCount"] for one in found] == [0, 1, 2, 3]
    statistics = collector.statistics
    assert (statistics.unknown_sets, statistics.lost_records, statistics.errors) == (0, 0, 0)
    assert collector._weight == sum(one.weight for one in collector._domains.values())


def test_what_waits_is_bounded_and_does_not_wait_for_ever(collector: CollectingProcess) -> None:
    for _ in range(100):
        collector.decode(message((400, bytes(8000)), odid=9, time_s=1000), "udp")
    assert max(one.waiting.weight for one in collector._domains.values()) <= MOST_OCTETS
    known = message((2, template(400, OCTETS)), odid=9, time_s=1000 + 7200)
    assert collector.decode(known, "udp") == []
    assert collector.statistics.unknown_sets == 100
    assert collector.decode(message((400, bytes(8)), odid=9), "stream", is_reliable=True) == []
    assert collector._weight == sum(one.weight for one in collector._domains.values())


TEMPLATE, DATA = (2, template(256, OCTETS)), (256, bytes(8))


@pytest.mark.parametrize("with_data", [False, True])
@pytest.mark.parametrize("from_many", [False, True])
def test_a_flood_takes_its_own_place(with_data: bool, from_many: bool) -> None:
    """A flood of domains from one or many sources does not evict a regular exporter."""
    collector = CollectingProcess(load_elements())
    good = ("192.0.2.1", 4739)
    for sequence in range(2):
        collector.decode(message(TEMPLATE, DATA, sequence=sequence), good)
    for number in range(3 * MAX_DOMAINS):
        peer = (f"198.51.{number >> 8}.{number & 255}" if from_many else "198.51.100.1", 1)
        sets = (TEMPLATE, DATA) if with_data else (TEMPLATE,)
        collector.decode(message(*sets, odid=number), peer)
    assert len(collector.decode(message(DATA, sequence=2), good)) == 1
    assert len(collector._domains) <= MAX_DOMAINS
    assert collector.statistics.evicted_domains > MAX_DOMAINS


def test_of_equals_the_longest_silent_goes_first() -> None:
    collector = CollectingProcess(load_elements())
    for number in range(MAX_DOMAINS + 1):
        collector.decode(message(TEMPLATE, DATA), (f"host {number}", 1))
        if number == 500:
            collector.decode(message(DATA, sequence=1), ("host 0", 1))
    assert collector.decode(message(DATA), ("host 1", 1)) == []
    assert len(collector.decode(message(DATA, sequence=2), ("host 0", 1))) == 1
    assert len(collector.decode(message(DATA), (f"host {MAX_DOMAINS}", 1))) == 1


def test_senders_of_garbage_cannot_fill_memory(collector: CollectingProcess) -> None:
    for number in range(256, 3000):
        collector.decode(message((2, template(number, OCTETS))), "other")
    assert max(len(domain.templates) for domain in collector._domains.values()) == 1024
    wide = [(3, 4, 64000 + number) for number in range(8000)]
    messages = [message((2, template(number, *wide))) for number in range(256, 261)]
    before = resident()
    for source in range(100):
        for octets in messages:
            collector.decode(octets, (f"host {source}", 1))
    used = resident() - before
    domains = collector._domains.values()
    assert max(domain.field_count for domain in domains) == 32000, "the last of five was refused"
    assert collector._weight == sum(domain.weight for domain in domains) <= 16 << 20
    assert used < 60 << 20
    assert collector.statistics.template_errors > 0


def test_readers_are_bounded_too(collector: CollectingProcess) -> None:
    """Readers exist for Templates in use.

    Each field of one costs the sender of a flood at least one octet.
    """
    names = [(1, 1, 64000 + number) for number in range(7000)]
    before = resident()
    for source in range(20):
        known = message((2, template(256, *names)), (256, bytes(7000)))
        assert len(collector.decode(known, (f"host {source}", 1))) == 1
    used = resident() - before
    assert collector._readers._fields <= 1 << 15
    assert used < 60 << 20


def test_no_message_takes_long() -> None:
    """No message takes long to decode.

    Naive code would need time in proportion to the product of two of its numbers.
    """
    collector = CollectingProcess(load_elements())
    for number in range(256, 1280):
        fields = [(1, 8, 64000)] * 31
        collector.decode(message((2, template(number, *fields))), "peer", is_reliable=True)
    types = options_template(2000, 2, (346, 4), (303, 2), (339, 1))
    collector.decode(message((2, template(1279)), (3, types)), "peer", is_reliable=True)
    described = [(2000, bytes((0, 0, 250, 0, 0, 1, 1 + n % 2))) for n in range(5000)]
    started = time.process_time()
    collector.decode(message(*described), "peer", is_reliable=True)
    collector.decode(message((3, template(3) * 16000)), "peer", is_reliable=True)
    collector.decode(message((2, template(256) * 16000)), "peer", is_reliable=True)
    assert time.process_time() - started < 2
    assert collector.statistics.errors == 0
