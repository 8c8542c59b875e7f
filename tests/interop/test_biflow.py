"""Tests Biflows (RFC 5103) of real traffic against the same flows with a record per direction."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.interop.collectors import Capture, Collect
from tests.support.interop.flows import TCP, UDP, Flow, flow
from tests.support.interop.workload import INCLUDE, Workload
from tests.support.lab.hosts import Host
from tests.support.programs import probing

_SIDES = ("source", "destination")
_COUNTERS = ("PacketDeltaCount", "OctetDeltaCount")


@dataclass
class Observed:
    """``biflows`` of one collector, and another collector's records of the same flows."""

    workload: Workload
    biflows: list[dict[str, Any]]
    uniflows: dict[object, Flow]
    capture: Capture


@pytest.fixture(scope="module")
def observed(
    hosts: tuple[Host, Host], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Observed]:
    folder = tmp_path_factory.mktemp("biflow")
    folders = [folder / name for name in ("bi", "uni")]
    with contextlib.ExitStack() as stack:
        for one in folders:
            one.mkdir()
        bi, uni = (stack.enter_context(contextlib.closing(Collect(one))) for one in folders)
        capture = stack.enter_context(contextlib.closing(Capture(folder, bi.port)))
        targets = ("-e", f"{bi.url}&biflow=rfc5103", "-e", uni.url)
        probe = stack.enter_context(probing(folder, *targets, *INCLUDE))
        workload = Workload(hosts)
        workload.short(30)
        workload.datagrams(20)
        assert probe.stop() == 0, probe.errors
        for collector in (bi, uni, capture):
            collector.finish()
        assert "0 records lost on the way, 0 broken messages, 0 sets without" in bi.program.errors
        flows: dict[object, Flow] = {one.key: one for one in uni.flows()}
        assert len(flows) == len(uni.flows())
        yield Observed(workload, bi.records(), flows, capture)


def directions(biflow: dict[str, Any]) -> tuple[Flow, Flow]:
    """Returns the two directions as two records would show them."""
    family = biflow["ipVersion"]
    source, destination = (biflow[f"{side}IPv{family}Address"] for side in _SIDES)
    source_port, destination_port = (biflow[f"{side}TransportPort"] for side in _SIDES)
    protocol = biflow["protocolIdentifier"]
    forward = [biflow[f"{name[0].lower()}{name[1:]}"] for name in _COUNTERS]
    reverse = [biflow[f"reverse{name}"] for name in _COUNTERS]
    times = biflow["flowStartMilliseconds"], biflow["flowEndMilliseconds"]
    back = biflow["reverseFlowStartMilliseconds"], biflow["reverseFlowEndMilliseconds"]
    return (
        flow((source, destination, source_port, destination_port, protocol, *forward, *times)),
        flow((destination, source, destination_port, source_port, protocol, *reverse, *back)),
    )


def test_one_record_for_every_flow(observed: Observed) -> None:
    of = Counter(biflow["protocolIdentifier"] for biflow in observed.biflows)
    assert of == {TCP: observed.workload.tcp, UDP: observed.workload.udp}


def test_both_directions_are_those_of_the_uniflows(observed: Observed) -> None:
    """Counters agree, and times to the millisecond."""
    found = {one.key: one for biflow in observed.biflows for one in directions(biflow)}
    assert found == observed.uniflows


def test_the_client_is_the_source(observed: Observed) -> None:
    here = {str(observed.workload.here.four), str(observed.workload.here.six)}
    for biflow in observed.biflows:
        forward, _ = directions(biflow)
        assert forward.source in here
        assert biflow["biflowDirection"] == 1  # initiator (RFC 5103 section 6.3)
        assert biflow["SRC_PROC_NAME"] == biflow["DST_PROC_NAME"] != ""


def test_tshark_shows_both_directions(observed: Observed) -> None:
    """tshark gives reverse elements the names of the forward ones, which come later in a record."""
    names = ("cflow.packets", "cflow.octets")
    columns: list[list[int]] = [[], []]
    for line in observed.capture.columns(*names):
        for column, cell in zip(columns, line, strict=True):
            column += map(int, cell)
    expected = [directions(biflow) for biflow in observed.biflows]
    assert sorted(zip(*columns, strict=True)) == sorted(
        (one.packets, one.octets) for pair in expected for one in pair
    )
    assert observed.capture.malformed() == ""
