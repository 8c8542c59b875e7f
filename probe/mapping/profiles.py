"""Profiles: the Template and the options that are known to work with a collector."""

from __future__ import annotations

from dataclasses import dataclass

from probe.errors import ConfigError
from probe.ipfix.elements import content_lines
from probe.mapping.files import profiles_file

#: Profiles of collectors that write names into JSON without escapes.
_WITH_PLAIN_STRINGS = ("goflow2",)


@dataclass(frozen=True, slots=True)
class Profile:
    """One line of ``templates/profiles.txt``.

    ``template`` is a name for ``load_template``; ``options`` are names of ``load_options``.
    """

    name: str
    template: str
    options: tuple[str, ...]
    note: str

    @property
    def has_plain_strings(self) -> bool:
        return self.name in _WITH_PLAIN_STRINGS


def parse_profiles(text: str, source: str) -> dict[str, Profile]:
    """Reads ``templates/profiles.txt``. Raises ConfigError, which names ``source`` and the line."""
    found: dict[str, Profile] = {}
    for number, line in content_lines(text):
        words = line.split(maxsplit=3)
        if len(words) < 4:
            raise ConfigError(f"{source}:{number}: expected: name, template, options, note")
        name, template, options, note = words
        if name in found:
            raise ConfigError(f"{source}:{number}: profile {name} is there twice")
        names = () if options == "-" else tuple(options.split(","))
        found[name] = Profile(name, template, names, note)
    return found


def load_profiles() -> dict[str, Profile]:
    """Returns all profiles by name, in the order of the file."""
    return parse_profiles(*profiles_file())


def load_profile(name: str) -> Profile:
    """Returns the profile of that name. Raises ConfigError that lists the existing ones."""
    known = load_profiles()
    if name not in known:
        raise ConfigError(f"there is no profile {name!r}: use one of {', '.join(known)}")
    return known[name]
