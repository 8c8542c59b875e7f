"""Tests Docker's API when it is slow, broken, hanging or gone, with a small server as Docker."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from probe.errors import ConfigError
from probe.flow.label import names_label
from probe.flow.owner import ContainerNames, Pod
from probe.owners import docker
from probe.owners.docker import DockerNames, open_docker

VERSION = {"ApiVersion": "1.41", "MinAPIVersion": "1.24"}
WEB = {
    "Id": "aa", "Names": ["/other/alias", "/web"], "Image": "nginx:1",
    "Labels": {"com.docker.compose.project": "shop", "com.docker.compose.service": "front"},
}  # fmt: skip

Answer = Callable[[socket.socket, str], None]


class Api:
    """A server with a thread for each connection; ``answer`` gets the connection and the path."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self.url, self.asked = f"unix://{path}", list[str]()
        self.answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        request = b""
        try:
            while part := connection.recv(65536):
                request += part
                if b"\r\n\r\n" in request:
                    path = request.split()[1].decode()
                    request = b""
                    self.asked.append(path)
                    self.answer(connection, path)
        except OSError:
            return

    def hang_up(self) -> None:
        for connection in self._open:
            _shut(connection)
        self._open.clear()

    def close(self) -> None:
        _shut(self._listener)
        self.hang_up()


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


def reply(connection: socket.socket, value: object, status: str = "200 OK") -> None:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)


def begin_stream(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")


def send_event(connection: socket.socket, action: str, number: str, **attributes: str) -> None:
    body = json.dumps({"Action": action, "Actor": {"ID": number, "Attributes": attributes}})
    connection.sendall(f"{len(body) + 1:x}\r\n{body}\n\r\n".encode())


class Daemon:
    """A Docker without faults; ``stream`` is the connection for its events."""

    def __init__(self) -> None:
        self.containers: list[dict[str, Any]] = [WEB]
        self.stream: socket.socket | None = None

    def __call__(self, connection: socket.socket, path: str) -> None:
        if "/version" in path:
            reply(connection, VERSION)
        elif "/containers/json" in path:
            reply(connection, self.containers)
        else:
            begin_stream(connection)
            self.stream = connection

    def tell(self, action: str, number: str, **attributes: str) -> None:
        until(lambda: self.stream is not None)
        assert self.stream
        send_event(self.stream, action, number, **attributes)


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def said(caplog: pytest.LogCaptureFixture, url: str) -> list[str]:
    """Returns the warnings about this API only.

    A thread of an earlier test may still log about its own.
    """
    return [text for text in caplog.messages if url in text]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Answer], Api]]:
    found: list[Api] = []

    def start(answer: Answer) -> Api:
        found.append(Api(tmp_path / "socket", answer))
        return found[-1]

    yield start
    for api in found:
        api.close()


@pytest.fixture
def ask() -> Iterator[Callable[..., DockerNames]]:
    found: list[DockerNames] = []

    def start(url: str, **timeouts: float) -> DockerNames:
        found.append(DockerNames(url, **timeouts))
        found[-1].open()
        return found[-1]

    yield start
    for names in found:
        names.close()


def test_list_and_events(serve: Callable[[Answer], Api], ask: Callable[..., DockerNames]) -> None:
    daemon = Daemon()
    api = serve(daemon)
    names = ask(api.url)
    until(lambda: names.patience_s() == 1.0)
    assert names.find("aa") == ContainerNames("web", "nginx:1", "shop", "front")
    daemon.tell("create", "bb", name="db", image="postgres")
    until(lambda: names.find("bb"))
    assert names.find("bb") == ContainerNames("db", "postgres")
    daemon.tell("rename", "bb", name="base", oldName="/db", image="postgres")
    daemon.tell("destroy", "aa", name="web", image="nginx:1")
    daemon.tell("create", "cc", name="last", image="x")
    until(lambda: names.find("cc"))
    assert names.find("bb") == ContainerNames("base", "postgres")
    assert names.find("aa") is not None, "its last flows are to come"
    assert names.take_changed() == {"aa", "bb", "cc"}
    assert names.take_changed() == set()
    (events,) = [path for path in api.asked if "/events" in path]
    assert "since=" in events
    assert "rename" in events


def test_pods_of_a_kubelet_that_runs_them_in_docker(
    serve: Callable[[Answer], Api], ask: Callable[..., DockerNames]
) -> None:
    """cri-dockerd names the Pod in labels. The container that holds the Pod is called POD."""
    daemon = Daemon()
    names = ask(serve(daemon).url)
    for number, container in (("bb", "nginx"), ("cc", "POD")):
        labels = {
            "io.kubernetes.pod.name": "web-1", "io.kubernetes.pod.namespace": "shop",
            "io.kubernetes.pod.uid": "2c48913c", "io.kubernetes.container.name": container,
        }  # fmt: skip
        daemon.tell("create", number, name=f"k8s_{container}_web-1_shop_2c48913c_0", image="x",
                    **labels)  # fmt: skip
    until(lambda: names.find("cc"))
    found = [names.find(number, "2c48913c") for number in ("bb", "cc")]
    assert [names_label("", one) for one in found if one] == ["shop/web-1/nginx", "shop/web-1"]
    assert found[0] == ContainerNames("nginx", "x", pod=Pod("web-1", "shop", "2c48913c"))
    for uid in ("", "another"):  # labels alone do not prove a Pod
        assert names.find("bb", uid) == ContainerNames("k8s_nginx_web-1_shop_2c48913c_0", "x")


def test_a_stream_that_breaks_is_replayed(
    serve: Callable[[Answer], Api], ask: Callable[..., DockerNames]
) -> None:
    daemon = Daemon()
    api = serve(daemon)
    names = ask(api.url)
    daemon.tell("create", "bb", name="db", image="x")
    until(lambda: names.find("bb"))
    heard = time.time()
    time.sleep(0.2)
    daemon.stream = None
    api.hang_up()
    until(lambda: names.patience_s() == 3.0)
    until(lambda: daemon.stream)
    daemon.tell("create", "cc", name="short", image="x")
    daemon.tell("destroy", "cc", name="short", image="x")
    until(lambda: names.find("cc"))
    since = [path for path in api.asked if "/events" in path][-1].partition("since=")[2]
    assert heard - 5 < float(since.partition("&")[0]) < heard + 0.1
    assert names.patience_s() == 1.0


def test_an_api_that_never_answers(
    serve: Callable[[Answer], Api], ask: Callable[..., DockerNames],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """It delays nothing and is reported once. Names are read as soon as it answers."""
    caplog.set_level(logging.WARNING)
    api = serve(lambda connection, path: None)
    names = ask(api.url, answer_s=0.2)
    until(lambda: len(api.asked) >= 2)
    began = time.perf_counter()
    assert names.find("aa") is None
    assert names.take_changed() == set()
    assert time.perf_counter() - began < 0.1
    assert len(said(caplog, api.url)) == 1
    api.answer = Daemon()
    until(lambda: names.find("aa"))


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/version", b"<html>"),
        ("/version", {"ApiVersion": 7}),
        ("/containers", {"not": "a list"}),
        ("/containers", [{"Id": "aa"}, 3]),
        ("/containers", b"\xff\xfe"),
        ("/events", b"garbage\n"),
        ("/events", b'{"Action": "create"}\n'),
        ("/events", b'{"Action": "create", "Actor": {"ID": "aa", "Attributes": 3}}\n'),
        ("/events", b"[]\n"),
    ],
)
def test_garbage(
    serve: Callable[[Answer], Api], ask: Callable[..., DockerNames],
    caplog: pytest.LogCaptureFixture, path: str, answer: object,
) -> None:  # fmt: skip
    daemon, good = Daemon(), threading.Event()

    def garbage(connection: socket.socket, asked: str) -> None:
        if path in asked and not good.is_set():
            reply(connection, answer)
        else:
            daemon(connection, asked)

    names = ask(serve(garbage).url)
    until(lambda: caplog.records)
    good.set()
    until(lambda: names.patience_s() == 1.0)
    assert names.find("aa") == ContainerNames("web", "nginx:1", "shop", "front")


def test_a_silent_stream_is_opened_anew(
    serve: Callable[[Answer], Api], ask: Callable[..., DockerNames],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    api = serve(Daemon())
    names = ask(api.url, silence_s=0.1)
    until(lambda: sum("/events" in path for path in api.asked) >= 3)
    assert names.patience_s() == 1.0
    assert not caplog.records


def test_a_docker_that_comes_later(
    serve: Callable[[Answer], Api], ask: Callable[..., DockerNames], tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    names = ask(f"unix://{tmp_path}/socket")
    time.sleep(0.1)
    assert names.find("aa") is None
    serve(Daemon())
    until(lambda: names.find("aa"))
    assert not said(caplog, names.url)


def test_the_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    absent = str(tmp_path / "none")
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert open_docker(False) is None
    for setting, url in (
        ("auto", f"unix://{absent}"), (True, f"unix://{absent}"), ("unix:///x", "unix:///x"),
    ):  # fmt: skip
        found = open_docker(setting, absent)
        assert found
        found.close()
        assert found.url == url
    assert len(caplog.records) == 3
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    found = open_docker("auto", absent)
    assert found
    found.close()
    assert found.url == "tcp://127.0.0.1:9"


def test_without_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(docker, "_is_installed", lambda: False)
    assert open_docker("auto", str(tmp_path / "none")) is None
    assert not said(caplog, "pip install")
    assert open_docker("auto", str(tmp_path)) is None
    assert len(said(caplog, "pip install")) == 1
    with pytest.raises(ConfigError, match="pip install"):
        open_docker(True)
