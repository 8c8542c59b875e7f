"""Reads the settings of ``sockflow run``: a TOML file and flags become one checked dataclass.

``SETTINGS`` lists what may be set, with its kind and bounds. Flags override the file, and the file
overrides the defaults of ``RunConfig``. The keys of the file are the names of the flags without the
leading dashes (``active-timeout = 30``). privacy and snmp are tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from probe.errors import ConfigError
from probe.mapping import Privacy
from probe.opening import warn_if_readable
from probe.owners.runtimes import RUNTIMES
from probe.snmp.settings import SnmpSettings, check_snmp
from probe.sources.registry import find_source, source_names

COLLECTORS = source_names()

#: Default of the active timeout for live views, which then show changes every two seconds.
LIVE_ACTIVE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The settings of a run. Times are in seconds. Without destinations a live view is shown."""

    destinations: tuple[str, ...] = ()
    collector: str = "auto"
    duration: float | None = None
    active_timeout: float = 60.0
    idle_timeout: float = 15.0
    interval: float = 1.0
    odid: int = 1
    pen: int = 32473
    profile: str = ""  # kubernetes if Kubernetes is in use, else full
    template: str | None = None
    nat: bool = True
    container_users: bool = True
    docker: bool | str = "auto"
    kubernetes: bool | str = "auto"
    kubernetes_node: str = ""
    kubernetes_labels: tuple[str, ...] = ()
    kubernetes_remote: bool = False
    kubernetes_cluster: str = ""
    template_refresh: float = 60.0
    max_flows: int = 131072
    events: bool = False
    snmp: SnmpSettings | None = None
    prometheus: str | None = None
    prometheus_limit: int = 1024
    interface_interval: float = 60.0
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    verbose: int = 0
    privacy: Privacy = field(default_factory=Privacy)


@dataclass(frozen=True, slots=True)
class Setting:
    """The kind and bounds of a value. ``low`` and ``high`` are inclusive."""

    kind: type
    low: float | None = None
    high: float | None = None
    many: bool = False
    choices: tuple[str, ...] = ()
    #: If given, the value is a boolean, 'auto', or a text that begins with one of these.
    begins: tuple[str, ...] = ()


SETTINGS: dict[str, Setting] = {
    "destinations": Setting(str, many=True),
    "collector": Setting(str, choices=COLLECTORS),
    "duration": Setting(float, low=0),
    "active_timeout": Setting(float, low=1),
    "idle_timeout": Setting(float, low=1),
    "interval": Setting(float, low=0.01, high=3600),
    "odid": Setting(int, low=0, high=2**32 - 1),
    "pen": Setting(int, low=1, high=2**32 - 1),
    "profile": Setting(str),
    "template": Setting(str),
    "nat": Setting(bool),
    "container_users": Setting(bool),
    **{kind.name: Setting(str, begins=kind.begins) for kind in RUNTIMES},
    "kubernetes_node": Setting(str),
    "kubernetes_labels": Setting(str, many=True),
    "kubernetes_remote": Setting(bool),
    "kubernetes_cluster": Setting(str),
    "template_refresh": Setting(float, low=1),
    "max_flows": Setting(int, low=1, high=2**26),
    "events": Setting(bool),
    "prometheus": Setting(str),
    "prometheus_limit": Setting(int, low=0, high=100_000),
    "interface_interval": Setting(float, low=1),
    "include": Setting(str, many=True),
    "exclude": Setting(str, many=True),
    "verbose": Setting(int, low=0),
}
_TABLES = ("privacy", "snmp")
PRIVACY = tuple(field.name for field in fields(Privacy))


def read_file(path: str) -> dict[str, object]:
    """Returns the values of a TOML file, with underscores in keys.

    Raises ConfigError if the file cannot be read.
    """
    import tomllib

    try:
        with open(path, "rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    try:
        checked = check(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if "snmp" in checked:
        warn_if_readable(path, "communities or keys of SNMP")
    return checked


def build(flags: Mapping[str, object], path: str | None = None) -> RunConfig:
    """Returns the configuration of a run. ``flags`` holds only flags that were given.

    Raises ConfigError if a setting cannot be used.
    """
    values: dict[str, Any] = read_file(path) if path else {}
    in_file = values.get("snmp")
    values |= check(flags)
    values["snmp"] = _merge_snmp(in_file, values.get("snmp"))
    source = find_source(values.get("collector", ""))
    if values.get("events") and source and not source.tells_events:
        raise ConfigError(f"events need the collector ebpf: {source.title} does not tell of them")
    if not values.get("destinations"):
        values.setdefault("active_timeout", LIVE_ACTIVE_TIMEOUT_S)
    return RunConfig(**values)


def _merge_snmp(in_file: SnmpSettings | None, now: SnmpSettings | None) -> SnmpSettings | None:
    """Merges the address from the flag with all other settings from the file.

    Returns None without an address: the agent is then not in use.
    """
    if in_file and now and now is not in_file:
        now = replace(in_file, host=now.host, port=now.port)
    return now if now and now.host else None


def check(values: Mapping[str, object]) -> dict[str, object]:
    """Returns the checked values by the names of RunConfig.

    Raises ConfigError, which names the key, for an unknown key or a bad value.
    """
    checked: dict[str, object] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name in checked:
            raise ConfigError(f"{key} is set twice")
        if name == "privacy":
            checked[name] = _check_privacy(value)
        elif name == "snmp":
            checked[name] = check_snmp(value)
        elif name in SETTINGS:
            checked[name] = _check_setting(key, value, SETTINGS[name])
        else:
            raise ConfigError(f"unknown setting {key!r} (known: {_known((*SETTINGS, *_TABLES))})")
    return checked


def _check_privacy(value: object) -> Privacy:
    if not isinstance(value, Mapping):
        raise ConfigError("privacy must be a table")
    chosen: dict[str, bool] = {}
    for key, allowed in value.items():
        name = str(key).replace("-", "_")
        if name not in PRIVACY:
            raise ConfigError(f"unknown setting privacy.{key} (known: {_known(PRIVACY)})")
        if not isinstance(allowed, bool):
            raise ConfigError(f"privacy.{key} must be true or false")
        chosen[name] = allowed
    return Privacy(**chosen)


def _check_setting(key: str, value: object, setting: Setting) -> object:
    if not setting.many:
        return _check_one(key, value, setting)
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{key} must be a list")
    return tuple(_check_one(key, item, setting) for item in value)


def _check_one(key: str, value: object, setting: Setting) -> object:
    shown = key.replace("_", "-")
    if setting.begins:
        return _check_switch(shown, value, setting.begins)
    if setting.kind is float and type(value) is int:
        value = float(value)
    if type(value) is not setting.kind:
        raise ConfigError(f"{shown} must be {_KINDS[setting.kind]}, not {value!r}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        _check_bounds(shown, value, setting)
    if setting.choices and value not in setting.choices:
        raise ConfigError(f"{shown} must be one of {', '.join(setting.choices)}, not {value!r}")
    return value


def _check_switch(key: str, value: object, begins: tuple[str, ...]) -> object:
    is_place = isinstance(value, str) and value.startswith(begins)
    if isinstance(value, bool) or value == "auto" or is_place:
        return value
    raise ConfigError(
        f"{key} must be true, false, 'auto', or begin with {', '.join(begins)}, not {value!r}"
    )


def _check_bounds(key: str, value: float, setting: Setting) -> None:
    if value != value or value in (float("inf"), float("-inf")):
        raise ConfigError(f"{key} must be a finite number")
    if setting.low is not None and value < setting.low:
        raise ConfigError(f"{key} must be at least {setting.low:g}, not {value:g}")
    if setting.high is not None and value > setting.high:
        raise ConfigError(f"{key} must be at most {setting.high:.0f}, not {value:g}")


def _known(names: Mapping[str, object] | tuple[str, ...]) -> str:
    return ", ".join(name.replace("_", "-") for name in names)


_KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
