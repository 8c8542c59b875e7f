"""The loop that drives the probe, in whichever thread it is called.

Two phases share it. While metering, every tick reads the collector, and records that are due go to
all destinations. Then, after a stop or the set duration, the rest is exported and sent.
"""

from __future__ import annotations

import contextlib
import logging
import select
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from probe.errors import MeteringError, SockflowError
from probe.guard import Guard, Part, error_text
from probe.prometheus.durations import Durations

if TYPE_CHECKING:
    from probe.run.exporter import Exporter
    from probe.run.shown import Shown

_log = logging.getLogger(__name__)

_REFRESH_S = 1.0
_PATIENCE_S, _LOOK_S = 1.0, 0.02
_FLUSH_S = 15.0  # a full cache of the default size takes ten at the default pace


class Stop(Protocol):
    """What ends metering: signals, or another thread."""

    received: bool

    def fileno(self) -> int:
        """Readable when there may be news."""

    def drain(self) -> None:
        """Take what made it readable."""


class Readable(Protocol):
    """What has a descriptor to wait for."""

    def fileno(self) -> int: ...


#: What to wait for, the part that it belongs to (None: metering), what to do when it is readable.
Watched = tuple[Readable, Part | None, Callable[[], object]]


class Metered(Protocol):
    """What the loop needs of a probe."""

    @property
    def guard(self) -> Guard: ...
    @property
    def exporter(self) -> Exporter: ...
    @property
    def source(self) -> Readable: ...
    @property
    def tick_delays(self) -> Durations: ...
    @property
    def has_purpose(self) -> bool: ...

    def watched(self) -> Iterator[Watched]: ...
    def refresh_interfaces(self, now: float) -> float: ...
    def interval_s(self) -> float: ...
    def tick(self) -> None: ...
    def read_last(self) -> None: ...
    def finish(self) -> Iterator[int]: ...


class Loop:
    """Ticks, sockets and the screen by time and readiness, in one thread."""

    def __init__(self, probe: Metered, stop: Stop, shown: Shown | None = None) -> None:
        self._probe = probe
        self._stop = stop
        self._shown = shown
        # what to do when one is readable
        self._actions: dict[int, tuple[Part | None, Callable[[], object]]] = {}
        self._view = probe.guard.part("the live view", passing=(BrokenPipeError,))
        self._pump_at: float | None = None
        self._failure: Exception | None = None  # what ended metering

    def run(self, duration_s: float | None) -> None:
        """Meter until ``stop`` or for ``duration_s``, then export what is left.

        MeteringError: it ended before, and what there was is exported.
        """
        for _ in self.steps(duration_s):
            pass

    def steps(self, duration_s: float | None) -> Iterator[None]:
        """The same for those who look between: after each tick, and after each lot of the rest."""
        started = time.monotonic()
        end = float("inf") if duration_s is None else started + duration_s
        with select.epoll() as self._epoll:
            self._watch_all()
            collector = self._probe.source.fileno()
            try:
                yield from self._meter(end)
                # what would come after the last snapshot would only be counted, or never end
                self._unwatch(collector)
                self._probe.read_last()
            except BrokenPipeError:  # the reader of our output is gone
                raise
            except Exception as error:  # of what metering cannot do without
                self._failure = error
                self._unwatch(collector)
            yield from self._finish()
        if self._failure:
            _log.debug("metering", exc_info=self._failure)
            raise _ended_by(self._failure) from self._failure

    def _finish(self) -> Iterator[None]:
        """Give out what was metered, also where metering broke."""
        self._unwatch(self._stop.fileno())  # one that was asked for may stay readable for good
        deadline = time.monotonic() + _FLUSH_S
        rest = self._probe.finish()
        while True:
            try:
                if next(rest, None) is None:
                    self._await_arrival(deadline)
                    return
                self._deliver(deadline)
            except Exception as error:
                self._failure = self._failure or error
                self._probe.exporter.finish(time.time())
                return
            yield

    def _watch_all(self) -> None:
        self._watch(self._stop, None, self._stop.drain)
        for watched in self._probe.watched():
            self._watch(*watched)
        if self._shown:
            self._watch(self._shown.source, self._view, self._shown.read)

    def _watch(self, source: Readable, part: Part | None, action: Callable[[], object]) -> None:
        self._epoll.register(source.fileno(), select.EPOLLIN)
        self._actions[source.fileno()] = part, action

    def _unwatch(self, descriptor: int) -> None:
        if self._actions.pop(descriptor, None):
            with contextlib.suppress(OSError):  # closed by who had it, so it is watched no more
                self._epoll.unregister(descriptor)

    def _serve(self, descriptor: int) -> None:
        """Do what a readable one asks for; one of a part that is off is looked at no more."""
        part, action = self._actions[descriptor]
        if part is None:
            action()
            return
        part.call(action)
        if part.error:
            self._unwatch(descriptor)

    def _meter(self, end: float) -> Iterator[None]:
        tick_at = refresh_at = time.monotonic()
        while not self._stop.received and (now := time.monotonic()) < end:
            self._check_purpose()
            if now >= tick_at:
                self._probe.tick_delays.observe(now - tick_at)
                self._probe.tick()
                yield
                tick_at = max(tick_at + self._probe.interval_s(), time.monotonic())
            retry_at = self._probe.refresh_interfaces(now)
            if self._shown and now >= refresh_at:
                self._view.call(self._shown.refresh)
                refresh_at = now + _REFRESH_S
            self._wait(min(tick_at, end, retry_at, refresh_at if self._shown else end))

    def _check_purpose(self) -> None:
        if self._view.error or not self._probe.has_purpose:
            raise MeteringError("nothing is left that takes flows; the errors above say why")

    def _deliver(self, deadline: float) -> None:
        """Until nothing waits that can be sent; our own collector reads on meanwhile."""
        while (now := time.monotonic()) < deadline:
            self._wait(now)
            if self._pump_at is None or not self._probe.exporter.backlog:
                break
            self._wait(min(self._pump_at, deadline))
        while self._shown and self._view.call(self._shown.read):
            pass

    def _await_arrival(self, deadline: float) -> None:
        """Until what TCP collectors were sent has arrived, and those that are away have come back
        for what was kept. Others wait for nobody: all that they can be sent has left."""
        exporter, patient_until = self._probe.exporter, time.monotonic() + _PATIENCE_S
        while (now := time.monotonic()) < deadline and (late := exporter.unfinished):
            if now >= patient_until:
                patient_until = deadline
                names = ", ".join(outlet.name for outlet in late)
                left_s = deadline - now
                _log.warning("%s: waiting up to %.0f s for what has not arrived", names, left_s)
            self._wait(min(now + _LOOK_S, deadline))

    def _wait(self, until: float) -> None:
        """Serve what is ready until ``until`` or the first event; send what the pace allows."""
        # A pace makes this the busiest place of all: nothing but what a burst needs.
        pump, poll, clock = self._probe.exporter.pump, self._epoll.poll, time.monotonic
        now = clock()
        while True:
            due = self._pump_at = pump(now)
            wake_at = until if due is None or until < due else due
            ready = poll(max(0.0, wake_at - clock()))
            if ready or (now := clock()) >= until:
                break
        for descriptor, _ in ready:
            self._serve(descriptor)


def _ended_by(error: Exception) -> MeteringError:
    if isinstance(error, MeteringError):
        return error
    said = str(error) if isinstance(error, SockflowError) else error_text(error)
    return MeteringError(
        f"metering ended by an error ({said}); what was metered before was given to the "
        "destinations. Start sockflow again; -vv shows where it happened"
    )
