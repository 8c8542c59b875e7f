"""Settings of the agent, from ``--snmp`` and the table ``[snmp]`` of the configuration."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from probe.errors import ConfigError

PORT = 161
AUTHENTICATIONS = ("md5", "sha", "sha224", "sha256", "sha384", "sha512")
#: No standard covers more than 128 bits: keys are extended as by net-snmp or, with "c", by Cisco.
PRIVACIES = ("des", "aes", "aes192", "aes256", "aes192c", "aes256c")
_WHERE = re.compile(r"(?:\[(?P<six>[^]]+)\]|(?P<four>[^:]+))(?::(?P<port>\d{1,5}))?")
_DEFAULT_COMMUNITY = "public"
_LEAST_KEY = 8  # RFC 3414 section 11.2
_USER_KEYS = ("name", "auth", "auth-key", "priv", "priv-key")
_KEYS = ("listen", "communities", "users", "interfaces", "contact", "location")


@dataclass(frozen=True, slots=True)
class SnmpUser:
    """A user of version 3 (USM). Without ``auth`` everyone who knows the name may read."""

    name: str
    auth: str = ""
    auth_key: str = ""
    priv: str = ""
    priv_key: str = ""


@dataclass(frozen=True, slots=True)
class SnmpSettings:
    """Settings of the agent; ``interfaces`` has patterns of names, or 'all', or 'veth' alone."""

    host: str = ""
    port: int = 0
    communities: tuple[str, ...] = ()
    users: tuple[SnmpUser, ...] = ()
    interfaces: tuple[str, ...] = ("all",)
    contact: str = ""
    location: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def from_json(values: Mapping[str, Any]) -> SnmpSettings:
    users = tuple(SnmpUser(**user) for user in values["users"])
    lists = {key: tuple(values[key]) for key in ("communities", "interfaces")}
    return SnmpSettings(**{**values, **lists, "users": users})


def check_snmp(value: object) -> SnmpSettings:
    """Returns the settings from an address, as the flag gives it, or from a table.

    Raises ConfigError.
    """
    if isinstance(value, str):
        value = {"listen": value}
    if not isinstance(value, Mapping):
        raise ConfigError("snmp must be HOST:PORT or a table")
    for key in value:
        if key not in _KEYS:
            raise ConfigError(f"unknown setting snmp.{key} (known: {', '.join(_KEYS)})")
    settings = SnmpSettings(
        communities=_texts("communities", value.get("communities", ())),
        users=_users(value.get("users", ())),
        interfaces=_patterns(value.get("interfaces", "all")),
        contact=_text("contact", value.get("contact", "")),
        location=_text("location", value.get("location", "")),
    )
    return listen_at(settings, _text("listen", value["listen"])) if "listen" in value else settings


def listen_at(settings: SnmpSettings, where: str) -> SnmpSettings:
    """Returns address and port of ADDRESS:PORT, with IPv6 in brackets. Raises ConfigError."""
    match = _WHERE.fullmatch(where)
    try:
        address = ipaddress.ip_address((match and (match["six"] or match["four"])) or "")
    except ValueError:
        raise ConfigError(f"snmp must be ADDRESS:PORT, as 127.0.0.1:1161, not {where!r}") from None
    number = int((match and match["port"]) or PORT)
    if not 0 < number < 65536:
        raise ConfigError(f"snmp: {number} is no port")
    return replace(settings, host=str(address), port=number)


def complete(settings: SnmpSettings) -> SnmpSettings:
    """Adds who may read: this host alone, unless the file says otherwise. Raises ConfigError."""
    if settings.communities or settings.users:
        return settings
    if not ipaddress.ip_address(settings.host).is_loopback:
        raise ConfigError(
            f"snmp at {settings.host}: say in the configuration file who may ask, for example "
            '[snmp] communities = ["..."] or [[snmp.users]]'
        )
    return replace(settings, communities=(_DEFAULT_COMMUNITY,))


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"snmp.{key} must be text, not {value!r}")
    return value


def _texts(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"snmp.{key} must be a list")
    found = tuple(_text(key, one) for one in value)
    if "" in found:
        raise ConfigError(f"snmp.{key} must not be empty")
    return found


def _patterns(value: object) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) and value else _texts("interfaces", value)


def _users(value: object) -> tuple[SnmpUser, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError("snmp.users must be a list of tables: [[snmp.users]]")
    users = tuple(_user(one) for one in value)
    if len({user.name for user in users}) != len(users):
        raise ConfigError("snmp.users: two have the same name")
    return users


def _user(value: object) -> SnmpUser:
    if not isinstance(value, Mapping) or not value.get("name"):
        raise ConfigError(f"snmp.users: each needs a name, and may have {', '.join(_USER_KEYS)}")
    for key in value:
        if key not in _USER_KEYS:
            raise ConfigError(f"unknown setting snmp.users.{key} (known: {', '.join(_USER_KEYS)})")
    user = SnmpUser(**{key.replace("-", "_"): _text(f"users.{key}", value.get(key, ""))
                       for key in _USER_KEYS})  # fmt: skip
    _check_protocol(user, "auth", user.auth, user.auth_key, AUTHENTICATIONS)
    _check_protocol(user, "priv", user.priv, user.priv_key, PRIVACIES)
    if user.priv and not user.auth:
        raise ConfigError(f"snmp user {user.name}: priv needs auth")
    return user


def _check_protocol(
    user: SnmpUser, key: str, name: str, secret: str, known: tuple[str, ...]
) -> None:
    if name and name not in known:
        raise ConfigError(f"snmp user {user.name}: {key} must be one of {', '.join(known)}")
    if bool(name) != bool(secret):
        raise ConfigError(f"snmp user {user.name}: {key} and {key}-key belong together")
    if secret and len(secret) < _LEAST_KEY:
        raise ConfigError(f"snmp user {user.name}: {key}-key has less than {_LEAST_KEY} characters")
