"""Parses the command line, runs a subcommand, and reports an error in one line.

The exit status is 0 after success, and 2 for an error that the user can act on.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

# SIGHUP makes the probe open its files again, and must never end it (probe.stop). The imports below
# take a while, so SIGHUP is ignored from here on.
signal.signal(signal.SIGHUP, signal.SIG_IGN)

# ruff: noqa: E402
from probe import __version__, log
from probe.commands import collect, events, flows, interfaces, run, templates
from probe.commands.process import prepare_process
from probe.commands.subcommand import Subcommand
from probe.errors import ConfigError, SockflowError

#: One line for each subcommand, in the order of the help.
COMMANDS: tuple[Subcommand, ...] = (
    run.COMMAND,
    flows.COMMAND,
    events.COMMAND,
    collect.COMMAND,
    templates.COMMAND,
    interfaces.COMMAND,
)
#: Errors of a write to a disk or a device. Code that opens files names the file in its own error.
_NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line ``arguments``, by default the program's own.

    Returns the exit status.
    """
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
    """Discards the buffer of standard output, so that the exit raises no other error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _main(arguments: Sequence[str]) -> int:
    if "--version" in arguments[:1]:
        from probe.commands.version import describe

        print(describe(), flush=True)
        return 0
    options = vars(build_parser().parse_args(arguments))
    command: Subcommand = options.pop("command")
    del options["version"]
    log.configure(options.get("verbose", 0))
    command.run(options)
    return 0


class _Parser(argparse.ArgumentParser):
    """A parser that raises ConfigError where argparse would print the usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the whole command line. It reads ``command`` as a Subcommand."""
    parser = _Parser(
        prog="sockflow",
        description="Container-aware IPFIX exporter probe: flows metered at the sockets.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="store_true", help=f"version {__version__}, kernel, libbpf and hooks"
    )
    names = "|".join(command.name for command in COMMANDS)
    commands = parser.add_subparsers(required=True, metavar=names)
    for command in COMMANDS:
        command.add_to(commands)
    return parser
