"""Templates in the Collecting Process: withdrawals, whole messages or none of them, bounds."""

from __future__ import annotations

import time

import pytest

from probe.errors import DecodeError
from probe.ipfix.decode import CollectingProcess
from probe.mapping import load_elements
from tests.messages import message, options_template, template

OCTETS, PACKETS = (1, 8), (2, 8)


@pytest.fixture
def collector() -> CollectingProcess:
    """Knows Templates 256 and 257 and Options Template 300 of a stream, 256 of a UDP peer."""
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
    """RFC 7011 section 8.1: of the kind whose Set says so."""
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
    """RFC 7011 section 8.4."""
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
    """RFC 7011 section 8.1: withdrawals of what is not there, other meanings without one."""
    collector.decode(message(given), "stream", is_reliable=True)
    assert collector.statistics.template_errors == 1
    assert is_known(collector, 256)
    assert is_known(collector, 300)


def test_sessions_and_domains_have_their_own_templates(collector: CollectingProcess) -> None:
    assert collector.decode(message((256, bytes(8)), odid=2), "stream", is_reliable=True) == []
    collector.forget("stream")
    assert not is_known(collector, 256)
    assert is_known(collector, 256, "udp")


BROKEN = [(258, bytes(8) + b"\1"), (2, template(260, (1, 0))), (4, b"")]


@pytest.mark.parametrize("broken", BROKEN)
def test_nothing_of_a_broken_message_is_used(
    collector: CollectingProcess, broken: tuple[int, bytes]
) -> None:
    before = collector.statistics.records, collector.statistics.template_records
    good = [(256, bytes(16)), (2, template(2) + template(258, OCTETS)), (258, bytes(8))]
    with pytest.raises(DecodeError):
        collector.decode(message(*good, broken), "stream", is_reliable=True)
    statistics = collector.statistics
    assert (statistics.records, statistics.template_records) == before
    assert (statistics.errors, statistics.messages) == (1, 2)
    assert [is_known(collector, number) for number in (256, 257, 258)] == [True, True, False]


def test_what_a_broken_message_held_is_lost(collector: CollectingProcess) -> None:
    collector.decode(message((256, bytes(8)), sequence=0), "udp")
    with pytest.raises(DecodeError):
        collector.decode(message((256, bytes(8)), BROKEN[2], sequence=1), "udp")
    collector.decode(message((256, bytes(8)), sequence=2), "udp")
    assert (collector.statistics.lost_records, collector.statistics.errors) == (1, 1)


def test_garbage_pushes_nobody_out(collector: CollectingProcess) -> None:
    for odid in range(3000):
        with pytest.raises(DecodeError):
            collector.decode(message((2, b"\1"), odid=odid), "stranger")
    assert is_known(collector, 256)


def test_the_longest_silent_domain_goes_first(collector: CollectingProcess) -> None:
    for odid in range(1022):
        collector.decode(message((2, template(256, OCTETS)), odid=odid), "new")
        if odid == 500:
            assert is_known(collector, 256, "stream")
    collector.decode(message(odid=5000), "new")
    assert is_known(collector, 256, "stream")
    assert not is_known(collector, 256, "udp")


def test_senders_of_garbage_cannot_fill_memory(collector: CollectingProcess) -> None:
    for number in range(256, 3000):
        collector.decode(message((2, template(number, OCTETS))), "other")
    assert max(len(domain.readers) for domain in collector._domains.values()) == 1024
    wide = [(3, 4, 64000 + number) for number in range(8000)]
    for odid in range(12):
        for number in (256, 257, 258, 259, 260):
            collector.decode(message((2, template(number, *wide)), odid=odid), "wide")
    fields = [
        sum(len(reader.template.fields) for reader in domain.readers.values())
        for domain in collector._domains.values()
    ]
    assert max(fields) == 32000, "of five Templates the last was refused"
    assert sum(fields) <= 1 << 18
    assert collector.statistics.template_errors > 0


def test_no_message_takes_long() -> None:
    """Each makes something grow with the product of two of its numbers, if that were done badly."""
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
