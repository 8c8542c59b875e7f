"""Makes traffic inside namespaces and containers, with Python's standard library alone.

traffic.py serve PORT [--six] [--close first|last|late|reset] [--reply N]
traffic.py short HOST PORT COUNT [--close first|last|reset] [--request N] [--reply N] [--parallel N]
traffic.py bulk HOST PORT OCTETS
traffic.py sink PORT [--six]                 reads bulk streams to their end
traffic.py udp-serve PORT [--six]            answers each datagram with its own octets
traffic.py udp HOST PORT COUNT OCTETS SOCKETS [--unconnected]
traffic.py udp-many HOST FIRST_PORT PEERS COUNT OCTETS    one unconnected socket, many peers
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import struct
import threading
import time


def listen(port: int, six: bool) -> socket.socket:
    family = socket.AF_INET6 if six else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("", port))
    server.listen(4096)
    print("ready", flush=True)
    return server


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def read_exactly(connection: socket.socket, octets: int) -> int:
    got = 0
    while got < octets:
        part = connection.recv(min(65536, octets - got))
        if not part:
            break
        got += len(part)
    return got


def serve_one(connection: socket.socket, close: str, reply: int) -> None:
    with contextlib.suppress(OSError), connection:
        connection.recv(65536)
        connection.sendall(b"r" * reply)
        if close == "reset":
            reset(connection)
        elif close != "first":
            while connection.recv(65536):
                pass
            if close == "late":
                time.sleep(0.3)


def serve(arguments: argparse.Namespace) -> None:
    server = listen(arguments.port, arguments.six)
    while True:
        connection, _ = server.accept()
        work = threading.Thread(
            target=serve_one, args=(connection, arguments.close, arguments.reply), daemon=True
        )
        work.start()


def connect_once(arguments: argparse.Namespace) -> None:
    with socket.create_connection((arguments.host, arguments.port), timeout=180) as connection:
        connection.sendall(b"q" * arguments.request)
        with contextlib.suppress(ConnectionError):
            read_exactly(connection, arguments.reply)
            if arguments.close == "reset":
                reset(connection)
            elif arguments.close == "last":
                while connection.recv(65536):
                    pass


def short(arguments: argparse.Namespace) -> None:
    def work(count: int) -> None:
        for _ in range(count):
            connect_once(arguments)

    share = arguments.count // arguments.parallel
    threads = [threading.Thread(target=work, args=(share,)) for _ in range(arguments.parallel)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def bulk(arguments: argparse.Namespace) -> None:
    with socket.create_connection((arguments.host, arguments.port)) as connection:
        left = arguments.octets
        block = b"b" * 65536
        while left > 0:
            left -= connection.send(block[: min(left, 65536)])
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass


def sink(arguments: argparse.Namespace) -> None:
    server = listen(arguments.port, arguments.six)
    while True:
        connection, _ = server.accept()
        with connection:
            while connection.recv(1 << 20):
                pass


def udp_serve(arguments: argparse.Namespace) -> None:
    family = socket.AF_INET6 if arguments.six else socket.AF_INET
    server = socket.socket(family, socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    server.bind(("", arguments.port))
    print("ready", flush=True)
    while True:
        data, peer = server.recvfrom(65536)
        server.sendto(data, peer)


def udp(arguments: argparse.Namespace) -> None:
    target = socket.getaddrinfo(arguments.host, arguments.port, type=socket.SOCK_DGRAM)[0]
    sockets = [socket.socket(target[0], socket.SOCK_DGRAM) for _ in range(arguments.sockets)]
    for one in sockets:
        one.settimeout(120)
        if not arguments.unconnected:
            one.connect(target[4])
    data = b"u" * arguments.octets
    for at in range(arguments.count):
        one = sockets[at % len(sockets)]
        if arguments.unconnected:
            one.sendto(data, target[4])
        else:
            one.send(data)
        one.recv(65536)


def udp_many(arguments: argparse.Namespace) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(120)
        for at in range(arguments.count):
            one.sendto(
                b"m" * arguments.octets, (arguments.host, arguments.port + at % arguments.peers)
            )
            one.recv(65536)


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)

    def command(run: object, *names: str) -> argparse.ArgumentParser:
        added = commands.add_parser(names[0])
        for name in names[1:]:
            added.add_argument(name, type=str if name == "host" else int)
        added.set_defaults(run=run)
        return added

    for name, run in (("serve", serve), ("sink", sink), ("udp-serve", udp_serve)):
        server = command(run, name, "port")
        server.add_argument("--six", action="store_true")
        server.add_argument("--close", default="last")
        server.add_argument("--reply", type=int, default=1000)
    client = command(short, "short", "host", "port", "count")
    client.add_argument("--close", default="first")
    client.add_argument("--request", type=int, default=64)
    client.add_argument("--reply", type=int, default=1000)
    client.add_argument("--parallel", type=int, default=1)
    command(bulk, "bulk", "host", "port", "octets")
    command(udp, "udp", "host", "port", "count", "octets", "sockets").add_argument(
        "--unconnected", action="store_true"
    )
    command(udp_many, "udp-many", "host", "port", "peers", "count", "octets")
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
