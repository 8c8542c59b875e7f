"""What one part of the probe raises ends that part and no other.

A ``Part`` is whatever can be done without: a destination, a runtime, an enricher, a poller or a
view. All calls of a part go through its ``call``. What the call raises is logged once. From then
on the part is off and is not called again; the summary and Prometheus tell of it. The rest goes on.

What metering itself cannot do without (the collector, the filter, the cache) is no part: when that
raises, ``probe.run.loop`` stops metering, flushes what there is, and ends with the error.

A MemoryError is an error like any other: whose call it strikes, ends, and its memory is freed.
KeyboardInterrupt and SystemExit are no errors of a part, and go through.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Part:
    """``error`` is '' while it is on. ``passing``: exceptions that are meant for the caller."""

    def __init__(self, name: str, passing: tuple[type[Exception], ...] = ()) -> None:
        self.name = name
        self.error = ""
        self._passing = passing

    @property
    def is_on(self) -> bool:
        return not self.error

    def call(self, action: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T | None:
        """What ``action`` returns; None if it raises, and from then on."""
        if self.error:
            return None
        try:
            return action(*args, **kwargs)
        except Exception as error:
            self.fail(error)
            return None

    def wrap(self, action: Callable[_P, _T], otherwise: Callable[[], _T]) -> Callable[_P, _T]:
        """``action`` as a part: what it returns, or ``otherwise()``."""

        def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            found = self.call(action, *args, **kwargs)
            return otherwise() if found is None else found

        return guarded

    def fail(self, error: Exception) -> None:
        """It raised ``error``: say so once, and turn it off. Raises what is ``passing``."""
        if isinstance(error, self._passing):
            raise error
        if not self.error:
            self.error = error_text(error)
            _log.error(
                "%s ended by an error of its own (%s); the rest goes on. "
                "Start sockflow again to have it back; -vv shows where it happened",
                self.name,
                self.error,
            )
            _log.debug("%s", self.name, exc_info=error)


class Guard:
    """All parts of a probe, in the order in which they were made."""

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def part(self, name: str, passing: tuple[type[Exception], ...] = ()) -> Part:
        """A new part; several may have the same name."""
        part = Part(name, passing)
        self.parts.append(part)
        return part

    @property
    def failed(self) -> list[Part]:
        return [part for part in self.parts if part.error]


def error_text(error: BaseException) -> str:
    """'ValueError: what it says', on one line."""
    said = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def close_quietly(name: str, close: Callable[[], object]) -> None:
    """An error at the end keeps nothing else from being closed."""
    try:
        close()
    except Exception as error:
        _log.error("%s cannot be closed (%s)", name, error_text(error))
        _log.debug("%s", name, exc_info=error)
