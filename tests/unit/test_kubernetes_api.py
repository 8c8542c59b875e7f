"""Tests the Kubernetes API when it expires, closes, hangs, breaks or is gone.

Its credentials are tested, too.
"""

from __future__ import annotations

import copy
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from probe.errors import ConfigError
from probe.flow.label import names_label
from probe.jsonlines.sink import exporter_members
from probe.owners import api_thread as listener
from probe.owners.kubernetes import (
    KubernetesNames,
    KubernetesSettings,
    api,
    names,
    open_kubernetes,
    watch,
)
from probe.owners.kubernetes.api import KubernetesApi
from tests.support.certificates import Authority
from tests.support.kubernetes_api import (
    PODS,
    SERVICES,
    KubernetesServer,
    kubernetes_server,
    recorded,
)

NODE = "node-3"
WEB, DB = "a1" * 32, "b1" * 32
WEB_POD = "2c48913c-b29f-41e7-9350-020968147796"
Ask = Callable[..., KubernetesNames]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_RETRY_S", 0.05)
    monkeypatch.setattr(watch, "_SHORT_S", 0.2)


@pytest.fixture
def server() -> Iterator[KubernetesServer]:
    with kubernetes_server() as found:
        found.put(PODS, recorded("web"))
        yield found


@pytest.fixture
def ask(server: KubernetesServer, tmp_path: Path) -> Iterator[Ask]:
    found: list[KubernetesNames] = []

    def start(answer_s: float = 5.0, **options: Any) -> KubernetesNames:
        open_api = partial(KubernetesApi, str(server.kubeconfig(tmp_path)), answer_s)
        found.append(KubernetesNames(open_api, NODE, **options))
        found[-1].open()
        return found[-1]

    yield start
    for one in found:
        one.close()
    server.close_watches()


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def name_of(found: KubernetesNames, container_id: str) -> str:
    known = found.find(container_id)
    return names_label("", known) if known else ""


def test_list_and_watch(server: KubernetesServer, ask: Ask) -> None:
    server.put(PODS, recorded("elsewhere"))
    found = ask(labels=("app",))
    until(lambda: found.find(WEB))
    assert name_of(found, WEB) == "shop/web-7d4b9c6f5d-x2x7k/nginx"
    assert found.find("f1" * 32) is None, "it is on another node"
    known = found.find("not known yet", WEB_POD)
    assert known
    assert (known.name, names_label("", known)) == ("", "shop/web-7d4b9c6f5d-x2x7k")
    assert (known.pod.labels, known.pod.workload) == ((("app", "web"),), "Deployment/web")
    server.put(PODS, recorded("db"))
    until(lambda: found.find(DB))
    assert name_of(found, DB) == "data/db-0/postgres"
    assert {WEB, DB, WEB_POD} <= found.take_changed()
    assert found.take_changed() == set()
    (asked,) = server.queries(PODS, watch=False)
    assert asked == {"fieldSelector": "spec.nodeName=node-3", "resourceVersion": "0"}
    assert server.queries(SERVICES, watch=False) == []


def test_a_pod_that_is_gone_keeps_its_names(server: KubernetesServer, ask: Ask) -> None:
    found = ask()
    until(lambda: found.find(WEB))
    server.remove(PODS, recorded("web"))
    server.put(PODS, recorded("db"))
    until(lambda: found.find(DB))
    assert name_of(found, WEB) == "shop/web-7d4b9c6f5d-x2x7k/nginx"
    assert found.find("", WEB_POD)


def test_a_container_that_starts_again(server: KubernetesServer, ask: Ask) -> None:
    """Its new id gets the name, and the old id keeps it."""
    found = ask()
    until(lambda: found.find(WEB))
    again = recorded("web")
    status = again["status"]["containerStatuses"][0]
    status["containerID"], status["lastState"] = f"containerd://{'0f' * 32}", {}
    server.put(PODS, again)
    until(lambda: found.find("0f" * 32))
    assert name_of(found, "0f" * 32) == name_of(found, WEB)


def test_a_watch_that_ends_is_resumed(
    server: KubernetesServer, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    found = ask()
    until(lambda: found.find(WEB))
    time.sleep(0.3)  # so the watch has lasted
    version = server.version
    server.close_watches()
    until(lambda: len(server.queries(PODS, watch=True)) == 2)
    server.put(PODS, recorded("db"))
    until(lambda: found.find(DB))
    first, second = server.queries(PODS, watch=True)
    assert first["resourceVersion"] == second["resourceVersion"] == str(version)
    assert first["allowWatchBookmarks"] == "true"
    assert len(server.queries(PODS, watch=False)) == 1
    assert not caplog.records


def test_a_version_that_is_gone(
    server: KubernetesServer, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    """A resumed watch gets 410. The list is then read again, and not from the API's cache."""
    found = ask()
    until(lambda: found.find(WEB))
    time.sleep(0.3)
    with server.changed:
        server.objects[PODS].clear()  # without an event
    server.put(PODS, recorded("db"))
    server.forget_history()
    server.close_watches()
    until(lambda: found.find(DB))
    assert [query.get("resourceVersion") for query in server.queries(PODS, watch=False)] == [
        "0", None,
    ]  # fmt: skip
    assert name_of(found, WEB), "its last flows are to come"
    assert not caplog.records


@pytest.mark.parametrize("code", [410, 500])
def test_an_error_as_an_event(server: KubernetesServer, ask: Ask, code: int) -> None:
    """The error comes within a stream that began well."""
    found = ask()
    until(lambda: found.find(WEB))
    time.sleep(0.3)
    error = {"kind": "Status", "code": code, "message": "x"}
    error |= {"metadata": {"uid": "x"}, "spec": {"nodeName": NODE}}
    server._tell(PODS, "ERROR", error)
    server.objects[PODS].pop("x")
    server.forget_history()
    server.put(PODS, recorded("db"))
    until(lambda: found.find(DB))
    assert len(server.queries(PODS, watch=False)) == 2


def test_a_bookmark_moves_on(server: KubernetesServer, ask: Ask) -> None:
    found = ask()
    until(lambda: found.find(WEB))
    time.sleep(0.3)
    server._tell(PODS, "BOOKMARK", {"metadata": {"uid": "x"}, "spec": {"nodeName": NODE}})
    server.objects[PODS].pop("x")
    version = server.version
    server.put(PODS, recorded("db"))
    until(lambda: found.find(DB))
    server.close_watches()
    until(lambda: len(server.queries(PODS, watch=True)) == 2)
    assert int(server.queries(PODS, watch=True)[1]["resourceVersion"]) == version + 1


def test_an_api_that_starts_again(
    server: KubernetesServer, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    found = ask()
    until(lambda: found.find(WEB))
    until(lambda: found.patience_s(in_pod=True))
    server.stop()
    until(lambda: caplog.records)
    assert name_of(found, WEB), "what is known stays known"
    assert found.patience_s(in_pod=True), "it may come back soon"
    server.put(PODS, recorded("db"))
    server.start()
    until(lambda: found.find(DB))
    assert len(server.queries(PODS, watch=False)) == 1, "it went on where it was"
    until(lambda: len(caplog.records) == 2)
    lost, back = caplog.records
    assert "does not tell names" in lost.message
    assert "tells names again" in back.message


def test_an_api_that_never_answers(
    server: KubernetesServer, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    """It delays nothing and is reported once. Names are read as soon as it answers."""
    caplog.set_level(logging.WARNING)
    server.is_hanging = True
    found = ask(answer_s=0.2)
    until(lambda: len(server.asked) >= 2)
    began = time.perf_counter()
    assert found.find(WEB, WEB_POD) is None
    assert found.take_changed() == set()
    assert time.perf_counter() - began < 0.1
    assert len(caplog.records) == 1
    server.is_hanging = False
    until(lambda: found.find(WEB))


def test_a_watch_without_a_word_is_opened_anew(server: KubernetesServer, ask: Ask) -> None:
    """A silent watch is reopened, because its other end may be gone."""
    ask(silence_s=0.3)
    until(lambda: len(server.queries(PODS, watch=True)) >= 3)
    assert len(server.queries(PODS, watch=False)) == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>"),
        (200, b"\xff\xfe"),
        (200, b"[]"),
        (200, b"{}"),
        (200, b'{"metadata": {}, "items": []}'),
        (200, b'{"metadata": {"resourceVersion": "1"}, "items": [3]}'),
        (200, b'{"metadata": {"resourceVersion": "1"}, "items": [{"metadata": {}}]}'),
        (200, b'{"metadata": 7, "items": {}}'),
        (403, b'{"message": "pods is forbidden: User cannot list resource"}'),
        (500, b""),
        (302, b""),
    ],
)
def test_garbage(
    server: KubernetesServer, ask: Ask, caplog: pytest.LogCaptureFixture, status: int, body: bytes
) -> None:
    server.broken = status, body
    found = ask()
    until(lambda: caplog.records)
    (record,) = caplog.records
    assert "does not tell names" in record.message
    if b"forbidden" in body:
        assert "pods is forbidden" in record.message
    server.broken = None
    until(lambda: found.find(WEB))


def test_a_watch_that_tells_garbage(
    server: KubernetesServer, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    found = ask()
    until(lambda: found.find(WEB))
    server._tell(PODS, "MODIFIED", {"metadata": {"uid": "x"}, "spec": {"nodeName": NODE}})
    server.objects[PODS].pop("x")
    server.put(PODS, recorded("db"))
    until(lambda: found.find(DB))
    until(lambda: len(caplog.records) == 2)
    assert [one.message.rpartition(") ")[2].partition(":")[0] for one in caplog.records] == [
        "does not tell names", "tells names again",
    ]  # fmt: skip


def test_a_token_that_is_rotated(
    server: KubernetesServer, ask: Ask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = ask()
    until(lambda: found.find(WEB))
    server.token = "another-token"
    server.close_watches()
    until(lambda: server.refused)
    server.kubeconfig(tmp_path)  # the new token is written to the file
    server.put(PODS, recorded("db"))
    until(lambda: found.find(DB))
    assert "does not tell names" in caplog.text
    assert server.token not in caplog.text


def test_in_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a Pod, TLS and the service account's token are used.

    Kubelets replace the token every hour.
    """
    from kubernetes.config import incluster_config

    authority, token = Authority(tmp_path, "ca"), tmp_path / "token"
    server = KubernetesServer()
    server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.tls.load_cert_chain(*authority.issue("api"))
    server.put(PODS, recorded("web"))
    server.start()
    token.write_text(server.token)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority.path))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", server.url.rpartition(":")[2])
    monkeypatch.setenv("NODE_NAME", NODE)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    assert open_kubernetes(KubernetesSettings(), tmp_path / "absent") is None
    found = open_kubernetes(KubernetesSettings(), token)
    assert found
    until(partial(found.find, WEB))
    time.sleep(0.3)  # a watch that ends sooner counts as failed
    server.token = "the-next"
    token.write_text(server.token)
    server.close_watches()
    until(lambda: len(server.queries(PODS, watch=True)) == 2)
    assert not server.refused, "the next watch has the new token"
    server.put(PODS, recorded("db"))
    until(partial(found.find, DB))
    found.close()
    server.stop()


def test_an_authority_without_a_key_identifier(
    tmp_path: Path, server: KubernetesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.13 refuses such an authority. The test makes any Python as strict."""
    from urllib3 import PoolManager, connection
    from urllib3.util import ssl_

    made = ssl_.create_urllib3_context

    def strict(*arguments: Any, **settings: Any) -> ssl.SSLContext:
        context = made(*arguments, **settings)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    for module in (ssl_, connection):
        monkeypatch.setattr(module, "create_urllib3_context", strict)
    authority = Authority(tmp_path, "ca")
    server.stop()
    server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.tls.load_cert_chain(*authority.issue("api"))
    server.start()
    pool = PoolManager(ca_certs=str(authority.path))
    with pytest.raises(Exception, match="Missing Authority Key Identifier"):
        pool.request("GET", server.url, retries=False)
    one = KubernetesApi(str(server.kubeconfig(tmp_path, authority.path)), 5.0)
    assert "items" in one.get(PODS)
    one.close()


def test_an_authority_that_nobody_knows(
    tmp_path: Path, server: KubernetesServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.stop()
    server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.tls.load_cert_chain(*Authority(tmp_path, "ca").issue("api"))
    server.start()
    one = KubernetesApi(str(server.kubeconfig(tmp_path)), 5.0)
    with pytest.raises(Exception, match="certificate verify failed"):
        one.get(PODS)
    one.close()
    assert server.asked == []


def test_the_settings(server: KubernetesServer, tmp_path: Path, monkeypatch: Any) -> None:
    for name in ("KUBERNETES_SERVICE_HOST", "NODE_NAME", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_kubernetes(KubernetesSettings(False)) is None
    assert open_kubernetes(KubernetesSettings()) is None, "we are in no Pod"
    with pytest.raises(ConfigError, match=r"there is no ~/\.kube/config"):
        open_kubernetes(KubernetesSettings(True))
    with pytest.raises(ConfigError, match="there is no /absent"):
        open_kubernetes(KubernetesSettings("/absent"))
    kubeconfig = str(server.kubeconfig(tmp_path))
    found = open_kubernetes(KubernetesSettings(kubeconfig, node=NODE))
    assert found
    until(partial(found.find, WEB))
    found.close()
    monkeypatch.setenv("KUBECONFIG", kubeconfig)
    found = open_kubernetes(KubernetesSettings(True, remote=True))
    assert found
    found.close()
    assert found.remote is not None


def test_without_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(names, "_is_installed", lambda: False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    assert open_kubernetes(KubernetesSettings(), tmp_path) is None
    assert "pip install" in caplog.text
    with pytest.raises(ConfigError, match="pip install"):
        open_kubernetes(KubernetesSettings(True))


def test_it_is_only_imported_when_it_is_on() -> None:
    import subprocess
    import sys

    text = (
        "import sys, probe.run.probe; print([m for m in sys.modules if m.startswith('kubernetes')])"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_another_nodes_name(
    server: KubernetesServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_api = partial(KubernetesApi, str(server.kubeconfig(tmp_path)), 5.0)
    found = KubernetesNames(open_api, "not-its-name")
    found.open()
    until(lambda: caplog.records)
    found.close()
    assert "see kubernetes-node" in caplog.text


def test_only_what_is_in_a_pod_is_worth_waiting_for(ask: Ask) -> None:
    found = ask()
    until(lambda: found.find(WEB))
    assert found.patience_s() == 0.0
    assert found.patience_s(in_pod=True) > 1.0


def test_it_ends(server: KubernetesServer, ask: Ask) -> None:
    others = set(threading.enumerate())  # includes threads of earlier tests
    found = ask(remote=True)
    until(lambda: len(server.queries(SERVICES, watch=True)) == 1)
    until(lambda: found.find(WEB))
    ours = {one for one in threading.enumerate() if "Kubernetes" in one.name} - others
    assert ours
    found.close()
    server.put(PODS, recorded("db"))  # this wakes its threads up
    server.close_watches()
    until(lambda: not any(one.is_alive() for one in ours))


def test_lists_of_a_cluster_come_in_pages(
    server: KubernetesServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "_PAGE", 2)
    for name in ("db", "import", "bare", "elsewhere"):
        server.put(PODS, recorded(name))
    found = ask(remote=True)
    remote = found.remote
    assert remote is not None
    until(lambda: len(remote) == 6)  # the first has two addresses
    pages = [query for query in server.queries(PODS, watch=False) if "limit" in query]
    assert [query.get("continue") for query in pages] == [None, "2", "4"]


def test_an_answer_without_end(server: KubernetesServer, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(api, "_MOST_LINE_OCTETS", 1000)
    one = KubernetesApi(str(server.kubeconfig(tmp_path)), 5.0)
    server._tell(PODS, "ADDED", {"metadata": {"uid": "x"}, "long": "x" * 100_000})
    with pytest.raises(api.ApiError, match="endless"):
        for _ in one.watch(PODS, 5.0, resourceVersion=100):
            pass
    one.close()


def test_watches_that_are_closed_at_once(
    server: KubernetesServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API is not asked again without a pause."""
    monkeypatch.setattr(listener, "_RETRY_S", 0.5)
    stop = threading.Event()

    def close() -> None:
        while not stop.wait(0.01):
            server.close_watches()

    closing = threading.Thread(target=close)
    closing.start()
    found = ask()
    until(lambda: found.find(WEB))
    time.sleep(2)
    stop.set()
    closing.join()
    assert len(server.queries(PODS, watch=True)) <= 4


def test_patience_follows_the_lag_of_the_kubelet(server: KubernetesServer, ask: Ask) -> None:
    """Patience follows the delay with which the names of the latest containers came."""
    found = ask()
    until(lambda: found.find(WEB))
    until(lambda: found.patience_s(in_pod=True))
    assert found.patience_s(in_pod=True) == 4.0
    late = copy.deepcopy(recorded("db"))
    for status in late["status"]["containerStatuses"]:
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 6))
        status["state"] = {"running": {"startedAt": started}}
    server.put(PODS, late)
    until(lambda: found.find(DB))
    assert 9.0 <= found.patience_s(in_pod=True) <= 20.0
    assert found.patience_s() == 0.0


def test_the_name_of_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the kernel's name, unless Pods are named. Then it is the API's name everywhere."""
    monkeypatch.setenv("NODE_NAME", "node-3")
    assert names.node_name(False) == os.uname().nodename
    assert names.node_name(True) == "node-3"
    assert names.node_name(True, "node-4") == "node-4"
    monkeypatch.delenv("NODE_NAME")
    assert names.node_name(True) == os.uname().nodename.lower()
    assert exporter_members(names.node_name(True, "node-4"))["EXPORTER_NAME"] == "node-4"
    assert exporter_members()["EXPORTER_NAME"] == os.uname().nodename
