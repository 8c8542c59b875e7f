"""Runs a probe with its SNMP agent, and asks it with the usual programs."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from pathlib import Path

from tests.support.lab.hosts import run
from tests.support.programs import ROOT, SOCKFLOW

PORT = 11610
IF_NAME, IF_ALIAS = "1.3.6.1.2.1.31.1.1.1.1", "1.3.6.1.2.1.31.1.1.1.18"
IF_DESCR, HC_IN, HC_OUT = "1.3.6.1.2.1.2.2.1.2", f"{IF_NAME[:-1]}6", f"{IF_NAME[:-1]}10"
IF_NUMBER, TABLE_CHANGE = "1.3.6.1.2.1.2.1.0", "1.3.6.1.2.1.31.1.5.0"
SYS_UPTIME, DISCONTINUITY = "1.3.6.1.2.1.1.3.0", f"{IF_NAME[:-1]}19"
V2C = ("-v2c", "-c", "reader")
ALICE = ("-v3", "-l", "authPriv", "-u", "alice", "-a", "SHA-256", "-A", "authpass12",
         "-x", "AES", "-X", "privpass12")  # fmt: skip
CAROL = ("-v3", "-l", "authPriv", "-u", "carol", "-a", "SHA", "-A", "authpass12",
         "-x", "AES-256", "-X", "privpass12")  # fmt: skip
CONFIG = f"""
docker = false
[snmp]
listen = "127.0.0.1:{PORT}"
communities = ["reader"]
contact = "noc@example.org"
[[snmp.users]]
name = "alice"
auth = "sha256"
auth-key = "authpass12"
priv = "aes"
priv-key = "privpass12"
[[snmp.users]]
name = "carol"
auth = "sha"
auth-key = "authpass12"
priv = "aes256"
priv-key = "privpass12"
"""


class Probe:
    def __init__(self, config: str, folder: Path, *prefix: str) -> None:
        self.log = folder / "log"
        file = folder / "sockflow.toml"
        file.touch(mode=0o600)  # the probe warns of a file with keys that everybody may read
        file.write_text(config)
        target = f"file://{folder / 'flows.ipfix'}"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*prefix, *SOCKFLOW, "run", "--config", str(file), "-e", target],
                cwd=ROOT,
                stderr=log,
            )

    def agent(self) -> int:
        """Returns the process id of the agent."""
        found = run("pgrep", "-P", str(self.process.pid), "-f", "probe.snmp").stdout.split()
        return int(found[0])

    def stop(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(120) == 0
        return self.log.read_text()


def ask(tool: str, how: tuple[str, ...], *oids: str) -> list[tuple[str, str]]:
    """Returns (name, value) as the tool shows them."""
    lines = run(tool, *how, "-On", "-Oe", "-OQ", f"127.0.0.1:{PORT}", *oids).stdout.splitlines()
    pairs = [line.lstrip(".").partition(" = ") for line in lines]
    return [(name, value.strip('"')) for name, _, value in pairs]


def column(oid: str, how: tuple[str, ...] = V2C, tool: str = "snmpbulkwalk") -> dict[int, str]:
    return {int(name.rpartition(".")[2]): value for name, value in ask(tool, how, oid)}


def until(found: object, wanted: object = True, seconds: float = 120) -> None:
    """Waits until ``found()`` returns what is wanted; it may fail meanwhile."""
    assert callable(found)
    deadline, last = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        with contextlib.suppress(subprocess.CalledProcessError, KeyError, IndexError, OSError):
            if (last := found()) == wanted:
                return
        time.sleep(0.1)
    assert last == wanted


def statistics(*prefix: str) -> dict[int, dict[str, int | str]]:
    """Returns what ip(8) shows of each interface."""
    found: dict[int, dict[str, int | str]] = {}
    for link in json.loads(run(*prefix, "ip", "-s", "-j", "link").stdout):
        octets = link["stats64"]
        found[link["ifindex"]] = {
            "name": link["ifname"], "in": octets["rx"]["bytes"], "out": octets["tx"]["bytes"],
        }  # fmt: skip
    return found
