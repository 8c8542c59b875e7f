"""Makes the reference of Information Elements from the files in ``templates/``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from docs.make.text import code, made_by, table
from probe.ipfix.elements import DOCUMENTATION_PEN, Element, content_lines
from probe.ipfix.template import Field
from probe.mapping import (
    for_biflow,
    load_elements,
    load_netflow9,
    load_options,
    load_profiles,
    load_template,
)
from probe.mapping.tables import ATTRIBUTES, COLUMNS

TEMPLATES = Path(__file__).resolve().parents[2] / "templates"
_OWNERS = ("source_owner", "destination_owner")
_INTRODUCTION = """
# Element reference

Every Information Element that Sockflow sends, and what it means in Sockflow's records. Types,
semantics and units are those of the [IPFIX registry](https://www.iana.org/assignments/ipfix)
(RFC 7012).

- **number** is ENTERPRISE/ELEMENT; IANA's elements have the element only. `pen` is Sockflow's own
  enterprise: the setting `--pen`, by default 32473.
- **v9** is the field type in NetFlow v9, and `-` where v9 does not have the element.
- **profiles** are those that send the element. `--template FILE` sends any element of the first two
  tables: write the names into the file, one a line.

A record counts one direction of a Flow: *source* is the sender, *destination* the receiver. In a
Biflow (`?biflow=rfc5103`) the source is the client.
"""
_KNOWN = """
## Elements that are only read

`sockflow collect` knows these elements of other exporters besides IANA's whole registry
(`templates/iana_registry.txt`). Sockflow sends none of them.
"""


@dataclass(frozen=True, slots=True)
class Part:
    """A table of the page, with its heading, a sentence, and its elements in order."""

    heading: str
    about: str
    names: list[str]


def elements_page() -> str:
    """Returns the text of docs/elements.md."""
    return "\n".join([
        made_by("templates/elements.txt, values.txt, profiles.txt and options.txt"),
        _INTRODUCTION.strip(),
        *(line for part in _parts() for line in _part(part)),
        _KNOWN,
        *table(("element", "number", "type", "meaning"), _known_rows()),
        "",
    ])  # fmt: skip


def read_sentences() -> dict[str, str]:
    """Returns element name -> sentence, of ``templates/elements.txt``."""
    lines = content_lines((TEMPLATES / "elements.txt").read_text("utf-8"))
    rows = (line.split(maxsplit=5) for _, line in lines)
    return {name: "".join(words).strip() for name, _, _, _, _, *words in rows}


def read_values() -> dict[str, list[tuple[str, str]]]:
    """Returns element name -> (value, meaning) in order, of ``templates/values.txt``."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for _, line in content_lines((TEMPLATES / "values.txt").read_text("utf-8")):
        names, value, meaning = line.split(maxsplit=2)
        for name in names.split(","):
            found[name].append((value, meaning))
    return dict(found)


def in_flows() -> list[str]:
    """Returns the elements that Flow Records may have, in the order of elements.txt."""
    return [element.name for element in load_elements() if element.name in COLUMNS | ATTRIBUTES]


def in_options() -> dict[str, list[str]]:
    """Returns element -> the Options Templates that have it."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, definition in load_options(load_elements()).items():
        for field in (*definition.scope, *definition.fields):
            found[field.element.name].append(name)
    return dict(found)


def _parts() -> Iterator[Part]:
    flows, options = in_flows(), in_options()
    owners = [name for name in flows if name in ATTRIBUTES and ATTRIBUTES[name].key in _OWNERS]
    reverse = [name for name in flows if _is_reverse(name)]
    numbers = [name for name in flows if name not in owners and name not in reverse]
    yield Part("Flows", "Addresses, times, counters and what TCP measured.", numbers)
    yield Part("Owners", "Who is at both ends: process, user, container, Pod.", owners)
    yield Part("Reverse elements", "The responder's half of a Biflow (RFC 5103).", reverse)
    only_options = [e.name for e in load_elements() if e.name in options and e.name not in flows]
    yield Part(
        "Options",
        "What the probe says of itself and of interfaces. *Options* names the lines of "
        "`templates/options.txt` that have the element.",
        only_options,
    )


def _is_reverse(name: str) -> bool:
    return name.startswith("reverse") or name == "RETRANSMITTED_OUT_PKTS"


def _part(part: Part) -> Iterator[str]:
    is_options = part.heading == "Options"
    elements, sentences = load_elements(), read_sentences()
    sent = in_options() if is_options else _in_profiles()
    field_types = _field_types()
    yield from ("", f"## {part.heading}", "", part.about, "")
    heads = ("element", "number", "type, semantics, units", "v9", "meaning")
    last = "options" if is_options else "profiles"
    yield from table((*heads, last), (
        (
            f"`{name}`", _number(elements[name]), _kind(name), field_types.get(name, "-"),
            _sentence(sentences[name]), _senders(sent.get(name, [])),
        )
        for name in part.names
    ))  # fmt: skip
    values = read_values()
    yield from _values([name for name in part.names if name in values])


def _values(names: Iterable[str]) -> Iterator[str]:
    """Yields the values of enumerations. Elements with the same values share a table."""
    together: dict[tuple[tuple[str, str], ...], list[str]] = defaultdict(list)
    values = read_values()
    for name in names:
        together[tuple(values[name])].append(name)
    for rows, alike in together.items():
        yield from ("", f"Values of {' and '.join(map(code, alike))}:", "")
        yield from table(("value", "meaning"), rows)


def _in_profiles() -> dict[str, list[str]]:
    """Returns element -> names of the profiles that send it, with reverse elements of Biflows."""
    elements = load_elements()
    found: dict[str, list[str]] = defaultdict(list)
    for profile in load_profiles().values():
        definition = for_biflow(load_template(profile.template, elements), elements)
        for name in definition.names():
            found[name].append(profile.name)
    return dict(found)


def _senders(names: list[str]) -> str:
    """Returns the names, or 'all but' the others if only a few profiles are missing."""
    others = [name for name in load_profiles() if name not in names]
    if not names:
        return "none"
    if len(others) > 3:
        return ", ".join(names)
    return f"all but {', '.join(others)}" if others else "all"


def _field_types() -> dict[str, str]:
    """Returns element -> field type in NetFlow v9."""
    elements = load_elements()
    netflow9 = load_netflow9(elements)
    fields = {one.name: netflow9.field(Field(one, one.type.length)) for one in elements}
    return {name: str(field.element.id) for name, field in fields.items() if field}


def _known_rows() -> Iterator[tuple[str, str, str, str]]:
    known = {*in_flows(), *in_options()}
    sentences = read_sentences()
    for element in load_elements():
        if element.name not in known:
            sentence = _sentence(sentences[element.name])
            yield f"`{element.name}`", _number(element), element.type.name, sentence


def _number(element: Element) -> str:
    pen = "pen" if element.pen == DOCUMENTATION_PEN else element.pen
    return f"{pen}/{element.id}" if pen else str(element.id)


def _kind(name: str) -> str:
    """Returns type, semantics and units as elements.txt spells them."""
    for _, line in content_lines((TEMPLATES / "elements.txt").read_text("utf-8")):
        words = line.split(maxsplit=5)
        if words[0] == name:
            return ", ".join(word for word in words[2:5] if word != "-")
    raise KeyError(name)


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."
