"""Writes messages to the user on standard error, one line each."""

from __future__ import annotations

import logging
import sys
from typing import Any

from probe.printable import printable

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


def configure(verbosity: int) -> None:
    """Logs warnings only. ``-v`` adds the actions of the probe, and ``-vv`` adds debugging.

    Modules log through ``logging.getLogger(__name__)``, below ``probe``.
    """
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(_Printable("sockflow: %(levelname)s: %(message)s"))
    logger = logging.getLogger("probe")
    logger.handlers[:] = [stream]
    logger.setLevel(_LEVELS[min(verbosity, 2)])


def say(*lines: str) -> None:
    """Writes lines that are no warnings, such as a summary or the error that ends a command."""
    for line in lines:
        print(f"sockflow: {printable(line)}", file=sys.stderr)


class _Printable(logging.Formatter):
    """A formatter that makes quoted text printable. Only a traceback keeps its line breaks."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        """Returns the traceback with indented lines, which cannot look like messages."""
        lines = super().formatException(ei).splitlines()
        return "\n".join(f"  {printable(line)}" for line in lines)
