"""Declares ``sockflow flows``, which shows the flows of this host live."""

from __future__ import annotations

import argparse
from typing import Any

from probe.commands.flow_options import (
    GROUP_ORDERS,
    GROUPS,
    ORDERS,
    add_filters,
    request,
    settings,
    view_parser,
)
from probe.commands.runtime_flags import add_runtimes
from probe.commands.subcommand import Subcommand
from probe.config import COLLECTORS, LIVE_ACTIVE_TIMEOUT_S

_HELP = "this host's flows, live, without a collector"


def _flows(options: dict[str, Any]) -> None:
    config, asked = settings(options), request(options)
    from probe.commands.watch import show_flows

    show_flows(config, asked)


def _add_flags(flows: argparse.ArgumentParser) -> None:
    add_filters(flows)
    shape = flows.add_mutually_exclusive_group()
    shape.add_argument(
        "--tree", dest="as_tree", action="store_true", default=False,
        help="host, parent and process at both ends of each flow",
    )  # fmt: skip
    shape.add_argument(
        "--by", choices=GROUPS, default="",
        help="sums for each, as client and as server; without a terminal: once, at the end",
    )  # fmt: skip
    shape.add_argument(
        "--listening", action="store_true", default=False,
        help="sockets that wait for peers instead of flows: TCP in LISTEN, UDP",
    )  # fmt: skip
    flows.add_argument(
        "--sort", dest="order", default="", metavar="KEY",
        help=f"{', '.join(ORDERS)} (default: latest); with --by {', '.join(GROUP_ORDERS)} "
        "(default: octets)",
    )  # fmt: skip
    flows.add_argument(
        "--active-timeout", type=float, metavar="S",
        help=f"news of a live flow this often (default {LIVE_ACTIVE_TIMEOUT_S:g})",
    )  # fmt: skip
    flows.add_argument("--collector", choices=COLLECTORS, help="as of run")
    add_runtimes(flows)


COMMAND = Subcommand("flows", _HELP, _add_flags, _flows, view_parser(_HELP))
