"""The probe's side of the agent: opens its socket, runs its process, and sends it names."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from probe.errors import ConfigError
from probe.flow.label import names_label
from probe.flow.owner import ContainerNames
from probe.snmp.settings import SnmpSettings, complete

_log = logging.getLogger(__name__)
#: Runs the agent in isolated mode (-I), so that Python searches neither the working directory nor
#: PYTHONPATH for modules. The arguments are folders, appended so that they hide no other module.
_BOOT = """
import runpy, sys
sys.path += sys.argv[3:]
runpy.run_module("probe.snmp", run_name="__main__", alter_sys=True)
"""
_LEAVE_S = 3.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
#: A process that lived for so long was healthy; the pause before the next starts small again.
_WELL_S = 300.0


class SnmpAgent:
    """Runs the agent from ``open`` to ``close``; only ``close`` may block.

    ``open`` raises ConfigError if the socket cannot be bound.
    """

    def __init__(
        self,
        settings: SnmpSettings,
        pen: int,
        verbose: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = complete(settings)
        self._first = {
            "settings": self._settings.as_json(),
            "pen": pen,
            "verbose": verbose,
            "host": _host_id(),
        }
        self._monotonic = monotonic
        self._source: socket.socket | None = None
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._unsent = b""
        self._told: bytes = b""
        self._pause_s, self._start_at = _FIRST_PAUSE_S, 0.0
        self._started_at = 0.0
        #: The number of times that the process ended by itself.
        self.deaths = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def open(self) -> None:
        if importlib.util.find_spec("pysnmp") is None:
            raise ConfigError("the SNMP agent needs pysnmp: pip install 'sockflow[snmp]'")
        host, port = self._settings.host, self._settings.port
        self._source = socket.socket(
            socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM
        )
        try:
            self._source.bind((host, port))
        except OSError as error:
            self._source.close()
            raise ConfigError(f"snmp at {host} port {port}: {error.strerror}") from None
        self._start()
        self.pump()

    def tell(self, containers: Mapping[int, tuple[str, ContainerNames | None, str]]) -> None:
        """Sends who is behind interfaces (``InterfaceTable.containers``), if that changed."""
        texts = {
            str(index): [names_label(container_id, names), inner_name]
            for index, (container_id, names, inner_name) in containers.items()
        }
        line = json.dumps(texts, separators=(",", ":")).encode() + b"\n"
        if line != self._told:
            self._told = line
            self._unsent += line
        self.pump()

    def pump(self) -> None:
        """Sends what is queued, and restarts the process if it has ended."""
        if self._process is None or self._process.poll() is not None:
            self._recover()
        if self._control and self._unsent:
            with contextlib.suppress(OSError):  # the socket is full, or the process has just ended
                self._unsent = self._unsent[self._control.send(self._unsent) :]

    def close(self) -> None:
        if self._control:
            self._control.close()  # the process ends with it
            self._control = None
        if self._process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_LEAVE_S)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
        if self._source:
            self._source.close()

    def _recover(self) -> None:
        now = self._monotonic()
        if self._control:
            self._control.close()
            self._control = None
            self.deaths += 1
            if now - self._started_at > _WELL_S:
                self._pause_s = _FIRST_PAUSE_S
            self._start_at = now + self._pause_s
            status = self._process.returncode if self._process else None
            _log.warning("the SNMP agent ended with status %s, starting it again in %g s",
                         status, self._pause_s)  # fmt: skip
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        if now >= self._start_at:
            self._start()

    def _start(self) -> None:
        assert self._source
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        descriptors = (theirs.fileno(), self._source.fileno())
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOT, *map(str, descriptors), *_import_path()],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
            )
        self._control = ours
        self._started_at = self._monotonic()
        self._unsent = json.dumps(self._first).encode() + b"\n" + self._told


def _import_path() -> list[str]:
    """Returns the folders from which this process imports, however they were installed.

    In isolated mode Python finds site-packages, but neither a clone nor a user's folder.
    """
    found = (importlib.util.find_spec(name) for name in ("probe", "pysnmp"))
    origins = [Path(spec.origin).resolve() for spec in found if spec and spec.origin]
    return list(dict.fromkeys(str(origin.parents[1]) for origin in origins))


def _host_id() -> str:
    """Returns an id that stays the same on the same host."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with contextlib.suppress(OSError):
            if found := Path(path).read_text().strip():
                return found
    return os.uname().nodename
