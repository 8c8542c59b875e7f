"""The process that a command runs in: its standard streams and how many files it may open."""

from __future__ import annotations

import contextlib
import os
import resource
import sys


def prepare_process() -> None:
    """Makes this process fit for a command: standard streams are open, many files may be.

    ``sockflow`` calls it. A program that uses ``probe.api`` keeps its own settings.
    """
    keep_standard_streams()
    raise_descriptor_limit()


def keep_standard_streams() -> None:
    """Opens /dev/null for each of the descriptors 0, 1 and 2 that is closed.

    Otherwise the next file or socket gets that number, and what is printed goes into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    # Python found them closed and has None in their place, which nobody can write to.
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def raise_descriptor_limit() -> None:
    """Raises the soft limit of open files to the hard one, which only an administrator may pass.

    The soft limit is 1024 on most hosts, for the sake of programs that call select(2). We do not.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
