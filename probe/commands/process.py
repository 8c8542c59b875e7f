"""Prepares the process of a command: its standard streams and its limit of open files."""

from __future__ import annotations

import contextlib
import os
import resource
import sys


def prepare_process() -> None:
    """Opens missing standard streams, and raises the limit of open files.

    Only ``sockflow`` calls it. A program that uses ``probe.api`` keeps its own settings.
    """
    keep_standard_streams()
    raise_descriptor_limit()


def keep_standard_streams() -> None:
    """Opens /dev/null for each of the descriptors 0, 1 and 2 that is closed.

    Otherwise the next file or socket would get that number, and printed text would go into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    # Python sets streams that were closed at its start to None, to which print cannot write.
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def raise_descriptor_limit() -> None:
    """Raises the soft limit of open files to the hard limit, which only an administrator can raise.

    The soft limit is 1024 on most hosts, to protect programs that call select(2). Sockflow does not
    call it.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
