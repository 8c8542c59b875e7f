"""Declares ``sockflow interfaces``, which shows interfaces with containers and counters."""

from __future__ import annotations

import argparse
from typing import Any

from probe.commands.subcommand import ONLY_GIVEN, Subcommand
from probe.config import RunConfig, check

_DEFAULTS = RunConfig()


def _interfaces(options: dict[str, Any]) -> None:
    from probe.commands.interface_screen import show_interfaces
    from probe.owners.kubernetes import KubernetesSettings

    keys = ("duration", "interval", "docker", "kubernetes", "kubernetes_node")
    checked: dict[str, Any] = check({key: options[key] for key in keys if key in options})
    show_interfaces(
        options["watch"], options["json"], checked.get("interval", _DEFAULTS.interval),
        checked.get("docker", _DEFAULTS.docker),
        KubernetesSettings(
            checked.get("kubernetes", _DEFAULTS.kubernetes), checked.get("kubernetes_node", "")
        ),
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
    interfaces.add_argument("--docker", nargs="?", const=True, metavar="URL", help="as of run")
    interfaces.add_argument("--no-docker", dest="docker", action="store_false")
    interfaces.add_argument("--kubernetes", nargs="?", const=True, metavar="FILE", help="as of run")
    interfaces.add_argument("--no-kubernetes", dest="kubernetes", action="store_false")
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
