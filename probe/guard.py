"""Keeps an error in one part of the probe from ending the others.

A ``Part`` is anything that metering does not need: a destination, a runtime, an enricher, a poller
or a view. All calls of a part go through its ``call``. The first error that a call raises is
logged. From then on the part is off and is not called again. The summary and Prometheus name it,
and the rest of the probe goes on.

The collector, the filter and the cache are no parts, since metering needs them. If one of them
raises an error, ``probe.run.loop`` stops metering, exports the rest, and ends with the error.

A MemoryError is an error like any other. It ends the part in whose call it occurs, and the memory
of that call is freed. KeyboardInterrupt and SystemExit are not caught.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Part:
    """A part of the probe, which its first error turns off.

    ``error`` is '' while it is on. Exceptions of ``passing`` go to the caller and do not turn it
    off.
    """

    def __init__(self, name: str, passing: tuple[type[Exception], ...] = ()) -> None:
        self.name = name
        self.error = ""
        self._passing = passing

    @property
    def is_on(self) -> bool:
        return not self.error

    def call(self, action: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T | None:
        """Calls ``action`` and returns its result, or None if it raises or the part is off."""
        if self.error:
            return None
        try:
            return action(*args, **kwargs)
        except Exception as error:
            self.fail(error)
            return None

    def wrap(self, action: Callable[_P, _T], otherwise: Callable[[], _T]) -> Callable[_P, _T]:
        """Returns a function that calls ``action``, or ``otherwise`` if that has no result."""

        def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            found = self.call(action, *args, **kwargs)
            return otherwise() if found is None else found

        return guarded

    def fail(self, error: Exception) -> None:
        """Turns the part off, and logs its first ``error``. Raises an error of ``passing``."""
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
        """Returns a new part. Several parts may have the same name."""
        part = Part(name, passing)
        self.parts.append(part)
        return part

    @property
    def failed(self) -> list[Part]:
        return [part for part in self.parts if part.error]


def error_text(error: BaseException) -> str:
    """Returns the type and text of an error in one line, such as 'ValueError: bad number'."""
    said = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def close_quietly(name: str, close: Callable[[], object]) -> None:
    """Calls ``close``, and only logs an error, so that the caller can close the rest."""
    try:
        close()
    except Exception as error:
        _log.error("%s cannot be closed (%s)", name, error_text(error))
        _log.debug("%s", name, exc_info=error)
