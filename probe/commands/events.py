"""Declares ``sockflow events``, which shows events of flows and containers live."""

from __future__ import annotations

import argparse
from typing import Any

from probe.commands.flow_options import add_filters, event_settings, kinds, request, view_parser
from probe.commands.runtime_flags import add_runtimes
from probe.commands.subcommand import Subcommand
from probe.flow.codes import EventKind

_HELP = "what happens to flows and containers, live"


def _events(options: dict[str, Any]) -> None:
    config, asked = event_settings(options), request(options)
    chosen = kinds(options)
    from probe.commands.watch import show_events

    show_events(config, asked, chosen)


def _add_flags(events: argparse.ArgumentParser) -> None:
    add_filters(events)
    events.add_argument(
        "--kind", action="append", default=[], metavar="KIND,...",
        help=f"only these: {', '.join(kind.name for kind in EventKind)}",
    )  # fmt: skip
    add_runtimes(events)


COMMAND = Subcommand("events", _HELP, _add_flags, _events, view_parser(_HELP))
