"""Declares ``sockflow interfaces``, which shows interfaces with containers and counters."""

from __future__ import annotations

import argparse
from typing import Any

from probe.commands.runtime_flags import add_switches
from probe.commands.subcommand import ONLY_GIVEN, Subcommand
from probe.config import RunConfig, check
from probe.owners.runtimes import RUNTIMES

_DEFAULTS = RunConfig()


def _interfaces(options: dict[str, Any]) -> None:
    from probe.commands.interface_screen import show_interfaces
    from probe.owners.kubernetes import KubernetesSettings

    keys = ("duration", "interval", "kubernetes_node", *(kind.name for kind in RUNTIMES))
    checked: dict[str, Any] = check({key: options[key] for key in keys if key in options})
    show_interfaces(
        options["watch"], options["json"], checked.get("interval", _DEFAULTS.interval),
        {kind.name: checked[kind.name] for kind in RUNTIMES if kind.name in checked},
        KubernetesSettings(node=checked.get("kubernetes_node", "")),
        checked.get("duration"),
    )  # fmt: skip


def _add_flags(interfaces: argparse.ArgumentParser) -> None:
    for flag, text in (
        ("watch", "again and again, until a signal"),
        ("json", "one JSON object an interface; in is what a veth's container sends"),
    ):
        interfaces.add_argument(f"--{flag}", action="store_true", default=False, help=text)
    for flag, text in (
        ("interval", f"time between two readings (default {_DEFAULTS.interval:g})"),
        ("duration", "with --watch: stop after so many seconds"),
    ):
        interfaces.add_argument(f"--{flag}", type=float, metavar="S", help=text)
    add_switches(interfaces)
    interfaces.add_argument("--kubernetes-node", metavar="NAME", help="as of run")
    interfaces.add_argument("-v", "--verbose", action="count", default=0)


COMMAND = Subcommand(
    "interfaces",
    "who is behind which interface, and its counters; any user may ask",
    _add_flags,
    _interfaces,
    {
        **ONLY_GIVEN,
        "description": "Counters since the interface exists, and rates, as the host sees them. "
        "What a veth receives is what its container sends.",
    },
)
