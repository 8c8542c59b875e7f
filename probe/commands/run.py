"""Declares ``sockflow run``, which meters this host and exports its flows."""

from __future__ import annotations

import argparse
from typing import Any

from probe import log
from probe.commands.runtime_flags import add_runtimes
from probe.commands.subcommand import ONLY_GIVEN, Subcommand
from probe.config import COLLECTORS, LIVE_ACTIVE_TIMEOUT_S, RunConfig, build
from probe.run.destinations import describe_kinds
from probe.sources.registry import describe_sources

_DEFAULTS = RunConfig()
_OPTIONS_HELP = "Options follow a ?, such as ?profile=NAME&biflow=rfc5103: docs/destinations.md."
_FILTER_HELP = (
    "cidr, port (also LOW-HIGH), protocol, container, pod, namespace, user, process: "
    "KEY=VALUE,... where all must hold; repeatable, where any suffices"
)


def _run(options: dict[str, Any]) -> None:
    config = build(options, options.pop("config", None))
    log.configure(config.verbose)
    from probe.run.foreground import run

    run(config)


def _add_flags(run: argparse.ArgumentParser) -> None:
    run.epilog = "\n".join(["destinations:", *describe_kinds(), "", _OPTIONS_HELP])
    run.add_argument(
        "-e", "--export", dest="destinations", action="append", metavar="URL",
        help="export to this destination; repeatable. Without it the flows are shown here",
    )  # fmt: skip
    run.add_argument("--config", metavar="FILE", help="TOML file; flags win")
    run.add_argument(
        "--collector", choices=COLLECTORS,
        help="what meters flows. " + "; ".join(describe_sources()),
    )  # fmt: skip
    for flag, metavar, text in (
        ("duration", "S", "stop after so many seconds (default: run until a signal)"),
        ("active-timeout", "S", "report a live flow this often (default "
         f"{_DEFAULTS.active_timeout:g}; {LIVE_ACTIVE_TIMEOUT_S:g} when shown here)"),
        ("idle-timeout", "S", f"a silent flow ends after (default {_DEFAULTS.idle_timeout:g})"),
        ("interval", "S", f"time between snapshots (default {_DEFAULTS.interval:g}; longer where a "
         "snapshot would take more than 1%% of one core)"),
        ("template-refresh", "S",
         f"send Templates again after (default {_DEFAULTS.template_refresh:g})"),
    ):  # fmt: skip
        run.add_argument(f"--{flag}", type=float, metavar=metavar, help=text)
    _add_identity(run)
    _add_counters(run)
    run.add_argument(
        "--events", action=argparse.BooleanOptionalAction,
        help="tell what happens to flows and containers as well, to json:, kafka: and "
        "zmq:?flows=json (default: no; eBPF only)",
    )  # fmt: skip
    run.add_argument("--include", action="append", metavar="RULE", help=_FILTER_HELP)
    run.add_argument("--exclude", action="append", metavar="RULE", help="the same, left out")
    run.add_argument("-v", "--verbose", action="count", help="say more; repeatable")


def _add_identity(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        "--odid", type=int, metavar="N", help=f"Observation Domain (default {_DEFAULTS.odid})"
    )
    run.add_argument(
        "--pen", type=int, metavar="N",
        help=f"enterprise number of our own elements (default {_DEFAULTS.pen}: documentation)",
    )  # fmt: skip
    run.add_argument(
        "--profile", metavar="NAME",
        help="what a collector knows: see `sockflow templates` (default full, or kubernetes)",
    )  # fmt: skip
    run.add_argument("--template", metavar="NAME|FILE", help="a Template instead of the profile's")
    run.add_argument(
        "--nat", action=argparse.BooleanOptionalAction,
        help="tell what conntrack shows to be translated (default: yes)",
    )  # fmt: skip
    run.add_argument(
        "--container-users", action=argparse.BooleanOptionalAction,
        help="names of users inside containers, from their own /etc/passwd (default: yes)",
    )  # fmt: skip
    add_runtimes(run)
    run.add_argument(
        "--max-flows", type=int, metavar="N",
        help=f"bound of the flow cache (default {_DEFAULTS.max_flows})",
    )  # fmt: skip


def _add_counters(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        "--snmp", metavar="ADDRESS:PORT",
        help="answer SNMP polls of IF-MIB, containers in ifAlias, as 127.0.0.1:1161; who may ask "
        "is in the file (docs/interfaces.md)",
    )  # fmt: skip
    run.add_argument(
        "--prometheus", nargs="?", const="127.0.0.1:9709", metavar="HOST:PORT",
        help="serve metrics to Prometheus there (127.0.0.1:9709 if only the flag is given)",
    )  # fmt: skip
    run.add_argument(
        "--prometheus-limit", type=int, metavar="N",
        help="so many interfaces, and containers, have metrics of their own, the rest is summed up "
        f"(default {_DEFAULTS.prometheus_limit})",
    )  # fmt: skip
    run.add_argument(
        "--interface-interval", type=float, metavar="S",
        help="time between records of interfaces' counters "
        f"(default {_DEFAULTS.interface_interval:g})",
    )  # fmt: skip


COMMAND = Subcommand(
    "run",
    "meter this host and export its flows",
    _add_flags,
    _run,
    {
        **ONLY_GIVEN,
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    },
)
