"""Loads the declarations in ``templates/``, and a user's own Template."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import probe
from probe.errors import ConfigError
from probe.ipfix.elements import (
    DOCUMENTATION_PEN,
    Element,
    ElementTable,
    parse_elements,
    parse_registry,
)
from probe.ipfix.netflow9 import Netflow9Table, parse_netflow9
from probe.ipfix.options import OptionsDefinition, parse_options
from probe.ipfix.template import TemplateDefinition, parse_template

#: Files in ``templates/`` that are not Templates.
_NO_TEMPLATES = {"elements", "iana_registry", "netflow9", "options", "profiles", "values"}


def load_elements(private_pen: int = DOCUMENTATION_PEN) -> ElementTable:
    """Returns all known Information Elements.

    ``private_pen`` is the enterprise number for Sockflow's own.
    """
    if not 0 < private_pen < 1 << 32:
        raise ConfigError(f"private enterprise number {private_pen}: must be 1 to 4294967295")
    path = _directory() / "elements.txt"
    return parse_elements(_read(path), str(path), private_pen)


def load_registry() -> dict[int, Element]:
    """Returns all of IANA's elements by number, for decoders of what others send."""
    path = _directory() / "iana_registry.txt"
    return parse_registry(_read(path), str(path))


def load_netflow9(elements: ElementTable) -> Netflow9Table:
    """Returns the field types and lengths of NetFlow v9."""
    path = _directory() / "netflow9.txt"
    return parse_netflow9(_read(path), str(path), elements)


def load_options(elements: ElementTable) -> dict[str, OptionsDefinition]:
    """Returns the Options Templates by their names."""
    path = _directory() / "options.txt"
    return parse_options(_read(path), str(path), elements)


def profiles_file() -> tuple[str, str]:
    """Returns (text, path) of the declarations of profiles."""
    path = _directory() / "profiles.txt"
    return _read(path), str(path)


def read_wireshark() -> str:
    """Returns ``templates/wireshark.lua``, which ``wireshark_dissector`` completes."""
    return _read(_directory() / "wireshark.lua")


def load_template(name: str, elements: ElementTable) -> TemplateDefinition:
    """Returns the Template of that name in ``templates/`` ('full', 'numeric'), else of that path.

    A * behind the name lifts the limit on the number of fields.
    """
    if name.endswith("*"):
        return replace(load_template(name[:-1], elements), limit=0)
    shipped = _directory() / f"{name}.txt"
    is_shipped = name not in _NO_TEMPLATES and "/" not in name and shipped.is_file()
    path = shipped if is_shipped else Path(name)
    return parse_template(_read(path), str(path), elements)


def _directory() -> Path:
    """Returns ``templates/`` inside the installed package, or beside it in a checkout."""
    package = Path(probe.__file__).parent
    for directory in (package / "templates", package.parent / "templates"):
        if (directory / "elements.txt").is_file():
            return directory
    raise ConfigError("templates/elements.txt is missing: the installation is not complete")


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read template {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"template {path} is not text in UTF-8") from None
