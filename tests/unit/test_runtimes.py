"""The registry of container runtimes: flags, settings and openers follow from it."""

from __future__ import annotations

import argparse

import pytest

from probe.commands.runtime_flags import add_switches
from probe.config import SETTINGS, RunConfig, check
from probe.errors import ConfigError
from probe.owners import runtimes
from probe.owners.kubernetes import KubernetesSettings
from probe.owners.runtime import KnownContainers
from probe.owners.runtimes import RUNTIMES, Choice, RuntimeKind, open_runtimes


class Podman(KnownContainers):
    """A runtime that only the tests have."""

    def __init__(self) -> None:
        super().__init__()
        self.is_closed = False

    def patience_s(self, in_pod: bool = False) -> float:
        return 0.0

    def close(self) -> None:
        self.is_closed = True


def _kind(name: str, runtime: Podman | None, chosen: list[Choice]) -> RuntimeKind:
    def open_(choice: Choice, pods: KubernetesSettings) -> Podman | None:
        chosen.append(choice)
        return runtime

    return RuntimeKind(name, name.title(), "URL", ("unix://",), f"names by {name}", open_)


def test_a_line_makes_flags_and_an_opener(monkeypatch: pytest.MonkeyPatch) -> None:
    podman, chosen = Podman(), list[Choice]()
    kinds = (_kind("absent", None, chosen), _kind("podman", podman, chosen))
    monkeypatch.setattr(runtimes, "RUNTIMES", kinds)
    monkeypatch.setattr("probe.commands.runtime_flags.RUNTIMES", kinds)
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS)
    add_switches(parser)
    assert "names by podman" in parser.format_help()
    choices = vars(parser.parse_args(["--podman", "unix:///run/podman.sock"]))
    assert open_runtimes(choices, KubernetesSettings()) == {kinds[1]: podman}
    assert chosen == ["auto", "unix:///run/podman.sock"]
    assert vars(parser.parse_args(["--no-podman"])) == {"podman": False}


def test_a_runtime_that_cannot_be_had_leaves_none_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(choice: Choice, pods: KubernetesSettings) -> None:
        raise ConfigError("no")

    podman = Podman()
    refused = RuntimeKind("refused", "Refused", "URL", (), "", refuse)
    monkeypatch.setattr(runtimes, "RUNTIMES", (_kind("podman", podman, []), refused))
    with pytest.raises(ConfigError):
        open_runtimes({}, KubernetesSettings())
    assert podman.is_closed


def test_every_runtime_has_a_setting() -> None:
    for kind in RUNTIMES:
        assert getattr(RunConfig(), kind.name) == "auto"
        assert SETTINGS[kind.name].begins == kind.begins
        assert check({kind.name: kind.begins[0] + "x"}) == {kind.name: kind.begins[0] + "x"}
        with pytest.raises(ConfigError, match=kind.name):
            check({kind.name: "x"})
