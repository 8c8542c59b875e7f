"""Adds the flags that ``sockflow flows`` and ``sockflow events`` share, and reads them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from probe.commands.subcommand import ONLY_GIVEN
from probe.config import RunConfig, build
from probe.errors import ConfigError
from probe.flow.codes import EventKind
from probe.flow.filter import KEYS, combine, parse_rule

_KEY_HELP = {
    "container": "name, or the beginning of the id",
    "pod": "name, or NAMESPACE/NAME",
    "namespace": "of Kubernetes",
    "process": "name or pid",
    "user": "name or uid",
    "port": "of either end: a number, or LOW-HIGH",
    "cidr": "of either end: an address or a network",
    "protocol": "tcp, udp or a number",
}
_RUN_SETTINGS = ("collector", "duration", "active_timeout", "docker", "kubernetes",
                 "kubernetes_node", "kubernetes_labels", "kubernetes_remote",
                 "kubernetes_cluster")  # fmt: skip
#: Seconds between two reads of events. Snapshots still take at most 1 % of one core.
_EVENT_INTERVAL_S = 0.2
ORDERS = ("latest", "octets", "sent", "received", "packets", "rtt", "resent", "age", "client",
           "server", "process", "user", "container")  # fmt: skip
GROUP_ORDERS = ("octets", "sent", "received", "packets", "flows", "rtt", "name")
GROUPS = ("container", "pod", "process", "user")


def settings(options: Mapping[str, Any], **more: object) -> RunConfig:
    """Returns the settings of the probe. Raises ConfigError if one is wrong."""
    return build({name: options[name] for name in _RUN_SETTINGS if name in options} | more)


def event_settings(options: Mapping[str, Any]) -> RunConfig:
    """Returns the settings for events, which need eBPF. Raises ConfigError if one is wrong."""
    return settings(options, events=True, collector="ebpf", interval=_EVENT_INTERVAL_S)


def request(options: Mapping[str, Any]) -> Any:
    """Returns the Request of the flags. Raises ConfigError if a flag is wrong."""
    from probe.commands.watch import Request

    by, as_tree = options.get("by", ""), options.get("as_tree", False)
    if options["as_json"] and as_tree:
        raise ConfigError("--json has the parents of all processes: leave --tree out")
    return Request(
        include=combine({key: options[key] for key in KEYS}),
        exclude=[parse_rule(text) for text in options["exclude"]],
        as_json=options["as_json"],
        as_tree=as_tree,
        listening=options.get("listening", False),
        by=by,
        order=_order(options.get("order", ""), GROUP_ORDERS if by else ORDERS),
    )


def kinds(options: Mapping[str, Any]) -> list[EventKind]:
    """Returns the kinds of ``--kind``, or all. Raises ConfigError for an unknown kind."""
    names = [name.strip().upper() for text in options["kind"] for name in text.split(",")]
    for name in names:
        if name not in EventKind.__members__:
            known = ", ".join(kind.name for kind in EventKind)
            raise ConfigError(f"--kind {name!r}: there is no such kind, but {known}")
    return [EventKind[name] for name in names] or list(EventKind)


def _order(key: str, known: tuple[str, ...]) -> str:
    if key and key not in known:
        raise ConfigError(f"--sort {key!r} is none of {', '.join(known)}")
    return key or known[0]


def view_parser(text: str) -> Mapping[str, Any]:
    """Returns arguments for the parser of a view. ``text`` says what the view shows."""
    return {
        **ONLY_GIVEN,
        "description": f"{text}. Filters: all must hold, of one that is repeated any value "
        "suffices. A flow is shown where one of its ends matches.",
    }


def add_filters(command: argparse.ArgumentParser) -> None:
    """Adds the flags of all views to ``command``."""
    command.add_argument(
        "--json", dest="as_json", action="store_true", default=False,
        help="one JSON object a line (docs/json.md)",
    )  # fmt: skip
    for key in KEYS:
        command.add_argument(
            f"--{key}", action="append", default=[], metavar=key.upper(), help=_KEY_HELP[key]
        )
    command.add_argument(
        "--exclude", action="append", default=[], metavar="RULE",
        help="leave out, as of run: port=22,user=root; repeatable",
    )  # fmt: skip
    command.add_argument("--duration", type=float, metavar="S", help="stop after so many seconds")
    command.add_argument("-v", "--verbose", action="count", default=0)
