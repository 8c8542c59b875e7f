"""Shows interfaces with their containers and their traffic, for ``sockflow interfaces``."""

from __future__ import annotations

import contextlib
import json
import selectors
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TextIO

from probe.enrich.container_owners import ContainerOwners
from probe.flow.label import names_label
from probe.interfaces.interface import Counters, Interface
from probe.interfaces.names import InterfaceList
from probe.interfaces.veth import VethMap, read_default_route
from probe.jsonlines.interface_objects import interface_object
from probe.jsonlines.sink import exporter_address
from probe.owners.docker import DockerNames
from probe.owners.kubernetes import KubernetesSettings
from probe.owners.runtimes import Choice, open_runtimes
from probe.stop import StopSignals
from probe.units import octets
from probe.view.terminal import Drawn, Terminal
from probe.view.text import aligned, write_lines

COLUMNS = ("index", "interface", "inside", "container", "state", "in bit/s", "in p/s", "out bit/s",
           "out p/s", "in", "out")  # fmt: skip
_NUMBERS = set(COLUMNS) - {"interface", "inside", "container", "state"}
_SIDES = "in of a veth: what its container sends"
_STATES = ("", "up", "down", "testing", "unknown", "dormant", "not present", "lower layer down")
_UNITS = ("", "k", "M", "G", "T")
_NAMES_S = 2.0
_POLL_S = 0.05


class Rates:
    """The rates of octets and packets per second, in and out, between two readings."""

    def __init__(self) -> None:
        self._before: dict[tuple[int, float], tuple[float, Counters]] = {}

    def take(self, links: Sequence[Interface], now_s: float) -> dict[int, tuple[float, ...]]:
        """Returns the rates by ifIndex, without interfaces that are new.

        ``now_s`` is the time of a monotonic clock.
        """
        found: dict[int, tuple[float, ...]] = {}
        before, self._before = self._before, {}
        for link in links:
            identity, now = (link.index, link.since_s), link.counters
            self._before[identity] = (now_s, now)
            if identity in before and now_s > before[identity][0]:
                then_s, then = before[identity]
                found[link.index] = tuple(
                    max(0, new - old) / (now_s - then_s)
                    for new, old in (
                        (now.in_octets, then.in_octets), (now.in_packets, then.in_packets),
                        (now.out_octets, then.out_octets), (now.out_packets, then.out_packets),
                    )
                )  # fmt: skip
        return found


def show_interfaces(
    watch: bool,
    as_json: bool,
    interval_s: float,
    choices: Mapping[str, Choice],
    pods: KubernetesSettings,
    duration_s: float | None,
) -> None:
    """Shows interfaces once. With ``watch``, shows them until a signal or for ``duration_s``."""
    with (
        _reading(choices, pods) as interfaces,
        StopSignals() as stop,
        _open_screen(watch, as_json) as out,
    ):
        read_ended = interfaces.table.ended.reader()
        rates, end = Rates(), time.monotonic() + (duration_s or float("inf"))
        if not as_json:
            rates.take(interfaces.table.read(), time.monotonic())
            _wait(stop, interval_s)
        while not stop.received:
            links = interfaces.table.read()
            found = rates.take(links, time.monotonic())
            out.show([*read_ended(), *links] if as_json else links, found)
            if not watch or time.monotonic() + interval_s > end:
                break
            _wait(stop, interval_s)


def cells(link: Interface, rate: tuple[float, ...] | None) -> tuple[str, ...]:
    """Returns the texts of COLUMNS. Without ``rate``, the rates stay empty."""
    container = names_label(link.container_id, link.names)
    in_octets, in_packets, out_octets, out_packets = rate or (None,) * 4
    return (
        str(link.index), link.name, link.inner_name, container or link.alias,
        _STATES[link.oper_status], _bits(in_octets), _rate(in_packets), _bits(out_octets),
        _rate(out_packets), octets(link.counters.in_octets), octets(link.counters.out_octets),
    )  # fmt: skip


class _JsonLines:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._address = exporter_address()

    def show(self, links: Sequence[Interface], rates: dict[int, tuple[float, ...]]) -> None:
        now_s = time.time()
        found = [interface_object(link, now_s, self._address) for link in links]
        write_lines(self._stream, map(json.dumps, found))


class _Lines:
    """An output of aligned columns of text."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, links: Sequence[Interface], rates: dict[int, tuple[float, ...]]) -> None:
        rows = [cells(link, rates.get(link.index)) for link in links]
        write_lines(self._stream, aligned(COLUMNS, rows, _NUMBERS))


class _Live:
    """A live table of the interfaces with the most traffic that fit on the screen."""

    def __init__(self) -> None:
        self._terminal = Terminal()

    def show(self, links: Sequence[Interface], rates: dict[int, tuple[float, ...]]) -> None:
        most = sorted(links, key=lambda link: -sum(rates.get(link.index, (0, 0, 0, 0))[::2]))
        fitting = most[: self._terminal.rows]
        rows = [cells(link, rates.get(link.index)) for link in fitting]
        self._terminal.show_table(Drawn(_SIDES, COLUMNS, rows, _NUMBERS))

    def close(self) -> None:
        self._terminal.close()


@contextlib.contextmanager
def _open_screen(watch: bool, as_json: bool) -> Iterator[_JsonLines | _Lines | _Live]:
    if watch and not as_json and sys.stdout.isatty():
        with contextlib.closing(_Live()) as live:
            yield live
    else:
        yield _JsonLines(sys.stdout) if as_json else _Lines(sys.stdout)


@contextlib.contextmanager
def _reading(choices: Mapping[str, Choice], pods: KubernetesSettings) -> Iterator[InterfaceList]:
    owners = ContainerOwners()
    runtimes = tuple(open_runtimes(choices, pods).values())
    owners.set_runtimes(runtimes)
    veths = VethMap(owners.container_of, read_default_route)
    interfaces = InterfaceList(veths, find_names=owners.find_names)
    try:
        interfaces.refresh()
        if any(not isinstance(one, DockerNames) or one.is_there() for one in runtimes):
            _await_names(interfaces)
        yield interfaces
    finally:
        interfaces.close()
        for runtime in runtimes:
            runtime.close()


def _await_names(interfaces: InterfaceList) -> None:
    """Waits until all present containers have names, which threads have just begun to read."""
    deadline = time.monotonic() + _NAMES_S
    while time.monotonic() < deadline:
        if all(link.names for link in interfaces.table.read() if link.container_id):
            return
        time.sleep(_POLL_S)


def _wait(stop: StopSignals, seconds: float) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(stop, selectors.EVENT_READ)
        selector.select(seconds)


def _bits(octets_a_second: float | None) -> str:
    return "" if octets_a_second is None else _rate(8 * octets_a_second)


def _rate(value: float | None) -> str:
    """Returns a rate with a decimal unit, such as '1.23M' for 1234567."""
    if value is None:
        return ""
    unit = 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g}{_UNITS[unit]}" if unit or value % 1 else f"{value:.0f}"
