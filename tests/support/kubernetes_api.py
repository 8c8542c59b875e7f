"""A Kubernetes API for tests: lists and watches of recorded objects over HTTP.

It behaves like a real one with one sequence of versions. On demand it fails in the ways of a real
one.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

Object = dict[str, Any]
PODS, SERVICES, NODES = "/api/v1/pods", "/api/v1/services", "/api/v1/nodes"
RECORDED = Path(__file__).with_name("data") / "kubernetes.json"
TOKEN = "a-token"


def recorded(name: str) -> Object:
    """Returns an object of data/kubernetes.json, in the form of ``kubectl get -o json``."""
    found: Object = json.loads(RECORDED.read_text())[name]
    return found


class KubernetesServer:
    """The server.

    ``asked`` has (path, query) of every request. ``broken`` is a status and body that replace every
    answer. With ``is_hanging`` no request is answered. ``token`` is required of each request.
    """

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Object]] = {PODS: {}, SERVICES: {}, NODES: {}}
        self.events: dict[str, list[tuple[int, str, Object]]] = {PODS: [], SERVICES: [], NODES: []}
        self.version = 100
        self.oldest = 0  # a watch from an older version is refused
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.refused: list[str] = []
        self.broken: tuple[int, bytes] | None = None
        self.is_hanging = False
        self.token = TOKEN
        self.changed = threading.Condition()
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self.generation = 0  # watches of earlier generations end
        self.tls: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Starts the server, on its former port if it had one."""
        handler = type("Handler", (_Handler,), {"api": self})
        self._server = _Server(("127.0.0.1", self._port), handler)
        self._port = self._server.server_port
        if self.tls:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()

    def stop(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        self.close_watches()

    def close_watches(self) -> None:
        with self.changed:
            self.generation += 1
            self.changed.notify_all()

    # -- what is in the cluster -------------------------------------------------------------------
    def put(self, path: str, found: Object) -> None:
        """Adds an object, or replaces it."""
        kind = "MODIFIED" if found["metadata"]["uid"] in self.objects[path] else "ADDED"
        self._tell(path, kind, found)

    def remove(self, path: str, found: Object) -> None:
        self._tell(path, "DELETED", found)

    def _tell(self, path: str, kind: str, found: Object) -> None:
        with self.changed:
            self.version += 1
            about = {**found["metadata"], "resourceVersion": str(self.version)}
            found = {**found, "metadata": about}
            if kind == "DELETED":
                self.objects[path].pop(about["uid"], None)
            else:
                self.objects[path][about["uid"]] = found
            self.events[path].append((self.version, kind, found))
            self.changed.notify_all()

    def forget_history(self) -> None:
        """Drops the history, like a compaction of etcd: older watches have to list again."""
        with self.changed:
            self.oldest = self.version = self.version + 1

    def selected(self, path: str, selector: str) -> list[Object]:
        return [one for one in self.objects[path].values() if is_selected(one, selector)]

    def kubeconfig(self, folder: Path, authority: Path | None = None) -> Path:
        path = folder / "kubeconfig.json"  # JSON is valid YAML
        cluster = {"server": self.url}
        if authority:
            cluster["certificate-authority"] = str(authority)
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": cluster}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            "users": [{"name": "it", "user": {"token": self.token}}],
        }  # fmt: skip
        path.write_text(json.dumps(config))
        return path

    def queries(self, path: str, watch: bool) -> list[dict[str, str]]:
        """Returns the queries of the requests for lists, or for watches."""
        return [query for one, query in self.asked if one == path and ("watch" in query) == watch]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: KubernetesServer

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        with contextlib.suppress(OSError):
            self._answer()

    def _answer(self) -> None:
        api, parsed = self.api, urlparse(self.path)
        generation = api.generation  # read first, so that closing watches closes this one too
        query = {key: values[0] for key, values in parse_qs(parsed.query).items()}
        api.asked.append((parsed.path, query))
        while api.is_hanging:
            time.sleep(0.02)
        if api.broken:
            self._send(*api.broken)
        elif self._token() != api.token:
            api.refused.append(self._token())
            self._refuse(401, "Unauthorized")
        elif parsed.path not in api.objects:
            self._refuse(404, "not found")
        elif "watch" in query:
            self._watch(parsed.path, query, generation)
        else:
            self._list(parsed.path, query)

    def _token(self) -> str:
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        return token if kind.lower() == "bearer" else ""

    def _list(self, path: str, query: dict[str, str]) -> None:
        with self.api.changed:
            found = self.api.selected(path, query.get("fieldSelector", ""))
            version = str(self.api.version)
        begin, limit = int(query.get("continue", "0")), int(query.get("limit", "0"))
        about = {"resourceVersion": version}
        if limit and begin + limit < len(found):
            about["continue"] = str(begin + limit)
        page = found[begin : begin + limit] if limit else found
        self._send(200, json.dumps({"kind": "List", "metadata": about, "items": page}).encode())

    def _watch(self, path: str, query: dict[str, str], generation: int) -> None:
        api, since = self.api, int(query["resourceVersion"])
        if since < api.oldest:
            self._refuse(410, f"too old resource version: {since} ({api.oldest})")
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        while api.generation == generation:
            with api.changed:
                fresh = [event for event in api.events[path] if event[0] > since]
                if not fresh:
                    api.changed.wait(0.5)
            for version, kind, found in fresh:
                since = version
                if is_selected(found, query.get("fieldSelector", "")):
                    self._event(kind, found)
        self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def _event(self, kind: str, found: Object) -> None:
        line = json.dumps({"type": kind, "object": found}).encode() + b"\n"
        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        self.wfile.flush()

    def _refuse(self, code: int, message: str) -> None:
        status = {"kind": "Status", "status": "Failure", "code": code, "message": message}
        self._send(code, json.dumps(status).encode())

    def _send(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def is_selected(found: Object, selector: str) -> bool:
    """Returns True if the object matches a field selector of one term, field=value."""
    field, _, wanted = selector.partition("=")
    value: Any = found
    for key in field.split(".") if field else ():
        value = value.get(key, "")
    return not field or value == wanted


@contextlib.contextmanager
def kubernetes_server() -> Iterator[KubernetesServer]:
    server = KubernetesServer()
    server.start()
    try:
        yield server
    finally:
        server.is_hanging = False
        server.stop()
