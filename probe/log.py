"""Messages to the person who runs the probe: standard error, one line each."""

from __future__ import annotations

import logging
import sys
from typing import Any

from probe.printable import printable

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


def configure(verbosity: int) -> None:
    """Warnings only; ``-v`` adds what the probe does, ``-vv`` what helps to debug it.

    Modules log through ``logging.getLogger(__name__)``, below ``probe``.
    """
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(_Printable("sockflow: %(levelname)s: %(message)s"))
    logger = logging.getLogger("probe")
    logger.handlers[:] = [stream]
    logger.setLevel(_LEVELS[min(verbosity, 2)])


def say(*lines: str) -> None:
    """Tell what is no warning: an error that ends the command, a summary."""
    for line in lines:
        print(f"sockflow: {printable(line)}", file=sys.stderr)


class _Printable(logging.Formatter):
    """What a message or an exception quotes may come from anybody; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        """Indented, so that no line of it can pass for one of ours."""
        lines = super().formatException(ei).splitlines()
        return "\n".join(f"  {printable(line)}" for line in lines)
