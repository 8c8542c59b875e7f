"""A thread that hears from the API of a runtime, and goes on after whatever goes wrong there."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

_RETRY_S = 0.5
_LONGEST_RETRY_S = 30.0
_SPREAD = 0.25  # of a pause, so that the probes of many hosts do not come back all at once
#: What broke sooner than that is asked more and more seldom.
_STEADY_S = 10.0
_QUIET_S = 10.0  # between two warnings
_REFUSED = ("Connection refused", "No such file")


class Listener:
    """Inert until ``open``. ``listen`` returns after a silence, and is called again at once; what
    it raises is warned of, and it is called again after a pause.

    ``who``: the API, as people are told; ``is_there``: whether it is worth asking; ``is_near``: one
    that refuses is on this host, and costs nothing to try.
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
        self._has_warned = False  # since it was last heard
        self._is_warned_of = False  # people have seen that
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=who, daemon=True)

    def open(self) -> None:
        self._lost_s = time.monotonic()
        self._thread.start()

    def close(self) -> None:
        """The thread ends by itself; it is not waited for, since it may wait for an answer."""
        self._stop.set()

    @property
    def is_closed(self) -> bool:
        return self._stop.is_set()

    def lost_for_s(self) -> float:
        """Seconds since it was last heard, or opened; 0 while it is."""
        return 0.0 if self.is_live else time.monotonic() - self._lost_s

    def begin(self) -> bool:
        """To be called by ``listen`` when it hears. Whether it did not before."""
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
                except Exception as error:  # what comes from outside may raise anything
                    pause_s = self._fail(error, pause_s)
            self._stop.wait(pause_s * random.uniform(1 - _SPREAD, 1 + _SPREAD))

    def _fail(self, error: Exception, pause_s: float) -> float:
        """The next pause."""
        now = time.monotonic()
        was_steady = self.is_live and now - self._began_s >= _STEADY_S
        if self.is_live:
            self.is_live, self._lost_s = False, now
        self._warn(error, now)
        if was_steady or (self._is_near and any(word in str(error) for word in _REFUSED)):
            return _RETRY_S
        return min(2 * pause_s, _LONGEST_RETRY_S)

    def _warn(self, error: Exception, now: float) -> None:
        if self._has_warned or self.is_closed:  # nobody asks any more
            return
        self._has_warned = True
        if now - self._warned_s >= _QUIET_S:
            self._warned_s, self._is_warned_of = now, True
            log.warning("%s does not tell names: %s", self.who, " ".join(str(error).split())[:200])
