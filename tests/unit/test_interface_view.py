"""Tests the table of interfaces for people."""

from __future__ import annotations

import io
from dataclasses import replace

from probe.commands.interface_screen import COLUMNS, Rates, _Lines, _rate, cells
from probe.flow.owner import ContainerNames, Pod
from probe.interfaces.interface import Counters, Interface

WEB = Interface(
    7, "veth7", inner_name="eth0", container_id="c" * 64, oper_status=1,
    names=ContainerNames("web", pod=Pod("shop-1", "shop")),
    counters=Counters(in_octets=1000, in_packets=10, out_octets=2000, out_packets=20),
)  # fmt: skip


def test_rates_are_between_two_readings() -> None:
    rates = Rates()
    assert rates.take([WEB], 10.0) == {}
    more = replace(WEB, counters=Counters(1500, 12, out_octets=2000, out_packets=21))
    assert rates.take([more], 12.0) == {7: (250.0, 1.0, 0.0, 0.5)}
    another = replace(more, since_s=99.0)
    assert rates.take([another], 13.0) == {}, "the index has returned for another device"
    assert rates.take([another], 13.0) == {}, "no time has passed"


def test_a_row() -> None:
    assert dict(zip(COLUMNS, cells(WEB, (1e6 / 8, 1.5, 0, 0)), strict=True)) == {
        "index": "7", "interface": "veth7", "inside": "eth0", "container": "shop/shop-1/web",
        "state": "up", "in bit/s": "1M", "in p/s": "1.5", "out bit/s": "0", "out p/s": "0",
        "in": "1 kB", "out": "2 kB",
    }  # fmt: skip
    alone = Interface(1, "lo", alias="loop", container_id="")
    assert cells(alone, None)[2:7] == ("", "loop", "unknown", "", "")
    assert cells(replace(WEB, names=None), None)[3] == "c" * 12


def test_numbers_of_three_digits() -> None:
    assert [_rate(value) for value in (0, 999, 999.6, 1234567, 5e15)] == [
        "0", "999", "1k", "1.23M", "5e+03T",
    ]  # fmt: skip


def test_columns_of_text_are_aligned() -> None:
    out = io.StringIO()
    _Lines(out).show([WEB, Interface(1234, "lo")], {})
    lines = out.getvalue().splitlines()
    assert [
        line.index(word) for line, word in zip(lines, ("interface", "veth7", "lo"), strict=True)
    ] == [7, 7, 7]
    assert lines[1].startswith("    7  veth7")
