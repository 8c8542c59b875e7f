"""Makes the reference of settings from the command line's parser and the file's checks."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import chain

from docs.make.destinations import destination_tables
from docs.make.text import code, made_by, table
from probe.commands.cli import build_parser
from probe.config import SETTINGS, RunConfig, Setting
from probe.mapping import Privacy
from probe.snmp.settings import AUTHENTICATIONS, PRIVACIES

_RUN = "run"
_INTRODUCTION = """
# Configuration reference

`sockflow run` takes flags, or a TOML file by `--config FILE`. A key of the file is the name of the
flag without the dashes in front. Flags win over the file, and the file over the defaults. An
unknown key is an error.

```toml
destinations = ["ipfix://192.0.2.7:4739?profile=nfdump", "json:///var/log/flows.jsonl"]
active-timeout = 30
docker = true
exclude = ["port=22", "user=root,protocol=udp"]

[privacy]
users = false
```

[Destinations](#destinations) are below.
"""
_PRIVACY = """
## What leaves the host

The table `[privacy]` of the file. What is `false` leaves every Template, JSON object and message to
ntopng, whatever the profile says.
"""
_LEAVES = {
    "users": "ids and names of users and groups",
    "paths": "paths of executables",
    "names": "names of processes and of their parents",
    "command_lines": "arguments of processes, which may hold secrets",
}
_SNMP = """
## Who may ask the SNMP agent

The table `[snmp]` of the file. [Interfaces](interfaces.md#snmp) has an example, and says what is
answered.
"""
_OF_SNMP = (
    ("listen", "ADDRESS:PORT", "where the agent listens; the flag `--snmp` wins"),
    ("communities", "list of texts", "who may ask by SNMPv1 and v2c"),
    ("interfaces", "`all`, `veth`, or patterns", "which interfaces are shown: `all` by default"),
    ("contact", "text", "`sysContact`"),
    ("location", "text", "`sysLocation`"),
    ("users", "list of tables", "who may ask by SNMPv3; their keys follow"),
    ("users.name", "text", "name of the user"),
    ("users.auth", ", ".join(f"`{one}`" for one in AUTHENTICATIONS), "how requests are signed"),
    ("users.auth-key", "text, 8 characters or more", "the key for it"),
    ("users.priv", ", ".join(f"`{one}`" for one in PRIVACIES), "how requests are encrypted"),
    ("users.priv-key", "text, 8 characters or more", "the key for it"),
)
_OTHERS = """
# Other commands

Flags of the other commands. `sockflow COMMAND --help` says the same.
"""


def configuration_page() -> str:
    """Returns the text of docs/configuration.md."""
    commands = _commands()
    return "\n".join([
        made_by("probe/commands/ and probe/config.py"),
        _INTRODUCTION.strip(),
        "\n## Settings of `sockflow run`\n",
        *table(
            ("flag", "key of the file", "value", "default", "meaning"), _run_rows(commands[_RUN])
        ),
        *destination_tables(),
        _PRIVACY,
        *table(("key", "default", "what `false` keeps on this host"), _privacy_rows()),
        _SNMP,
        *table(("key", "value", "meaning"), ((code(key), *rest) for key, *rest in _OF_SNMP)),
        _OTHERS,
        *chain.from_iterable(_flags(*one) for one in commands.items() if one[0] != _RUN),
    ])  # fmt: skip


def _commands() -> Mapping[str, argparse.ArgumentParser]:
    for action in build_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise ValueError("the command line has no commands")


def _run_rows(parser: argparse.ArgumentParser) -> Iterator[tuple[str, ...]]:
    for flags, action in _grouped(parser):
        setting = SETTINGS.get(action.dest)
        is_in_file = setting or action.dest == "snmp"
        yield (
            flags,
            code(action.dest.replace("_", "-")) if is_in_file else "",
            _value(setting) if setting else "",
            _default(action.dest),
            _help(action),
        )


def _flags(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    yield from (f"## `sockflow {name}`", "")
    if parser.description:
        yield from (parser.description, "")
    yield from table(("flag", "meaning"), ((f, _help(action)) for f, action in _grouped(parser)))
    yield ""


def _grouped(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    """Yields (flags, action). A flag without its own help joins the flag before it."""
    groups: list[list[argparse.Action]] = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        if not action.help and groups and groups[-1][0].dest == action.dest:
            groups[-1].append(action)
        else:
            groups.append([action])
    for first, *others in groups:
        flags = [_shown(first), *(code(flag) for one in others for flag in one.option_strings)]
        yield ", ".join(flags), first


def _shown(action: argparse.Action) -> str:
    """Returns an action's flags with the name of their value, such as `--odid` N."""
    flags = ", ".join(map(code, action.option_strings))
    is_told = action.dest in SETTINGS  # its values have their own column
    choices = () if is_told or action.choices is None else action.choices
    names = action.metavar or "|".join(choices)
    return f"{flags} {names}".strip()


def _help(action: argparse.Action) -> str:
    return (action.help or "").replace("%%", "%")


def _value(setting: Setting) -> str:
    """Returns the kind and the bounds of a value."""
    if setting.choices:
        return ", ".join(map(code, setting.choices))
    if setting.begins:
        return "true, false, or where: it begins with " + ", ".join(map(code, setting.begins))
    kind = {str: "text", int: "whole number", float: "number", bool: "true, false"}[setting.kind]
    if setting.many:
        return f"list of {kind}s"
    if setting.high is not None:
        return f"{kind}, {setting.low:g} to {setting.high:.0f}"
    return kind if setting.low is None else f"{kind}, {setting.low:g} or more"


def _default(name: str) -> str:
    """Returns the default of a setting, or '' if only its help can explain it."""
    value = getattr(RunConfig(), name, None)
    if value is None or value == "" or value == ():
        return ""
    if isinstance(value, bool):
        return code("true" if value else "false")
    return code(f"{value:g}" if isinstance(value, float) else str(value))


def _privacy_rows() -> Iterator[tuple[str, str, str]]:
    for one in fields(Privacy):
        default = "true" if getattr(Privacy(), one.name) else "false"
        yield code(one.name.replace("_", "-")), code(default), _LEAVES[one.name]
