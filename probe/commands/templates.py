"""Prints the Templates of profiles, and files for collectors, for ``sockflow templates``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe.commands.subcommand import Subcommand
from probe.config import RunConfig, check
from probe.errors import ConfigError
from probe.ipfix.elements import DOCUMENTATION_PEN, Element, ElementTable
from probe.ipfix.template import Field, TemplateDefinition
from probe.mapping import (
    Profile,
    for_biflow,
    for_netflow9,
    load_elements,
    load_netflow9,
    load_options,
    load_profile,
    load_profiles,
    load_template,
)
from probe.mapping.collector_files import goflow2_mapping, pmacct_primitives, wireshark_dissector
from probe.mapping.element_files import libfds_elements, telegraf_mapping
from probe.mapping.files import read_wireshark
from probe.mapping.tables import ATTRIBUTES, TRANSLATION

#: The collectors for which it can write a file.
COLLECTORS = ("pmacct", "goflow2", "wireshark", "libfds", "telegraf")
_Row = tuple[str, str, str, str, str, str]


@dataclass(frozen=True, slots=True)
class Request:
    """The flags of the command. ``collector`` is one of COLLECTORS, or '' for a table.

    ``enterprise`` selects the elements in the file for libfds, where 0 means those of ``pen``.
    """

    name: str = ""
    collector: str = ""
    netflow9: bool = False
    biflow: bool = False
    pen: int = DOCUMENTATION_PEN
    enterprise: int = 0


def describe(request: Request) -> str:
    """Returns the text that the command prints.

    Raises ConfigError for an unknown profile, and for flags that exclude each other.
    """
    if request.biflow and request.netflow9:
        raise ConfigError("NetFlow v9 has no reverse elements: leave out --biflow or --netflow9")
    if request.enterprise and request.collector != "libfds":
        raise ConfigError("--enterprise is for --libfds only: other files have all enterprises")
    elements = load_elements(request.pen)
    if request.collector:
        return _collector_file(request, elements)
    if not request.name:
        return _list_profiles()
    return _describe_template(request, elements)


def _list_profiles() -> str:
    profiles = load_profiles().values()
    width = max(len(profile.name) for profile in profiles)
    return "".join(f"{profile.name:{width}}  {profile.note}\n" for profile in profiles)


def _collector_file(request: Request, elements: ElementTable) -> str:
    if request.collector not in ("pmacct", "goflow2"):
        return _element_file(request, elements)
    definition = _definition(request.name or request.collector, elements)
    netflow9, _ = for_netflow9(definition, load_netflow9(elements))
    if request.biflow:
        definition = for_biflow(definition, elements)
    if request.collector == "goflow2":
        return goflow2_mapping(definition, netflow9)
    return pmacct_primitives(netflow9 if request.netflow9 else definition)


def _element_file(request: Request, elements: ElementTable) -> str:
    """Returns the file for all elements, or for those that a profile may send."""
    used = _used(_find(request.name), elements) if request.name else elements
    if request.collector == "wireshark":
        return wireshark_dissector(read_wireshark(), used, load_netflow9(elements))
    if request.collector == "telegraf":
        return telegraf_mapping(used)
    return libfds_elements(used, request.enterprise or request.pen)


def _find(name: str) -> Profile:
    """Returns the profile ``name``, or a profile of the Template file ``name``."""
    if name not in load_profiles() and Path(name).is_file():
        return Profile(name, name, (), "a Template of your own")
    return load_profile(name)


def _definition(name: str, elements: ElementTable) -> TemplateDefinition:
    return load_template(_find(name).template, elements)


def _used(profile: Profile, elements: ElementTable) -> list[Element]:
    """Returns the elements in a profile's Templates, with those of its options and of Biflows."""
    definition = for_biflow(load_template(profile.template, elements), elements)
    options = load_options(elements)
    fields = [field for pair in definition.positions for field in pair]
    fields += [field for name in profile.options for field in options[name].fields]
    fields += [field for name in profile.options for field in options[name].scope]
    return [field.element for field in fields]


def _describe_template(request: Request, elements: ElementTable) -> str:
    profile = _find(request.name)
    definition = load_template(profile.template, elements)
    left_out: list[str] = []
    if request.biflow:
        definition = for_biflow(definition, elements)
    if request.netflow9:
        definition, left_out = for_netflow9(definition, load_netflow9(elements))
    lines = [
        f"{profile.name}: {profile.note}",
        f"options: {', '.join(profile.options) or 'none'}",
        "",
        *_table(definition, request.netflow9),
    ]
    if definition.limit:
        spare = ", ".join(name for name in definition.spare if name in definition.names())
        lines += ["", f"left out of Templates with more than {definition.limit} fields: {spare}"]
    if left_out:
        lines += ["", f"NetFlow v9 has no field type for: {', '.join(left_out)}"]
    return "\n".join(lines) + "\n"


def _table(definition: TemplateDefinition, netflow9: bool) -> list[str]:
    rows = [("element", "field type" if netflow9 else "id", "PEN", "type", "length", "in")]
    rows += _rows(definition)
    # NetFlow v9 has no enterprise numbers.
    return list(_aligned([row[:2] + row[3:] if netflow9 else row for row in rows]))


def _rows(definition: TemplateDefinition) -> Iterator[_Row]:
    for four, six in definition.positions:
        if four == six:
            yield _row(four, _condition(four))
        else:
            yield _row(four, "IPv4")
            yield _row(six, "IPv6")


def _row(field: Field, condition: str) -> _Row:
    element = field.element
    length = "variable" if field.is_variable else str(field.length)
    return (
        element.name, str(element.id), str(element.pen or "-"), element.type.name, length, condition
    )  # fmt: skip


def _condition(field: Field) -> str:
    """Returns when a Template has the field, or '' for always."""
    if field.element.name in TRANSLATION:
        return "IPv4, translated"
    attribute = ATTRIBUTES.get(field.element.name)
    if attribute and attribute.privacy:
        return f"if privacy allows {attribute.privacy.replace('_', '-')}"
    return ""


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _run(options: dict[str, Any]) -> None:
    checked = check({key: options[key] for key in ("pen",) if key in options})
    pen: Any = checked.get("pen", RunConfig().pen)
    request = Request(
        options["name"], options["collector"], options["netflow9"], options["biflow"], pen,
        options["enterprise"],
    )  # fmt: skip
    print(describe(request), end="")


def _add_flags(templates: argparse.ArgumentParser) -> None:
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


COMMAND = Subcommand(
    "templates", "what a profile sends, and files for collectors", _add_flags, _run
)
