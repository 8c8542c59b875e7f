"""Opens output files safely in shared directories, and checks the rights of secret files."""

from __future__ import annotations

import errno
import logging
import os
import stat

_log = logging.getLogger(__name__)

#: Rights of others, which a file with a secret should not give.
_OTHERS = stat.S_IROTH | stat.S_IWOTH


def open_output(path: str, flags: int, mode: int) -> int:
    """Opens ``path`` for writing, made with ``mode`` if it is absent, and returns its descriptor.

    In a directory that others may write to, such as /tmp, another user may have put a link or a
    file where this process would write as root. So all links on the path must belong to root or to
    this user, and so must an existing file there. Raises OSError if one does not.
    """
    _check_links(path)
    real = os.path.realpath(path)
    if real.startswith("/proc/"):  # such as /dev/stdout: its target has no path
        return os.open(path, flags | os.O_CREAT, mode)
    file = os.open(real, flags | os.O_CREAT | os.O_NOFOLLOW, mode)
    try:
        if _is_shared(os.path.dirname(real)):
            _check_owner(os.fstat(file))
    except OSError:
        os.close(file)
        raise
    return file


def warn_if_readable(path: str, what: str) -> None:
    """Warns if all users may read or change ``path``, which holds ``what``."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # the caller that opens it reports the error
        return
    if mode & _OTHERS:
        _log.warning(
            "%s holds %s and every user may %s it: chmod o= %s",
            path, what, "change" if mode & stat.S_IWOTH else "read", path,
        )  # fmt: skip


def _check_links(path: str) -> None:
    """Raises OSError if a symbolic link on the way to ``path`` belongs to another user."""
    at = "/"
    for part in os.path.abspath(path).split("/")[1:]:
        at = os.path.join(at, part)
        try:
            found = os.lstat(at)
        except FileNotFoundError:
            return
        if stat.S_ISLNK(found.st_mode) and not _is_trusted(found.st_uid):
            raise OSError(errno.ELOOP, f"{at} is a link of user {found.st_uid}, not followed")


def _check_owner(found: os.stat_result) -> None:
    if stat.S_ISCHR(found.st_mode):
        return
    if not _is_trusted(found.st_uid):
        raise OSError(errno.EPERM, f"the file is user {found.st_uid}'s; choose another")
    if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
        raise OSError(errno.EMLINK, "the file has another name elsewhere; choose another")


def _is_shared(directory: str) -> bool:
    """Returns True if users other than root and this one may put files into ``directory``."""
    found = os.stat(directory)
    return not _is_trusted(found.st_uid) or bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _is_trusted(uid: int) -> bool:
    return uid in (0, os.geteuid())
