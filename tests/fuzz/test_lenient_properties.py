"""Tests any octets, and anything like a message: no crash, and no loss without a count.

What is read from them goes on to the views and to JSON, as in ``sockflow collect``.
"""

from __future__ import annotations

import io
import json
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from probe.collector.message_source import collecting_process, summary
from probe.collector.output import to_json
from probe.errors import DecodeError
from probe.ipfix.decode import CollectingProcess
from probe.ipfix.oddity import Oddity
from probe.ipfix.waiting import MOST_OCTETS
from probe.view.flows import FlowTable
from probe.view.screen import print_flows
from tests.support.ipfix.lenient import SAMPLES
from tests.support.ipfix.messages import (
    message,
    options_template,
    options_template9,
    packet,
    template,
)

MORE = settings(deadline=None, max_examples=300)

_lengths = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 65535])
_ids = st.sampled_from([1, 2, 4, 7, 8, 10, 21, 22, 27, 82, 89, 136, 152, 276, 320, 371, 515, 32769])
_field = st.tuples(_ids, _lengths)
_fields = st.lists(_field, max_size=8)
_template_id = st.sampled_from([0, 2, 3, 255, 256, 257, 300])
_tail = st.binary(max_size=9)
_shift = st.integers(-9, 9)


@st.composite
def _announced(draw: st.DrawFn, is_netflow9: bool) -> tuple[int, bytes]:
    """Draws a Set with an (Options) Template and something behind it."""
    number, fields = draw(_template_id), draw(_fields)
    if draw(st.booleans()):
        return (0 if is_netflow9 else 2), template(number, *fields) + draw(_tail)
    scopes = draw(st.integers(0, 3))
    if is_netflow9:
        return 1, options_template9(number, min(scopes, len(fields)), *fields) + draw(_tail)
    return 3, options_template(number, scopes, *fields) + draw(_tail)


@st.composite
def datagrams(draw: st.DrawFn, is_netflow9: bool) -> bytes:
    some_set = st.one_of(
        _announced(is_netflow9),
        st.tuples(st.sampled_from([0, 1, 4, 256, 257, 300]), st.binary(max_size=200)),
    )
    sets = draw(st.lists(some_set, max_size=5))
    if is_netflow9:
        octets = packet(*sets, count=draw(st.integers(0, 9)), uptime_ms=draw(st.integers(0, 9)))
    else:
        octets = message(*sets)
        length = max(0, min(0xFFFF, len(octets) + draw(st.just(0) | _shift)))
        octets = octets[:2] + struct.pack("!H", length) + octets[4:]
    octets += draw(_tail)
    return octets[: len(octets) + min(0, draw(st.just(0) | _shift))]


def consume(process: CollectingProcess, octets: bytes, is_reliable: bool = False) -> None:
    """Reads octets as the collector does, including the screen."""
    flows = FlowTable()
    try:
        decoded = process.decode_message(octets, ("192.0.2.1", 2055), is_reliable)
    except DecodeError:
        return
    for record in (*decoded.flows, *decoded.options):
        json.loads(to_json(record))
    flows.observe(decoded.flows, 0.0)
    print_flows(flows, io.StringIO())


def losses(process: CollectingProcess) -> int:
    return sum(count for kind, count in process.statistics.oddities.items() if kind.is_loss)


def check(process: CollectingProcess) -> None:
    """Checks what holds after any input."""
    domains = process._domains.values()
    assert process._weight == sum(domain.weight for domain in domains)
    for domain in domains:
        fields = [known.announced.field_count for known in domain.templates.values()]
        assert domain.field_count == sum(fields)
        assert domain.waiting.weight <= MOST_OCTETS
        assert all(known.minimum >= 1 for known in domain.templates.values())
    known = {id(one) for domain in domains for one in domain.templates.values()}
    assert {id(one) for one in process._readers._kept} <= known
    assert "records in" in summary(process.statistics, {})


@MORE
@given(st.lists(st.binary(max_size=300), max_size=5), st.booleans())
def test_any_octets(some: list[bytes], is_reliable: bool) -> None:
    process = collecting_process(32473)
    for octets in some:
        consume(process, octets, is_reliable)
    check(process)


@MORE
@given(st.lists(datagrams(False) | datagrams(True), max_size=8), st.booleans())
def test_anything_like_a_message(some: list[bytes], is_reliable: bool) -> None:
    process = collecting_process(32473)
    for octets in some:
        before = losses(process), process.statistics.errors
        consume(process, octets, is_reliable)
        grown = losses(process) - before[0], process.statistics.errors - before[1]
        assert grown[1] == bool(grown[0]) or not grown[0], "an error is a loss, or no message"
    check(process)


@MORE
@given(st.data())
def test_quirks_one_after_another(data: st.DataObject) -> None:
    """Samples come in any order, cut or continued.

    Whole messages are read, whatever came before.
    """
    process = collecting_process(32473)
    for sample in data.draw(st.lists(st.sampled_from(SAMPLES), max_size=6)):
        peer = (f"192.0.2.{data.draw(st.integers(1, 2))}", 2055)
        octets = data.draw(st.sampled_from(sample.datagrams))
        cut = data.draw(st.integers(0, len(octets)))
        try:
            process.decode(octets[:cut], peer)
        except DecodeError:
            continue
    for sample in SAMPLES:
        flows = [one for octets in sample.datagrams for one in process.decode(octets, ("new", 1))]
        assert len(flows) == 2, sample.name
    check(process)


@MORE
@given(_fields, st.binary(max_size=400))
def test_every_octet_is_read_or_told(fields: list[tuple[int, int]], body: bytes) -> None:
    """Whole records of any Template are read; the rest is padding."""
    process = collecting_process(32473)
    decoded = process.decode_message(packet((0, template(256, *fields)), (256, body)), "peer")
    lengths = [length for _, length in fields if length]
    if not lengths:
        assert not decoded.flows
        return
    odd = process.statistics.oddities
    if 65535 not in lengths:
        assert len(decoded.flows) == len(body) // sum(lengths)
        rest = body[len(decoded.flows) * sum(lengths) :]
        told = odd[Oddity.PADDING] + odd[Oddity.SHORT_SET]
        assert told == bool(any(rest))
    names = {name for record in decoded.flows for name in record if "Milliseconds" not in name}
    assert len(names) <= len(lengths)
