"""Finds the container for which a process of Docker's userland proxy works.

``docker-proxy`` serves a published port if netfilter does not, as for connections from loopback.
Then there are two connections, each with a process of the host at one end. The command line of that
process names the address of the container.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

from probe.flow.owner import Owner

_NAME, _DAEMON = "docker-proxy", "dockerd"
_FLAGS = ("-container-ip", "--container-ip")
_PAUSE_S = 1.0
#: First connections wait this long for names: the proxy starts before its container.
_PATIENCE_S = 2.0


def read_target(pid: int, proc: str = "/proc") -> str:
    """Returns the address to which a proxy forwards, '' for none.

    It reads nothing else of the command line, so it may be used even if command lines must stay on
    the host.
    """
    try:
        line = Path(f"{proc}/{pid}/cmdline").read_bytes().decode("ascii", "replace")
        return str(ip_address(next(_values(line.split("\0")), "")))
    except (OSError, ValueError):
        return ""


def _values(arguments: list[str]) -> Iterator[str]:
    """Yields the values of the flag, as Go's package flag reads it: -flag X, --flag X, --flag=X."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, separator, value = argument.partition("=")
        if name in _FLAGS:
            yield value if separator else following


def _is_proxy(owner: Owner) -> bool:
    """Returns True for a proxy that Docker's daemon started.

    Anybody may give a program that name and those arguments. But only root can run it as root, as a
    child of root's dockerd.
    """
    is_named = owner.process.name == _NAME and owner.process.path.endswith(f"/{_NAME}")
    is_of_daemon = owner.parent.name == _DAEMON and owner.parent.path.endswith(f"/{_DAEMON}")
    is_roots = owner.process.uid == owner.parent.uid == 0 and not owner.process.has_own_users
    is_exact = (
        owner.process.path_source == "walked" and bool(owner.process.pid) and not owner.container.id
    )
    return is_named and is_of_daemon and is_roots and is_exact


class Proxies:
    """Owners that are proxies of a container which is not known yet.

    ``find_addresses`` returns address -> id of the container that has it now.
    """

    def __init__(self, find_addresses: Callable[[], dict[str, str]]) -> None:
        self._find_addresses = find_addresses
        self._targets: dict[int, tuple[str, float]] = {}
        self._due_s = 0.0

    def note(self, index: int, owner: Owner, now_s: float) -> None:
        """Notes an owner if its process is a proxy of Docker's daemon."""
        if _is_proxy(owner):
            target = read_target(owner.process.pid or 0)
            if target:
                self._targets[index] = target, now_s

    def forget(self, index: int) -> None:
        self._targets.pop(index, None)

    def young(self, now_s: float) -> list[int]:
        """Returns the owners whose container may still become known soon."""
        return [i for i, (_, since_s) in self._targets.items() if now_s - since_s < _PATIENCE_S]

    def resolve(self, now_s: float) -> dict[int, str]:
        """Returns owner -> container id, once for each container that has become known."""
        if not self._targets or now_s < self._due_s:
            return {}
        self._due_s = now_s + _PAUSE_S
        containers = self._find_addresses()
        found = {
            index: containers[target]
            for index, (target, _) in self._targets.items()
            if target in containers
        }
        for index in found:
            del self._targets[index]
        return found
