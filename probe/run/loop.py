"""Drives the probe, in the thread of its caller.

The loop has two phases. While metering, every tick reads the collector, and gives the records that
are due to all destinations. After a stop or the set duration, it exports and sends the rest.
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
    """The means to end metering: signals, or another thread."""

    received: bool

    def fileno(self) -> int:
        """Returns a descriptor that is readable when ``received`` may have changed."""

    def drain(self) -> None:
        """Reads the descriptor empty."""


class Readable(Protocol):
    """Anything with a descriptor that the loop can wait for."""

    def fileno(self) -> int: ...


#: A source to wait for, its part (None: metering), and the action for when it is readable.
Watched = tuple[Readable, Part | None, Callable[[], object]]


class Metered(Protocol):
    """The methods of a probe that the loop calls."""

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
    """The loop that serves ticks, sockets and the screen, as they are due or readable."""

    def __init__(self, probe: Metered, stop: Stop, shown: Shown | None = None) -> None:
        self._probe = probe
        self._stop = stop
        self._shown = shown
        # the action for each readable descriptor
        self._actions: dict[int, tuple[Part | None, Callable[[], object]]] = {}
        self._view = probe.guard.part("the live view", passing=(BrokenPipeError,))
        self._pump_at: float | None = None
        self._failure: Exception | None = None  # the error that ended metering

    def run(self, duration_s: float | None) -> None:
        """Meters until ``stop`` or for ``duration_s``, then exports the rest.

        Raises MeteringError if an error ends metering. It exports the rest before that.
        """
        for _ in self.steps(duration_s):
            pass

    def steps(self, duration_s: float | None) -> Iterator[None]:
        """Does the same as ``run``, and yields after each tick and after each lot of the rest."""
        started = time.monotonic()
        end = float("inf") if duration_s is None else started + duration_s
        with select.epoll() as self._epoll:
            self._watch_all()
            collector = self._probe.source.fileno()
            try:
                yield from self._meter(end)
                # data after the last snapshot would only be counted, and might never end
                self._unwatch(collector)
                self._probe.read_last()
            except BrokenPipeError:  # the reader of standard output is gone
                raise
            except Exception as error:  # an error in a part that metering needs
                self._failure = error
                self._unwatch(collector)
            yield from self._finish()
        if self._failure:
            _log.debug("metering", exc_info=self._failure)
            raise _ended_by(self._failure) from self._failure

    def _finish(self) -> Iterator[None]:
        """Exports all that was metered, also after an error."""
        self._unwatch(self._stop.fileno())  # after a stop it may stay readable
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
            with contextlib.suppress(OSError):  # its owner closed it, which ended the watch
                self._epoll.unregister(descriptor)

    def _serve(self, descriptor: int) -> None:
        """Runs the action of a readable descriptor, and unwatches it if its part has failed."""
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
        """Sends until nothing is left that can be sent now. The built-in collector reads it."""
        while (now := time.monotonic()) < deadline:
            self._wait(now)
            if self._pump_at is None or not self._probe.exporter.backlog:
                break
            self._wait(min(self._pump_at, deadline))
        while self._shown and self._view.call(self._shown.read):
            pass

    def _await_arrival(self, deadline: float) -> None:
        """Waits until TCP collectors have received everything, at most until ``deadline``.

        Messages that are kept for a collector that is away count, too. Other destinations need no
        wait, since all that can be sent to them has left.
        """
        exporter, patient_until = self._probe.exporter, time.monotonic() + _PATIENCE_S
        while (now := time.monotonic()) < deadline and (late := exporter.unfinished):
            if now >= patient_until:
                patient_until = deadline
                names = ", ".join(outlet.name for outlet in late)
                left_s = deadline - now
                _log.warning("%s: waiting up to %.0f s for what has not arrived", names, left_s)
            self._wait(min(now + _LOOK_S, deadline))

    def _wait(self, until: float) -> None:
        """Sends as the pace allows, until ``until`` or the first ready descriptor; serves that."""
        # With a pace this loop runs most often of all, so it does only what a burst needs.
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
