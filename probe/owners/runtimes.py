"""The registry of container runtimes: one line a runtime. Flags, settings and the probe read it.

The opener of a runtime imports its module, so that only those in use take memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from probe.owners.kubernetes import KubernetesSettings
    from probe.owners.runtime import Runtime

#: What the user chose for one runtime: True, False, 'auto', or where its API is.
Choice = bool | str


@dataclass(frozen=True, slots=True)
class RuntimeKind:
    """One runtime.

    name: its flag (``--NAME``, ``--no-NAME``) and its setting. title: how texts name it.
    place: how help calls the value of the flag. begins: with what such a value may begin.
    help: what the flag does, in one sentence.
    open: returns the runtime at work, or None if there is none. Raises ConfigError if the user
    asked for it and it cannot be had.
    """

    name: str
    title: str
    place: str
    begins: tuple[str, ...]
    help: str
    open: Callable[[Choice, KubernetesSettings], Runtime | None]


def _open_kubernetes(choice: Choice, pods: KubernetesSettings) -> Runtime | None:
    from probe.owners.kubernetes import open_kubernetes

    return open_kubernetes(replace(pods, where=choice))


def _open_docker(choice: Choice, pods: KubernetesSettings) -> Runtime | None:
    from probe.owners.docker import open_docker

    return open_docker(choice)


#: The first that names a container wins. Kubernetes knows more of Pods that it runs in Docker.
RUNTIMES: tuple[RuntimeKind, ...] = (
    RuntimeKind(
        "kubernetes",
        "Kubernetes",
        "KUBECONFIG",
        ("/", "./", "../", "~/"),
        "names Pods by the Kubernetes API, with the rights of this Pod or of the kubeconfig file "
        "(default: in a Pod that may)",
        _open_kubernetes,
    ),
    RuntimeKind(
        "docker",
        "Docker",
        "URL",
        ("unix://", "tcp://", "http://", "https://"),
        "names containers by Docker's API, at unix:///var/run/docker.sock or DOCKER_HOST unless a "
        "URL is given (default: if the package docker is installed)",
        _open_docker,
    ),
)


def open_runtimes(
    choices: Mapping[str, Choice], pods: KubernetesSettings
) -> dict[RuntimeKind, Runtime]:
    """Returns the runtimes at work, by kind. A runtime without a choice is on 'auto'.

    Raises ConfigError if the user asked for one that cannot be had; then none stays open.
    """
    opened: dict[RuntimeKind, Runtime] = {}
    try:
        for kind in RUNTIMES:
            runtime = kind.open(choices.get(kind.name, "auto"), pods)
            if runtime is not None:
                opened[kind] = runtime
    except BaseException:
        for runtime in opened.values():
            runtime.close()
        raise
    return opened
