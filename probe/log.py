"""Messages to the person who runs the probe: standard error, one line each."""

from __future__ import annotations

import logging
import sys

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


def configure(verbosity: int) -> None:
    """Warnings only; ``-v`` adds what the probe does, ``-vv`` what helps to debug it.

    Modules log through ``logging.getLogger(__name__)``, below ``probe``.
    """
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(logging.Formatter("sockflow: %(levelname)s: %(message)s"))
    logger = logging.getLogger("probe")
    logger.handlers[:] = [stream]
    logger.setLevel(_LEVELS[min(verbosity, 2)])
