"""The command line: ``sockflow run``, ``flows``, ``events``, ``collect``, ``templates``,
``interfaces``, and ``sockflow --version``.

Exit status: 0 done, 2 for anything the user can act on, said in one line.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

# SIGHUP tells a program that runs on to open its files anew, and never ends one (probe.stop). The
# imports below take a while, so what comes meanwhile has to be ignored from here on.
signal.signal(signal.SIGHUP, signal.SIG_IGN)

# ruff: noqa: E402
from probe import __version__, log
from probe.commands import flow_options as view_options
from probe.commands.process import prepare_process
from probe.config import COLLECTORS, LIVE_ACTIVE_TIMEOUT_S, RunConfig, build, check
from probe.errors import ConfigError, SockflowError
from probe.run.destinations import describe_kinds

_DEFAULTS = RunConfig()
#: Errors of a write to a disk or a device; what opens files says which file it is.
_NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
_LISTEN = "127.0.0.1:4739"
_OPTIONS_HELP = "Options follow a ?, such as ?profile=NAME&biflow=rfc5103: docs/destinations.md."
_FILTER_HELP = (
    "cidr, port (also LOW-HIGH), protocol, container, pod, namespace, user, process: "
    "KEY=VALUE,... where all must hold; repeatable, where any suffices"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    prepare_process()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the terminal's encoding may lack a character
    try:
        return _main(sys.argv[1:] if arguments is None else arguments)
    except SockflowError as error:
        log.say(" ".join(str(error).split()))
        return 2
    except BrokenPipeError:  # the reader of our output is gone, as with `| head`
        _give_up_output()
        return 0
    except OSError as error:
        if error.errno in _NO_DESCRIPTOR:
            log.say(f"{error.strerror}: raise the limit of this process (ulimit -n), to 1024 say")
            return 2
        if error.errno not in _NOT_WRITTEN:
            raise
        _give_up_output()
        log.say(f"cannot write to standard output: {error.strerror}")
        return 2
    except KeyboardInterrupt:
        return 130


def _give_up_output() -> None:
    """What is still in the buffer of standard output goes nowhere, so that the exit is quiet."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _main(arguments: Sequence[str]) -> int:
    if "--version" in arguments[:1]:
        from probe.commands.version import describe

        print(describe(), flush=True)
        return 0
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    del options["version"]
    if command == "templates":
        _templates(options)
        return 0
    log.configure(options.get("verbose", 0))
    if command == "collect":
        _collect(options)
    elif command == "interfaces":
        _interfaces(options)
    elif command == "flows":
        _flows(options)
    elif command == "events":
        _events(options)
    else:
        _run(options)
    return 0


def _run(options: dict[str, Any]) -> None:
    config = build(options, options.pop("config", None))
    log.configure(config.verbose)
    from probe.run.probe import run

    run(config)


def _collect(options: dict[str, Any]) -> None:
    from probe import collector as collect

    checked = check({key: options[key] for key in ("duration", "pen") if key in options})
    duration: Any = checked.get("duration")
    pen: Any = checked.get("pen", _DEFAULTS.pen)
    if options["options"] and not options["json"]:
        raise ConfigError("--options needs --json: option records have no place in the table")
    if not options["read"]:
        listen = options["listen"] or [_LISTEN]
        collect.collect(listen, pen, duration, options["json"], options["options"])
    elif options["listen"] or duration is not None:
        raise ConfigError("--read reads files to their end: leave --listen and --duration out")
    else:
        collect.read(options["read"], pen, options["json"], options["options"])


def _interfaces(options: dict[str, Any]) -> None:
    from probe.commands.interfaces import show_interfaces
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


def _flows(options: dict[str, Any]) -> None:
    config, request = view_options.settings(options), view_options.request(options)
    from probe.commands.watch import show_flows

    show_flows(config, request)


def _events(options: dict[str, Any]) -> None:
    config, request = view_options.event_settings(options), view_options.request(options)
    kinds = view_options.kinds(options)
    from probe.commands.watch import show_events

    show_events(config, request, kinds)


def _templates(options: dict[str, Any]) -> None:
    from probe.commands.templates import Request, describe

    checked = check({key: options[key] for key in ("pen",) if key in options})
    pen: Any = checked.get("pen", _DEFAULTS.pen)
    request = Request(
        options["name"], options["collector"], options["netflow9"], options["biflow"], pen,
        options["enterprise"],
    )  # fmt: skip
    print(describe(request), end="")


class _Parser(argparse.ArgumentParser):
    """Errors as ours: one line, exit status 2."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sockflow",
        description="Container-aware IPFIX exporter probe: flows metered at the sockets.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="store_true", help=f"version {__version__}, kernel, libbpf and hooks"
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="run|flows|events|collect|templates|interfaces"
    )
    _add_run(commands)
    for add_view in (view_options.add_flows, view_options.add_events):
        _add_runtimes(add_view(commands))
    _add_collect(commands)
    _add_templates(commands)
    _add_interfaces(commands)
    return parser


def _add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        help="meter this host and export its flows",
        epilog="\n".join(["destinations:", *describe_kinds(), "", _OPTIONS_HELP]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    run.add_argument(
        "-e", "--export", dest="destinations", action="append", metavar="URL",
        help="export to this destination; repeatable. Without it the flows are shown here",
    )  # fmt: skip
    run.add_argument("--config", metavar="FILE", help="TOML file; flags win")
    run.add_argument(
        "--collector", choices=COLLECTORS,
        help="source of flows (auto: ebpf where it can run, else netlink, which has TCP only; "
        "ebpf+netlink: what one has no room for the other meters)",
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
    _add_runtimes(run)
    run.add_argument(
        "--max-flows", type=int, metavar="N",
        help=f"bound of the flow cache (default {_DEFAULTS.max_flows})",
    )  # fmt: skip


def _add_runtimes(run: argparse.ArgumentParser) -> None:
    """Where the names of containers come from."""
    run.add_argument(
        "--docker", nargs="?", const=True, metavar="URL",
        help="names of containers from Docker's API, unix:///var/run/docker.sock or DOCKER_HOST "
        "unless a URL is given (default: if the package docker is there)",
    )  # fmt: skip
    run.add_argument("--no-docker", dest="docker", action="store_false")
    run.add_argument(
        "--kubernetes", nargs="?", const=True, metavar="KUBECONFIG",
        help="names of Pods from the Kubernetes API, as the Pod that this is in or the kubeconfig "
        "file may ask it (default: in a Pod that may)",
    )  # fmt: skip
    run.add_argument("--no-kubernetes", dest="kubernetes", action="store_false")
    run.add_argument(
        "--kubernetes-node", metavar="NAME",
        help="the name of this node (default: NODE_NAME of the environment, else the host's name)",
    )  # fmt: skip
    run.add_argument(
        "--kubernetes-labels", action="append", metavar="KEY",
        help="tell this label of Pods, or those that begin with KEY where a * is behind it; "
        "repeatable",
    )  # fmt: skip
    run.add_argument(
        "--kubernetes-remote", action=argparse.BooleanOptionalAction,
        help="name Pods, Services and nodes of the whole cluster at the other end (default: no)",
    )  # fmt: skip
    run.add_argument(
        "--kubernetes-cluster", metavar="NAME", help="tell Pods and nodes with this name of theirs",
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


def _add_collect(commands: Any) -> None:
    collect = commands.add_parser(
        "collect", help="the built-in collector on its own: IPFIX, NetFlow v9", allow_abbrev=False
    )
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


def _add_templates(commands: Any) -> None:
    templates = commands.add_parser(
        "templates", help="what a profile sends, and files for collectors", allow_abbrev=False
    )
    templates.add_argument(
        "name", nargs="?", default="", metavar="NAME", help="profile; without: list them all"
    )
    for flag, text in (
        ("--netflow9", "as NetFlow v9 sends it"),
        ("--biflow", "with the reverse elements of biflows (RFC 5103)"),
    ):
        templates.add_argument(flag, action="store_true", help=text)
    chosen = templates.add_mutually_exclusive_group()
    for collector, text in (
        ("pmacct", "write the file for pmacct's aggregate_primitives"),
        ("goflow2", "write the file for goflow2 -mapping"),
        ("wireshark", "write a Lua dissector for Wireshark and tshark"),
        ("libfds", "write the XML of one enterprise's elements for ipfixcol2"),
        ("telegraf", "write private_enterprise_number_files for Telegraf's inputs.netflow"),
    ):
        chosen.add_argument(
            f"--{collector}", dest="collector", action="store_const", const=collector,
            default="", help=text,
        )  # fmt: skip
    templates.add_argument(
        "--pen", type=int, metavar="N", default=argparse.SUPPRESS,
        help="enterprise number of Sockflow's own elements",
    )  # fmt: skip
    templates.add_argument(
        "--enterprise", type=int, metavar="N", default=0,
        help="with --libfds: whose elements, if not Sockflow's own (ntop: 35632, Antrea: 56506)",
    )  # fmt: skip


def _add_interfaces(commands: Any) -> None:
    interfaces = commands.add_parser(
        "interfaces", help="who is behind which interface, and its counters; any user may ask",
        description="Counters since the interface exists, and rates, of the host's side: in of a "
        "veth is what its container sends.",
        argument_default=argparse.SUPPRESS, allow_abbrev=False,
    )  # fmt: skip
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
