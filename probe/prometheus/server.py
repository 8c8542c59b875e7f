"""Serves HTTP to Prometheus.

A scrape wakes the loop's thread, which only takes a snapshot. A thread of the server makes the
answer from it, one scrape at a time.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from probe.errors import ConfigError
from probe.prometheus.bounded import BoundedInterfaces
from probe.prometheus.snapshot import Snapshot

_log = logging.getLogger(__name__)

_HOST, _PORT = "127.0.0.1", 9709
DEFAULT = f"{_HOST}:{_PORT}"
_ANSWER_S = 5.0
_CLIENT_S = 5.0
#: The most clients at a time, in all and per address, so that no address can shut out others.
_CLIENTS, _CLIENTS_OF_ONE = 16, 8
#: Seconds that ``close`` may take.
_POLL_S = 0.1
#: Seconds between switches of threads. After a system call, the loop would otherwise wait up to
#: 5 ms for the thread that makes the text.
_SWITCH_S = 0.0002


def parse_address(given: str) -> tuple[str, int]:
    """Returns the host and port of HOST:PORT, [IPv6]:PORT or a port of loopback.

    Raises ConfigError if ``given`` is none of them.
    """
    try:
        parts = urlsplit(f"//{_HOST}:{given}" if given.isdigit() else f"//{given}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port is None or parts.path or parts.query or parts.username is not None:
        raise ConfigError(f"prometheus {given!r}: expected HOST:PORT, as {DEFAULT}")
    return host, port


class MetricsServer:
    """The HTTP server, which does nothing before ``open``.

    Its ``fileno`` is readable when the loop has to call ``answer``.
    """

    def __init__(self, address: str, limit: int, take: Callable[[], Snapshot]) -> None:
        """``limit`` is for interfaces. Only ``answer`` calls ``take``."""
        self._host, self._port = parse_address(address)
        self._take = take
        self._bounded = BoundedInterfaces(limit)
        self._snapshot: Snapshot | None = None
        self._asked, self._wake = socket.socketpair()
        self._answered = threading.Event()
        self._scraping = threading.Lock()
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Starts the server. Raises ConfigError without its package or if it cannot listen."""
        if importlib.util.find_spec("prometheus_client") is None:
            raise ConfigError(
                "--prometheus needs the package prometheus-client: "
                "pip install 'sockflow[prometheus]'"
            )
        from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app

        for end in (self._asked, self._wake):
            end.setblocking(False)
        registry = CollectorRegistry()
        registry.register(self)
        ProcessCollector(registry=registry)
        self._application = make_wsgi_app(registry)
        self._server = _listen(self._host, self._port, self._respond)
        sys.setswitchinterval(_SWITCH_S)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="prometheus", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_port if self._server else self._port

    def fileno(self) -> int:
        return self._asked.fileno()

    def answer(self) -> None:
        """Takes the snapshot that a scrape waits for. Only the loop's thread calls it."""
        with contextlib.suppress(BlockingIOError):
            self._asked.recv(64)
        self._snapshot = self._take()
        self._answered.set()

    def close(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
        self._asked.close()
        self._wake.close()

    def describe(self) -> Iterable[Any]:
        """Returns no metrics. Without this method the registry would scrape at once."""
        return ()

    def collect(self) -> Iterator[Any]:
        from probe.prometheus.families import families

        if self._snapshot:
            yield from families(self._snapshot, self._bounded)

    def _respond(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with self._scraping:
            if not self._ask():
                start("503 Service Unavailable", [("Content-Type", "text/plain")])
                return [b"the probe is busy\n"]
            answer: Iterable[bytes] = self._application(environ, start)
            return answer

    def _ask(self) -> bool:
        """Asks the loop for a snapshot. Returns False if it does not take one in time."""
        self._answered.clear()
        with contextlib.suppress(OSError):  # full: already asked; closed: no answer
            self._wake.send(b"?")
        return self._answered.wait(_ANSWER_S)


def _listen(host: str, port: int, application: Callable[..., Any]) -> WSGIServer:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        kind = type("_Server", (_Server,), {"address_family": family})
        server: WSGIServer = kind((host, port), _Request)
    except OSError as error:
        raise ConfigError(f"prometheus: cannot listen on {host} port {port}: {error}") from None
    server.set_app(application)
    return server


@dataclass(slots=True)
class _Client:
    connection: socket.socket
    address: str
    has_asked: bool = False  # its whole request has come


class _Server(ThreadingMixIn, WSGIServer):
    """An HTTP server with a thread for each client.

    If there are too many clients, it ends one that has not sent a request yet.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, *arguments: Any) -> None:
        self._clients: dict[socket.socket, _Client] = {}  # the oldest first
        self._changing = threading.Lock()
        super().__init__(*arguments)

    def server_bind(self) -> None:
        """Binds the socket without looking up the host's name, which may take a resolver long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        client = _Client(request, str(client_address[0]))
        with self._changing:
            has_room = self._make_room(client.address)
            if has_room:
                self._clients[request] = client
        if not has_room:
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread could be started
            self._forget(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def note_asked(self, request: Any) -> None:
        """Notes that a client has sent its whole request, so that no other one replaces it."""
        with self._changing:
            if client := self._clients.get(request):
                client.has_asked = True

    def _forget(self, request: Any) -> None:
        with self._changing:
            self._clients.pop(request, None)

    def _make_room(self, address: str) -> bool:
        """Returns False if there is no room for a client of ``address``. It may end another one."""
        alike = [client for client in self._clients.values() if client.address == address]
        if len(alike) >= _CLIENTS_OF_ONE:
            return self._end_one(alike)
        return len(self._clients) < _CLIENTS or self._end_one(list(self._clients.values()))

    def _end_one(self, clients: list[_Client]) -> bool:
        """Ends the oldest client without a request, of the address that has most such clients.

        Returns False if all have sent requests. A scraper sends its request at once, so it is never
        the oldest for long.
        """
        silent = [client for client in clients if not client.has_asked]
        if not silent:
            return False
        addresses = [client.address for client in silent]
        victim = max(silent, key=lambda client: addresses.count(client.address))
        del self._clients[victim.connection]
        with contextlib.suppress(OSError):
            victim.connection.shutdown(socket.SHUT_RDWR)  # wakes up its thread
        return True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs that a client went away or sent no request in time."""
        _log.debug("scrape of %s failed", client_address, exc_info=True)


class _Request(WSGIRequestHandler):
    timeout = _CLIENT_S

    def parse_request(self) -> bool:
        is_whole = super().parse_request()
        if is_whole and isinstance(self.server, _Server):
            self.server.note_asked(self.request)
        return is_whole

    def log_message(self, format: str, *arguments: Any) -> None:
        """Logs nothing of requests."""
