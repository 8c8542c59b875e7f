"""Describes the version, kernel, libbpf, and the hooks of this kernel, for bug reports."""

from __future__ import annotations

import os

from probe import __version__
from probe.errors import KernelError
from probe.flow.owner import OwnerTable
from probe.kernel import libbpf
from probe.owners.users import UserNames
from probe.sources.ebpf import EbpfSource
from probe.sources.netlink import NetlinkSource
from probe.sources.source import Source


def describe() -> str:
    """Returns several lines. It finds hooks by attaching for a moment, which needs privileges."""
    system = os.uname()
    return "\n".join(
        (
            f"sockflow {__version__}",
            f"kernel {system.sysname} {system.release} {system.machine}",
            f"libbpf {_libbpf()}",
            f"hooks {_hooks(EbpfSource(OwnerTable(), UserNames()))}",
            f"netlink {_hooks(NetlinkSource(OwnerTable(), UserNames()))}",
        )
    )


def _libbpf() -> str:
    try:
        return libbpf.version()
    except KernelError as error:
        return f"not usable: {error}"


def _hooks(source: Source) -> str:
    try:
        source.open()
    except KernelError as error:
        return f"none: {error}"
    try:
        return ", ".join(dict.fromkeys(source.hooks))
    finally:
        source.close()
