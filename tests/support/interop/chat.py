"""chat.py HOST TCP_PORT UDP_PORT: sends on a connection and to a datagram server.

It sends 20 times a second until it is stopped, so its flows outlive a run of the probe. It uses
only the standard library.
"""

from __future__ import annotations

import socket
import sys
import time


def main() -> None:
    host, tcp_port, udp_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    stream = socket.create_connection((host, tcp_port))
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.connect((host, udp_port))
    while True:
        stream.sendall(b"c" * 100)
        datagrams.send(b"c" * 100)
        datagrams.recv(1000)
        time.sleep(0.05)


if __name__ == "__main__":
    main()
