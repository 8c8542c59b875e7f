"""Declares ``sockflow collect``, the built-in collector on its own."""

from __future__ import annotations

import argparse
from typing import Any

from probe.commands.subcommand import Subcommand
from probe.config import RunConfig, check
from probe.errors import ConfigError

_LISTEN = "127.0.0.1:4739"


def _collect(options: dict[str, Any]) -> None:
    from probe import collector

    checked = check({key: options[key] for key in ("duration", "pen") if key in options})
    duration: Any = checked.get("duration")
    pen: Any = checked.get("pen", RunConfig().pen)
    if options["options"] and not options["json"]:
        raise ConfigError("--options needs --json: option records have no place in the table")
    if not options["read"]:
        listen = options["listen"] or [_LISTEN]
        collector.collect(listen, pen, duration, options["json"], options["options"])
    elif options["listen"] or duration is not None:
        raise ConfigError("--read reads files to their end: leave --listen and --duration out")
    else:
        collector.read(options["read"], pen, options["json"], options["options"])


def _add_flags(collect: argparse.ArgumentParser) -> None:
    collect.add_argument(
        "--listen", action="append", metavar="WHERE",
        help="HOST:PORT for UDP, ipfix+tcp://HOST:PORT, or ipfix+tls://HOST:PORT?cert=FILE&key=FILE"
        f"&ca=FILE, where ca is whose certificates may come in; repeatable (default {_LISTEN})",
    )  # fmt: skip
    collect.add_argument(
        "--read", nargs="+", metavar="FILE", help="files of IPFIX messages (RFC 5655); -: stdin"
    )
    collect.add_argument("--json", action="store_true", help="one JSON line per record")
    collect.add_argument(
        "--options", action="store_true", help='option records too, marked "options": true'
    )
    for flag, kind, metavar, text in (
        ("--duration", float, "S", "stop after so many seconds"),
        ("--pen", int, "N", "enterprise number of Sockflow's own elements"),
    ):
        collect.add_argument(flag, type=kind, metavar=metavar, help=text, default=argparse.SUPPRESS)
    collect.add_argument("-v", "--verbose", action="count", default=0)


COMMAND = Subcommand(
    "collect", "the built-in collector on its own: IPFIX, NetFlow v9", _add_flags, _collect
)
