"""Reads the names of containers from Docker's API: a list at the beginning, then events.

A thread of its own speaks with the API, and metering reads only what that thread has learned. So an
API that is slow, hangs, answers garbage or is absent costs names and nothing else. Docker announces
a container when it is created, some tenths of a second before its first process runs.

After a failure the thread reads the list again. It also replays the events since the last one it
received, for containers that lived and died meanwhile.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from probe.errors import ConfigError
from probe.flow.owner import ContainerNames, Pod
from probe.owners.api_thread import Listener
from probe.owners.container import container_cgroup
from probe.owners.procfs import read_cgroup
from probe.owners.runtime import KnownContainers

log = logging.getLogger(__name__)

SOCKET = "/var/run/docker.sock"
_EVENTS = {"type": ["container"], "event": ["create", "start", "rename", "destroy"]}
_PROJECT, _SERVICE = "com.docker.compose.project", "com.docker.compose.service"
_KUBERNETES, _SANDBOX = "io.kubernetes", "POD"
_ANSWER_S = 5.0
#: A stream without events is opened again after this time: a dead peer may never close it.
_SILENCE_S = 60.0
_REPLAY_S = 2.0
#: Time to wait for the name of a new container: while the API is heard, and shortly after that.
_PATIENCE_S = 1.0
_LONG_PATIENCE_S = 3.0
_LONG_PATIENCE_LASTS_S = 15.0


class DockerNames:
    """A ``Runtime`` that names Docker's containers, from ``open`` to ``close``.

    ``url`` is written as in DOCKER_HOST. ``answer_s`` is the time-out of an answer, and
    ``silence_s`` that of a stream without events.
    """

    def __init__(
        self,
        url: str = f"unix://{SOCKET}",
        answer_s: float = _ANSWER_S,
        silence_s: float = _SILENCE_S,
    ) -> None:
        self.url = url
        self._answer_s, self._silence_s = answer_s, silence_s
        self._known = KnownContainers()
        self._in_pods = KnownContainers()  # from the labels of cri-dockerd
        self._cgroups: dict[str, str] = {}  # id -> the cgroup of its first process
        self._heard_s: float | None = None
        is_near = url.startswith("unix://")
        self._listener = Listener(f"Docker at {url}", self._listen, self.is_there, is_near)

    # -- called by metering --------------------------------------------------------------------
    def open(self) -> None:
        self._listener.open()

    def find(self, container_id: str, pod_uid: str = "") -> ContainerNames | None:
        """Returns the names of a container, or None.

        Its Pod is named only if its cgroup agrees, because an image may have any label.
        """
        in_pod = self._in_pods.find(container_id)
        if in_pod and pod_uid and in_pod.pod.uid == pod_uid:
            return in_pod
        return self._known.find(container_id)

    def take_changed(self) -> set[str]:
        return self._known.take_changed() | self._in_pods.take_changed()

    def is_at(self, container_id: str, cgroup: str, pod_uid: str) -> bool | None:
        known = self._cgroups.get(container_id)
        if not known:
            return None
        return cgroup == known or cgroup.startswith(f"{known}/")

    def patience_s(self, in_pod: bool = False) -> float:
        if self._listener.is_live:
            return _PATIENCE_S
        is_recent = self._listener.lost_for_s() < _LONG_PATIENCE_LASTS_S
        return _LONG_PATIENCE_S if is_recent else 0.0

    def close(self) -> None:
        self._listener.close()

    # -- run by the thread --------------------------------------------------------------------
    def is_there(self) -> bool:
        """Returns False if the socket of the API does not exist."""
        path = self.url.removeprefix("unix://")
        return path == self.url or os.path.exists(path)

    def _listen(self) -> None:
        """Reads the list, then events, until these stop for long. Raises any failure."""
        with contextlib.closing(_client(self.url, self._answer_s)) as api:
            since_s = (self._heard_s or time.time()) - _REPLAY_S
            asked_s = time.time()
            self._take_list(api, api.containers(all=True))
            self._heard_s = asked_s
            for event in _events(api, since_s, self._answer_s, self._silence_s):
                if event is None:
                    if self._listener.begin():
                        log.info("names of %d containers from %s", len(self._known),
                                 self._listener.who)  # fmt: skip
                    continue
                self._take(api, event)
                self._heard_s = time.time()
                if self._listener.is_closed:
                    return

    def _take_list(self, api: Any, found: list[Mapping[str, Any]]) -> None:
        named = {str(one["Id"]): (_own_name(one), str(one.get("Image", ""))) for one in found}
        labels = {str(one["Id"]): one.get("Labels") or {} for one in found}
        self._known.replace_all({key: _names(*named[key], labels[key]) for key in named})
        in_pods = ((key, _names_in_pod(image, labels[key])) for key, (_, image) in named.items())
        self._in_pods.replace_all({key: names for key, names in in_pods if names})
        self._cgroups = {key: path for key, path in self._cgroups.items() if key in named}
        for one in found:
            if one.get("State") == "running" and str(one["Id"]) not in self._cgroups:
                self._find_cgroup(api, str(one["Id"]))

    def _find_cgroup(self, api: Any, container_id: str) -> None:
        """Notes the cgroup of a container, so that no other cgroup of that name passes for it.

        It stays unknown if the probe sees other processes or other paths than the daemon does.
        """
        try:
            pid = int(api.inspect_container(container_id)["State"]["Pid"])
        except Exception:  # the container is gone or the answer is strange: is_at returns None
            return
        cgroup = container_cgroup(read_cgroup(f"/proc/{pid}") if pid else "", container_id)
        if cgroup and not cgroup.startswith("/.."):
            self._cgroups[container_id] = cgroup

    def _take(self, api: Any, event: Mapping[str, Any]) -> None:
        actor = event["Actor"]
        container_id, attributes = str(actor["ID"]), actor.get("Attributes") or {}
        if event["Action"] == "destroy":
            self._take_names(container_id, attributes)
            self._known.remove(container_id)
            self._in_pods.remove(container_id)
            self._cgroups.pop(container_id, None)
        else:
            self._take_names(container_id, attributes)
        if event["Action"] == "start":
            self._find_cgroup(api, container_id)

    def _take_names(self, container_id: str, attributes: Mapping[str, Any]) -> None:
        name = str(attributes.get("name", ""))
        if name:
            image = str(attributes.get("image", ""))
            self._known.add(container_id, _names(name, image, attributes))
            if in_pod := _names_in_pod(image, attributes):
                self._in_pods.add(container_id, in_pod)


def open_docker(setting: bool | str, socket: str = SOCKET) -> DockerNames | None:
    """Opens the names that the setting ``docker`` asks for: 'auto', True, False, or a URL.

    With 'auto' and without the package there are no names, and a log line tells how to get them. If
    Docker does not run yet, the probe waits for it. Raises ConfigError if names are required and
    the package is missing.
    """
    if setting is False:
        return None
    chosen = setting if isinstance(setting, str) and setting != "auto" else ""
    url = chosen or os.environ.get("DOCKER_HOST") or f"unix://{socket}"
    if not _is_installed():
        if setting != "auto":
            raise ConfigError(
                "--docker needs the Python package docker: pip install 'sockflow[docker]'"
            )
        if os.path.exists(socket) or os.environ.get("DOCKER_HOST"):
            log.info("no names of containers: pip install 'sockflow[docker]'")
        return None
    names = DockerNames(url)
    if not names.is_there():
        log.info("no Docker at %s yet: names of containers come as soon as it is there", url)
    names.open()
    return names


def _is_installed() -> bool:
    spec = importlib.util.find_spec("docker")
    return spec is not None and spec.origin is not None  # None for a mere directory


def _client(url: str, answer_s: float) -> Any:
    import docker
    from docker.utils import kwargs_from_env

    options = {**kwargs_from_env(), "base_url": url}
    return docker.APIClient(**options, version="auto", timeout=answer_s)


def _events(
    api: Any, since_s: float, answer_s: float, silence_s: float
) -> Iterator[Mapping[str, Any] | None]:
    """Yields None when the stream is open, then events; ends after ``silence_s`` without any.

    ``api.events`` cannot be used, because it waits without a limit.
    """
    parameters = {"since": f"{since_s:.9f}", "filters": json.dumps(_EVENTS)}
    response = api.get(
        f"{api.base_url}/v{api.api_version}/events",
        params=parameters, stream=True, timeout=(answer_s, silence_s),
    )  # fmt: skip
    with response:
        response.raise_for_status()
        yield None
        lines = response.iter_lines(chunk_size=None)
        while True:
            try:
                line = next(lines, None)
            except OSError as error:  # exceptions of requests are OSErrors
                if "timed out" in str(error):
                    return
                raise
            if line is None:
                raise ConnectionError("it has closed the stream of events")
            if line:
                yield json.loads(line)


def _own_name(listed: Mapping[str, Any]) -> str:
    """Returns the container's own name, not an alias '/other/alias' from a link."""
    names = [str(name).lstrip("/") for name in listed.get("Names") or ()]
    return next((name for name in names if "/" not in name), "")


def _names(name: str, image: str, labels: Mapping[str, Any]) -> ContainerNames:
    return ContainerNames(name, image, str(labels.get(_PROJECT, "")), str(labels.get(_SERVICE, "")))


def _names_in_pod(image: str, labels: Mapping[str, Any]) -> ContainerNames | None:
    """Returns names from the labels that cri-dockerd writes for a kubelet, None without them."""
    if not (pod := str(labels.get(f"{_KUBERNETES}.pod.name", ""))):
        return None
    container = str(labels.get(f"{_KUBERNETES}.container.name", ""))
    return ContainerNames(
        "" if container == _SANDBOX else container,
        image,
        pod=Pod(
            pod,
            str(labels.get(f"{_KUBERNETES}.pod.namespace", "")),
            str(labels.get(f"{_KUBERNETES}.pod.uid", "")),
        ),
    )
