"""A thread that listens to the API of a container runtime, and tries again after any failure."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

_RETRY_S = 0.5
_LONGEST_RETRY_S = 30.0
_SPREAD = 0.25  # a share of each pause, so that many hosts do not reconnect at the same time
#: If a connection lasts for less time, the next pause is longer.
_STEADY_S = 10.0
_QUIET_S = 10.0  # at least, between two warnings
_REFUSED = ("Connection refused", "No such file")


class Listener:
    """Runs ``listen`` in a thread of its own, from ``open`` to ``close``.

    ``listen`` returns after a silence, and is called again at once. If it raises, the listener logs
    a warning and calls it again after a pause.

    ``who`` names the API in messages. ``is_there`` returns False while there is no API to connect
    to. ``is_near`` is True for an API on this host: if it refuses a connection, the pause stays
    short.
    """

    def __init__(
        self,
        who: str,
        listen: Callable[[], None],
        is_there: Callable[[], bool] = lambda: True,
        is_near: bool = False,
    ) -> None:
        self.who = who
        self.is_live = False
        self._listen, self._is_there, self._is_near = listen, is_there, is_near
        self._began_s = self._lost_s = self._warned_s = float("-inf")
        self._has_warned = False  # since the API was last heard
        self._is_warned_of = False  # that warning was logged
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=who, daemon=True)

    def open(self) -> None:
        self._lost_s = time.monotonic()
        self._thread.start()

    def close(self) -> None:
        """Tells the thread to end, and does not wait for it: it may be waiting for an answer."""
        self._stop.set()

    @property
    def is_closed(self) -> bool:
        return self._stop.is_set()

    def lost_for_s(self) -> float:
        """Returns the seconds since the API was last heard, or since ``open``; 0 if it is heard."""
        return 0.0 if self.is_live else time.monotonic() - self._lost_s

    def begin(self) -> bool:
        """Notes that the API is heard, and returns False if it was already; ``listen`` calls it."""
        if self.is_live:
            return False
        self._began_s = time.monotonic()
        if self._is_warned_of:
            log.warning("%s tells names again", self.who)
        self.is_live, self._has_warned, self._is_warned_of = True, False, False
        return True

    def _run(self) -> None:
        pause_s = _RETRY_S
        while not self._stop.is_set():
            if self._is_there():
                try:
                    self._listen()
                    continue
                except Exception as error:  # strange answers can raise anything
                    pause_s = self._fail(error, pause_s)
            self._stop.wait(pause_s * random.uniform(1 - _SPREAD, 1 + _SPREAD))

    def _fail(self, error: Exception, pause_s: float) -> float:
        """Notes a failure, and returns the next pause in seconds."""
        now = time.monotonic()
        was_steady = self.is_live and now - self._began_s >= _STEADY_S
        if self.is_live:
            self.is_live, self._lost_s = False, now
        self._warn(error, now)
        if was_steady or (self._is_near and any(word in str(error) for word in _REFUSED)):
            return _RETRY_S
        return min(2 * pause_s, _LONGEST_RETRY_S)

    def _warn(self, error: Exception, now: float) -> None:
        if self._has_warned or self.is_closed:  # after close, nobody needs the warning
            return
        self._has_warned = True
        if now - self._warned_s >= _QUIET_S:
            self._warned_s, self._is_warned_of = now, True
            log.warning("%s does not tell names: %s", self.who, " ".join(str(error).split())[:200])
