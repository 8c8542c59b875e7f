"""Defines how a subcommand declares its name, its flags and its work."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Subcommand:
    """One subcommand of ``sockflow``. Its module is cheap to import; ``run`` imports what it needs.

    add_flags: declares its flags. run: does the work, with the values of the flags by name.
    parser: further arguments of its ArgumentParser.
    """

    name: str
    help: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    run: Callable[[dict[str, Any]], None]
    parser: Mapping[str, Any] = field(default_factory=dict)

    def add_to(self, commands: Any) -> None:
        """Adds this subcommand to what ``ArgumentParser.add_subparsers`` returned."""
        parser = commands.add_parser(self.name, help=self.help, allow_abbrev=False, **self.parser)
        parser.set_defaults(command=self)
        self.add_flags(parser)


#: An argument for ``Subcommand.parser``, with which a flag that was not given has no value.
ONLY_GIVEN: Mapping[str, Any] = {"argument_default": argparse.SUPPRESS}
