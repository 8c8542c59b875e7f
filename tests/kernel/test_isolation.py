"""Tests errors while the kernel is metered: each part breaks in turn, and the others go on."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probe.config import build
from probe.enrich.container_owners import ContainerOwners
from probe.enrich.nat import Nat
from probe.export.local import LocalSink
from probe.flow.rows import Rows
from probe.interfaces.names import InterfaceList
from probe.run.feed import Feed
from probe.run.loop import Loop
from probe.run.probe import Probe
from probe.run.wiring import open_probe
from probe.stop import StopRequest

PORT = 7391
_STEPS, _EACH = 8, 20


class Kept(LocalSink):
    def __init__(self) -> None:
        super().__init__("kept")
        self.flows: set[int] = set()

    def send(self, records: Rows, now_s: float) -> None:
        self.flows |= set(records["flow_id"].tolist())


def broken(*_: object, **__: object) -> Any:
    raise RuntimeError("out of order")


def connect(count: int) -> None:
    """Makes connections within this process, which a guest's probe meters."""
    with socket.create_server(("127.0.0.1", PORT)) as listener:
        for _ in range(count):
            with socket.create_connection(("127.0.0.1", PORT)) as client:
                server, _ = listener.accept()
                with server:
                    client.sendall(b"x" * 100)
                    server.recv(100)


def _messages(probe: Probe) -> tuple[object, str]:
    stream: Any = probe.exporter.sinks[1]
    return stream.session, "messages"


_PARTS: dict[str, Callable[[Probe], tuple[object, str]]] = {
    "a destination": _messages,
    "NAT": lambda _: (Nat, "apply"),
    "interfaces": lambda _: (InterfaceList, "refresh"),
    "names of containers": lambda _: (ContainerOwners, "refresh"),
    "open sockets and counters of interfaces": lambda _: (Feed, "tick"),
}


@pytest.mark.parametrize("name", _PARTS)
def test_the_rest_goes_on(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, kept, stop = tmp_path / "flows.json", Kept(), StopRequest()
    config = build({"interval": 0.2, "docker": False, "include": [f"port={PORT}"]})
    urls = [f"json://{path}", f"file://{tmp_path}/flows.ipfix"]
    probe = open_probe(config, urls, lambda _: [kept], is_guest=True)
    try:
        for step, _ in enumerate(Loop(probe, stop).steps(120)):
            if stop.received:
                continue
            if step == _STEPS // 2:
                monkeypatch.setattr(*_PARTS[name](probe), broken)
            connect(_EACH)
            if step + 1 == _STEPS:
                stop.request()
        losses = probe.figures().losses
    finally:
        probe.close()
        stop.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    flows = [line for line in lines if line.get("EVENT_TYPE") == "FLOW"]
    assert len(kept.flows) == len(flows) == _STEPS * _EACH
    assert not any(losses.values())
    (failed,) = probe.guard.failed
    sent = probe.exporter.sinks[1].statistics
    if name == "a destination":
        assert failed is probe.exporter.outlets[1].part
        assert sent.dropped_flow_records > 0
    else:
        assert failed.name == name
    assert sent.sent_flow_records + sent.dropped_flow_records == 2 * _STEPS * _EACH
