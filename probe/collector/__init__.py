"""Reads IPFIX and NetFlow v9 from sockets, connections and files: the built-in collector.

This package does the I/O. The Collecting Process, which decodes messages, is in ``ipfix/``.
"""

from __future__ import annotations

import selectors
import time
from collections import Counter
from collections.abc import Iterable, Sequence

from probe.collector.address import Listen, parse_listen
from probe.collector.connections import CollectorConnections
from probe.collector.datagrams import CollectorSocket
from probe.collector.files import MessageFile
from probe.collector.message_source import MessageSource, collecting_process, summary
from probe.collector.output import JsonLines, Live, Output, Printed, to_json
from probe.ipfix.decode import CollectingProcess
from probe.log import say
from probe.stop import StopSignals

__all__ = ["CollectorSocket", "collect", "parse_listen", "read", "to_json"]

_REFRESH_S = 1.0
_LAST_S = 10.0  # enough to read a full receive buffer of each source at the end


def collect(
    listen: Sequence[str],
    pen: int,
    duration_s: float | None = None,
    as_json: bool = False,
    with_options: bool = False,
) -> None:
    """Shows what arrives until a signal or for ``duration_s``, then writes a summary.

    Raises ConfigError if an address of ``listen`` is wrong or cannot be used.
    """
    process = collecting_process(pen)
    sources: list[MessageSource] = []
    end = time.monotonic() + duration_s if duration_s is not None else float("inf")
    try:
        for text in listen:
            sources.append(_open(parse_listen(text), process))
        output = JsonLines(with_options) if as_json else Live()
        with StopSignals() as stop, selectors.DefaultSelector() as selector:
            selector.register(stop, selectors.EVENT_READ)
            for source in sources:
                selector.register(source, selectors.EVENT_READ)
            _collect_until(end, stop, selector, sources, output)
        losses = sum((Counter(source.losses()) for source in sources), Counter())
    finally:
        for source in sources:
            source.close()
    say(summary(process.statistics, losses))


def read(paths: Sequence[str], pen: int, as_json: bool = False, with_options: bool = False) -> None:
    """Shows the records of files (RFC 5655), then writes a summary.

    Raises ConfigError if one of the files cannot be opened.
    """
    process = collecting_process(pen)
    files = [MessageFile(path) for path in paths]
    for file in files:
        file.check()
    output: Output = JsonLines(with_options) if as_json else Printed()
    try:
        for file in files:
            for decoded in file.read(process):
                output.show(decoded)
    finally:
        output.close()
        say(*(line for file in files for line in file.summary()), summary(process.statistics, {}))


def _open(listen: Listen, process: CollectingProcess) -> MessageSource:
    if listen.is_datagram:
        return CollectorSocket(listen.host, listen.port, process=process)
    return CollectorConnections(listen, process)


def _collect_until(
    end: float,
    stop: StopSignals,
    selector: selectors.BaseSelector,
    sources: Sequence[MessageSource],
    output: Output,
) -> None:
    where = ", ".join(f"{host}:{port}" for host, port in (one.address for one in sources))
    refresh_at = 0.0
    try:
        while not stop.received and (now := time.monotonic()) < end:
            if now >= refresh_at:
                refresh_at = now + _REFRESH_S
                output.refresh(where)
            selector.select(max(0.0, min(refresh_at, end) - now))
            _receive(sources, output)
        deadline = time.monotonic() + _LAST_S
        while _are_readable(sources) and time.monotonic() < deadline:  # was sent in time
            _receive(sources, output)
    finally:
        output.close()


def _are_readable(sources: Iterable[MessageSource]) -> bool:
    with selectors.PollSelector() as selector:  # needs no descriptor, as none may be left
        for source in sources:
            selector.register(source, selectors.EVENT_READ)
        return bool(selector.select(0))


def _receive(sources: Iterable[MessageSource], output: Output) -> None:
    for source in sources:
        output.show(source.receive())
