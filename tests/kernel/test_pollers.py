"""Tests Debian's pollers beside a real Docker, against ip(8).

They are prometheus-snmp-exporter with its module if_mib, MRTG's cfgmaker, and Prometheus with the
queries of the dashboard.
"""

from __future__ import annotations

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.support.lab.docker import IMAGE, Docker, docker_daemon
from tests.support.lab.hosts import inside, run, two_hosts
from tests.support.meters.snmp_agent import (
    CONFIG,
    IF_ALIAS,
    IF_DESCR,
    PORT,
    V2C,
    Probe,
    statistics,
    until,
)
from tests.support.programs import ROOT, Program, running

METRICS, EXPORTER, SERVER = "127.0.0.1:9709", "127.0.0.1:9116", "127.0.0.1:9090"
STACK = "1.3.6.1.2.1.31.1.2.1.3"
_COLUMNS = {
    "ifOperStatus": "1.3.6.1.2.1.2.2.1.8",
    "ifHCInOctets": "1.3.6.1.2.1.31.1.1.1.6",
    "ifHCOutOctets": "1.3.6.1.2.1.31.1.1.1.10",
}
_LOOKUPS = {"ifAlias": IF_ALIAS, "ifDescr": IF_DESCR, "ifName": "1.3.6.1.2.1.31.1.1.1.1"}


@dataclass
class Lab:
    docker: Docker
    probe: Probe
    namespace: str
    enter: tuple[str, ...]

    def get(self, url: str) -> str:
        with inside(self.namespace), urllib.request.urlopen(url, timeout=180) as answer:
            text: str = answer.read().decode()
            return text

    def run_traffic(self) -> None:
        """Lets 'client' fetch from 'web' until it is removed."""
        self.docker("run", "-d", "--name", "web", IMAGE, "httpd", "-f", "-p", "80", "-h", "/bin")
        url = f"http://{self.docker.address('web')}/busybox"
        loop = f"while :; do wget -q -O /dev/null {url}; sleep 0.2; done"
        self.docker("run", "-d", "--name", "client", IMAGE, "sh", "-c", loop)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder, state = (tmp_path_factory.mktemp(name) for name in ("pollers", "docker"))
    with two_hosts("sy") as (_, there), docker_daemon(there, state) as docker:
        enter = ("nsenter", f"--net=/run/netns/{there.name}")
        head = f'prometheus = "{METRICS}"\ndocker = "{docker.url}"'
        probe = Probe(CONFIG.replace("docker = false", head), folder, *enter)
        try:
            found = Lab(docker, probe, there.name, enter)
            until(lambda: bool(found.get(f"http://{METRICS}/metrics")))
            yield found
        finally:
            text = probe.stop()
    assert "WARNING" not in text
    assert "Traceback" not in text


@pytest.fixture(autouse=True)
def no_containers(lab: Lab) -> Iterator[None]:
    yield
    lab.docker.remove_all()


def test_containers_have_their_names(lab: Lab) -> None:
    """ifAlias is the container, and ifDescr the interface in it. Removed containers disappear."""

    def texts(oid: str) -> dict[int, str]:
        shown = run(*lab.enter, "snmpbulkwalk", *V2C, "-On", "-OQ", f"127.0.0.1:{PORT}", oid).stdout
        return {int(index): text for index, text in re.findall(r'\.(\d+) = "(.*)"', shown)}

    def aliases() -> dict[str, str]:
        described = texts(IF_DESCR)
        named = {alias: described[index] for index, alias in texts(IF_ALIAS).items() if alias}
        return {alias: re.sub(r"veth\w+", "veth", text) for alias, text in named.items()}

    lab.docker("run", "-d", "--name", "web", IMAGE, "sleep", "300")
    until(lambda: aliases().get("web"), "veth (eth0 in web)")
    lab.docker("run", "-d", "--name", "db", IMAGE, "sleep", "300")
    until(lambda: sorted(aliases()), ["db", "web"])
    names = {str(one["name"]): index for index, one in statistics(*lab.enter).items()}
    veth = next(index for index, alias in texts(IF_ALIAS).items() if alias == "web")
    pair = f"{STACK}.{names['docker0']}.{veth}"
    assert run(*lab.enter, "snmpget", *V2C, "-OqvU", f"127.0.0.1:{PORT}", pair).stdout == "1\n"
    lab.docker("rm", "-f", "web")
    until(lambda: sorted(aliases()), ["db"])


def test_snmp_exporter_while_containers_come_and_go(lab: Lab, tmp_path: Path) -> None:
    """Each has its alias and the counters of ``ip -s link``. A removed one has no series left."""
    config = tmp_path / "snmp.yml"
    config.write_text(json.dumps({"if_mib": _if_mib()}))
    command = (*lab.enter, "prometheus-snmp-exporter", f"--config.file={config}",
               f"--web.listen-address={EXPORTER}")  # fmt: skip
    with running(command, tmp_path, "exporter") as exporter:
        lab.run_traffic()
        first = _wait_for_index(lab, exporter, "client")
        until(lambda: _polled(lab, exporter)["web"]["ifHCInOctets"] > 1_000_000)
        lab.docker("stop", "-t", "0", "client")  # this ends the traffic and removes the veth
        until(lambda: sorted(_polled(lab, exporter)), ["web"])
        until(lambda: _agrees_with_ip(lab, exporter, "web"))
        lab.docker("start", "client")
        assert _wait_for_index(lab, exporter, "client") != first


def _wait_for_index(lab: Lab, exporter: Program, container: str) -> int:
    until(lambda: container in _polled(lab, exporter))
    return int(_polled(lab, exporter)[container]["ifIndex"])


def _agrees_with_ip(lab: Lab, exporter: Program, container: str) -> bool:
    """Returns True if the exporter agrees with ip's output, which is equal before and after."""
    index = int(_polled(lab, exporter)[container]["ifIndex"])
    before, polled = statistics(*lab.enter)[index], _polled(lab, exporter)[container]
    shown = {"name": polled["ifName"], "in": polled["ifHCInOctets"], "out": polled["ifHCOutOctets"]}
    assert polled["ifOperStatus"] == 1
    return shown == before == statistics(*lab.enter)[index]


def _polled(lab: Lab, exporter: Program) -> dict[str, dict[str, Any]]:
    """Returns columns and their labels by container."""
    assert exporter.is_alive(), exporter.errors
    query = urllib.parse.urlencode({"target": f"127.0.0.1:{PORT}", "module": "if_mib"})
    found: dict[str, dict[str, Any]] = {}
    for family in parse_text(lab.get(f"http://{EXPORTER}/snmp?{query}")):
        for sample in family.samples:
            if alias := sample.labels.get("ifAlias"):
                found.setdefault(alias, dict(sample.labels))[family.name] = int(sample.value)
    return found


def _if_mib() -> dict[str, Any]:
    """Returns the walk of the exporter's default module and some of its columns.

    Debian lacks the MIB texts to make all of them.
    """
    by_index = [{"labelname": "ifIndex", "type": "gauge"}]
    lookups = [
        {"labels": ["ifIndex"], "labelname": label, "oid": oid, "type": "DisplayString"}
        for label, oid in _LOOKUPS.items()
    ]
    return {
        "walk": ["1.3.6.1.2.1.2", "1.3.6.1.2.1.31.1.1"],
        "get": ["1.3.6.1.2.1.1.3.0"],
        "metrics": [
            {"name": name, "oid": oid, "type": "gauge" if name == "ifOperStatus" else "counter",
             "help": name, "indexes": by_index, "lookups": lookups}
            for name, oid in _COLUMNS.items()
        ],
        "version": 2,
        "auth": {"community": "reader"},
    }  # fmt: skip


def test_promtool_has_nothing_to_say(lab: Lab) -> None:
    lab.run_traffic()
    until(lambda: 'sockflow_container_sent_bytes_total{container="web"' in _scrape(lab))
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=_scrape(lab), text=True, capture_output=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_prometheus_answers_all_that_the_dashboard_asks(lab: Lab, tmp_path: Path) -> None:
    config = tmp_path / "prometheus.yml"
    job = {"job_name": "sockflow", "static_configs": [{"targets": [METRICS]}]}
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}))
    command = (*lab.enter, "prometheus", f"--config.file={config}",
               f"--storage.tsdb.path={tmp_path / 'data'}",
               f"--web.listen-address={SERVER}")  # fmt: skip
    lab.run_traffic()
    with running(command, tmp_path, "prometheus") as server:
        until(lambda: len(_query(lab, "rate(sockflow_container_rtt_seconds_count[10s]) > 0")) >= 1)
        until(lambda: {title for title, expression in _panels() if not _query(lab, expression)},
              set())  # fmt: skip
        panels = dict(_panels())
        for title in ("Sent by container", "Received by container", "Round-trip time, average"):
            answer = {one["metric"]["container"]: float(one["value"][1])
                      for one in _query(lab, panels[title])}  # fmt: skip
            assert answer["client"] > 0, title
            assert answer["web"] > 0, title
        assert [one["metric"] for one in _query(lab, panels["Collector"])] == [
            {"collector": "ebpf"}
        ]
        assert server.is_alive()


def _scrape(lab: Lab) -> str:
    return lab.get(f"http://{METRICS}/metrics")


def _query(lab: Lab, expression: str) -> list[dict[str, Any]]:
    query = urllib.parse.urlencode({"query": expression})
    answer = json.loads(lab.get(f"http://{SERVER}/api/v1/query?{query}"))
    assert answer["status"] == "success"
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def _panels() -> Iterator[tuple[str, str]]:
    """Yields (title, expression) with values for the dashboard's variables."""
    board = json.loads((ROOT / "deploy" / "grafana" / "sockflow.json").read_text())
    values = {"$__rate_interval": "10s", "$__range": "1m", "$top": "10", "$job": "sockflow",
              "$instance": ".*", "$namespace": ".*", "$container": ".*"}  # fmt: skip
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for name, value in values.items():
                expression = expression.replace(name, value)
            assert "$" not in expression
            yield panel["title"], expression
