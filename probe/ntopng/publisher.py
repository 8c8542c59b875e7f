"""Publishes messages to ntopng over a ZMQ socket, without blocking and without uncounted drops.

ntopng has a SUB socket. A plain PUB would drop messages silently if a subscriber is slow or absent.
XPUB reports subscriptions, and with XPUB_NODROP it refuses what a subscriber's queue cannot take.
When a connection breaks, up to ``SEND_MESSAGES`` in the library are lost without a count here.
ntopng then sees a gap in the message ids.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import Any

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from probe.errors import ConfigError
from probe.export.transports.destination import Destination
from probe.ntopng.frames import topic_frame_matches
from probe.ntopng.listener import MOST_SUBSCRIPTIONS, Peers, listen

#: Messages that the library holds for each subscriber.
SEND_MESSAGES = 64
#: A peer that does not answer for this time is dropped. Until then it delays all other peers.
_HEARTBEAT_MS, _SILENCE_MS = 3000, 9000
_FIRST_PAUSE_MS, _LONGEST_PAUSE_MS = 500, 10_000
_CONNECT_MS, _HANDSHAKE_MS = 5000, 5000
_LINGER_MS = 2000
#: Octets of the longest message of a peer, which sends subscriptions and its part of the
#: handshake. The library keeps fifty times the octets of a subscription.
_LARGEST_RECEIVED = 512
#: Subscriptions that the library reads ahead from a peer, and those that are read at a time.
_READ_AHEAD, _READ_AT_ONCE = 100, 1000
_NEXT_END_S = 1.0
_KEY_CHARACTERS = 40
_FAILED: dict[int, str] = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "ntopng refuses our key",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "no ZMQ that we can talk to: is CURVE set on both sides?",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "the ZMQ handshake failed: is CURVE set on both sides?",
}
_OPENED = (zmq.EVENT_CONNECTED, zmq.EVENT_ACCEPTED)
_GONE = (zmq.EVENT_DISCONNECTED, zmq.EVENT_CLOSED)


class Publisher:
    """A ZMQ socket to ntopng.

    Raises ConfigError if the key file cannot be used or the address cannot be bound.
    """

    def __init__(self, destination: Destination) -> None:
        self.local_address: tuple[str, int] | None = None
        #: Why the last connection failed; ``take_failure`` clears it.
        self.failure = ""
        self._prefixes: set[bytes] = set()
        self._peers: Peers | None = None  # only for a bound socket
        self._next_end_s = float("-inf")
        self._context: zmq.Context[Any] = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.XPUB)
        self._monitor = self._socket.get_monitor_socket()
        try:
            self._open(destination)
        except BaseException:
            self.close()
            raise

    def is_wanted(self, topic: str) -> bool:
        """Returns True if a peer subscribes to ``topic``."""
        return any(topic_frame_matches(topic, prefix) for prefix in self._prefixes)

    def send(self, header: bytes, payload: bytes) -> bool:
        """Sends a message. Returns False if a subscriber has no room for it now."""
        try:
            self._socket.send_multipart((header, payload), zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def poll(self) -> bool:
        """Reads new and ended connections and subscriptions.

        Returns True if a peer has subscribed, even to a topic that others have.
        """
        self._read_monitor()
        is_new = False
        with contextlib.suppress(zmq.Again):
            for _ in range(_READ_AT_ONCE):
                told = self._socket.recv(zmq.DONTWAIT)
                if told[:1] == b"\x01":
                    self._prefixes.add(told[1:])
                    is_new = True
                elif told[:1] == b"\x00":
                    self._prefixes.discard(told[1:])
        if len(self._prefixes) > MOST_SUBSCRIPTIONS:
            self._end_loudest()
        return is_new

    def _end_loudest(self) -> None:
        """Ends the peer that has sent most, then none for a while.

        The subscriptions of the ended peer are removed a little later.
        """
        if self._peers is not None and time.monotonic() >= self._next_end_s:
            self._next_end_s = time.monotonic() + _NEXT_END_S
            self._peers.end_loudest()

    def take_failure(self) -> str:
        failure, self.failure = self.failure, ""
        return failure

    def close(self) -> None:
        """Closes the socket. Messages in the library may leave for two more seconds."""
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(_LINGER_MS)
        self._context.term()

    def _open(self, destination: Destination) -> None:
        for option, value in (
            (zmq.SNDHWM, SEND_MESSAGES),
            (zmq.RCVHWM, _READ_AHEAD),
            (zmq.MAXMSGSIZE, _LARGEST_RECEIVED),
            (zmq.XPUB_NODROP, 1),
            (zmq.XPUB_VERBOSE, 1),
            (zmq.IMMEDIATE, 1),  # a broken connection takes its subscriptions with it
            (zmq.IPV6, 1),
            (zmq.CONNECT_TIMEOUT, _CONNECT_MS),
            (zmq.HANDSHAKE_IVL, _HANDSHAKE_MS),
            (zmq.RECONNECT_IVL, _FIRST_PAUSE_MS),
            (zmq.RECONNECT_IVL_MAX, _LONGEST_PAUSE_MS),
            (zmq.HEARTBEAT_IVL, _HEARTBEAT_MS),
            (zmq.HEARTBEAT_TIMEOUT, _SILENCE_MS),
        ):
            self._socket.setsockopt(option, value)
        if path := destination.options.get("curve"):
            self._use_curve(path, str(destination))
        if destination.options.get("bind") == "1":
            self._bind(destination)
        else:
            self._connect(destination)

    def _connect(self, destination: Destination) -> None:
        try:
            self._socket.connect(_endpoint(destination))
        except zmq.ZMQError as error:
            raise ConfigError(f"destination {destination}: cannot connect to it: {error}") from None

    def _bind(self, destination: Destination) -> None:
        """Binds to a socket made here, which the library will close."""
        try:
            with listen(destination.host, destination.port) as listener:
                self._peers = Peers(str(destination), listener.getsockname()[1])
                self._socket.setsockopt(zmq.USE_FD, listener.fileno())
                self._socket.bind(_endpoint(destination))
                listener.detach()
        except OSError as error:  # zmq.ZMQError is not an OSError
            reason = error.strerror or error
            raise ConfigError(f"destination {destination}: cannot bind it: {reason}") from None
        except zmq.ZMQError as error:
            raise ConfigError(f"destination {destination}: cannot bind it: {error}") from None

    def _use_curve(self, path: str, name: str) -> None:
        """Encrypts for the server key in the file at ``path``, with a key pair of our own."""
        key = read_server_key(path, name)
        public, secret = zmq.curve_keypair()
        self._socket.curve_publickey, self._socket.curve_secretkey = public, secret
        self._socket.curve_serverkey = key

    def _read_monitor(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                told = parse_monitor_message(self._monitor.recv_multipart(zmq.DONTWAIT))
                event = int(told["event"])
                if self._peers is not None and event == zmq.EVENT_ACCEPTED:
                    self._peers.accept(int(told["value"]))
                elif self._peers is not None and event in _GONE:
                    self._peers.leave(int(told["value"]))
                if event in _OPENED:
                    self.local_address = _local_address(int(told["value"])) or self.local_address
                self.failure = _FAILED.get(event, self.failure)


def read_server_key(path: str, name: str) -> bytes:
    """Returns ntopng's public key in Z85, 40 characters.

    Raises ConfigError, which names the destination ``name``, if the file holds none.
    """
    try:
        key = Path(path).read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"destination {name}: cannot read {path}: {error.strerror}") from None
    with contextlib.suppress(ValueError, KeyError):
        if len(key) == _KEY_CHARACTERS and len(z85.decode(key)) == 32:
            return key
    raise ConfigError(
        f"destination {name}: {path} must hold the public key of ntopng, 40 characters of Z85"
    )


def _endpoint(destination: Destination) -> str:
    host = f"[{destination.host}]" if ":" in destination.host else destination.host
    return f"tcp://{host}:{destination.port}"


def _local_address(descriptor: int) -> tuple[str, int] | None:
    """Returns the local address of a connection of the library, which may be closed by now."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as found:
            host, port = found.getsockname()[:2]
    except (OSError, ValueError, TypeError):
        return None
    return host.removeprefix("::ffff:"), port
