"""Tests users' errors: one line says what to do, exit status 2, and no traceback."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from probe.sources.ebpf import OBJECT
from tests.support.programs import ROOT, SOCKFLOW

_RUN = (*SOCKFLOW, "run", "--duration", "1", "--collector", "ebpf", "-e", "ipfix://127.0.0.1:9")
#: Runs as another user with one right: to read any file, so also the checkout.
_MAY_READ = "-all,+dac_read_search"
_AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
              f"--inh-caps={_MAY_READ}", f"--ambient-caps={_MAY_READ}")  # fmt: skip
_WITHOUT_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


def refusal(command: Sequence[object]) -> str:
    """Returns the one line on standard error."""
    done = subprocess.run(
        [str(word) for word in command],
        text=True, capture_output=True, cwd=ROOT, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert done.stdout == ""
    assert done.stderr.startswith("sockflow: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def refusal_where(prepare: str, command: Sequence[object] = _RUN) -> str:
    """Returns the refusal in an own mount namespace, after the shell command ``prepare``."""
    words = " ".join(f"'{word}'" for word in command)
    return refusal(("unshare", "--mount", "sh", "-ec", f"{prepare}; exec {words}"))


def test_without_privilege() -> None:
    line = refusal((*_WITHOUT_CAPABILITIES, *_RUN))
    assert "run as root" in line
    assert "CAP_BPF" in line


def test_as_nobody() -> None:
    assert "run as root" in refusal((*_AS_NOBODY, *_RUN))


def test_without_the_object() -> None:
    assert "make -C bpf" in refusal_where(f"mount -t tmpfs none '{OBJECT.parent}'")


def test_with_an_object_that_is_none() -> None:
    assert "sockflow.bpf.o" in refusal_where(f"mount --bind /dev/null '{OBJECT}'")


def test_without_btf() -> None:
    assert "CONFIG_DEBUG_INFO_BTF" in refusal_where("mount -t tmpfs none /sys/kernel/btf")


def test_without_cgroup_v2() -> None:
    line = refusal_where("umount --all --lazy --types cgroup2")
    assert "mount -t cgroup2" in line


def test_without_libbpf() -> None:
    find = "ldconfig -p | sed -n 's/.*libbpf.so.1 .*=> //p'"
    line = refusal_where(f'for file in $({find}); do mount --bind /dev/null "$file"; done')
    assert "install the package libbpf1" in line


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("active-timeout = ", "not valid TOML"),
        ("activ-timeout = 3", "unknown setting 'activ-timeout'"),
        ("active-timeout = 'soon'", "active-timeout must be a number"),
        ("destinations = 'ipfix://127.0.0.1'", "destinations must be a list"),
        ("[privacy]\nuser = false", "unknown setting privacy.user"),
        ("\xff\xfe", "not valid TOML"),
    ],
)
def test_broken_config(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "sockflow.toml"
    file.write_bytes(text.encode("latin-1"))
    line = refusal((*_RUN, "--config", file))
    assert str(file) in line
    assert named in line


@pytest.mark.parametrize("missing", ["--config", "--template"])
def test_missing_file(tmp_path: Path, missing: str) -> None:
    assert "nowhere" in refusal((*_RUN, missing, tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "text",
    ["", "octetDeltaCounter", "octetDeltaCount[3]", "octetDeltaCount[0]", "SRC_PROC_NAME[70000]",
     "octetDeltaCount\noctetDeltaCount", "a | b | c", "sourceIPv4Address[", "\xff\xfe\0"],
)  # fmt: skip
def test_broken_template(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.txt"
    file.write_bytes(text.encode("latin-1"))
    assert str(file) in refusal((*_RUN, "--template", file))


@pytest.mark.parametrize(
    "url",
    ["", "collector", "netflow://127.0.0.1:1", "ipfix://", "ipfix://127.0.0.1:99999",
     "ipfix://127.0.0.1:port", "ipfix://[::1:4739", "ipfix://::1:4739", "ipfix://127.0.0.1:0",
     "ipfix://127.0.0.1:1/path", "ipfix://127.0.0.1?speed=1", "ipfix://127.0.0.1?pace=-1",
     "ipfix://127.0.0.1?max_message=9", "ipfix://a b", "ipfix://" + "x" * 300, "ipfix://a..b",
     "ipfix://\udcff"],
)  # fmt: skip
def test_nonsense_destination(url: str) -> None:
    assert "destination" in refusal((*SOCKFLOW, "run", "--duration", "1", "-e", url))


@pytest.mark.parametrize(
    ("query", "named"),
    [("profile=nonsense", "nonsense"), ("biflow=yes", "biflow"), ("share=fair", "hash or round-"),
     ("cert=a&key=b", "cert")],
)  # fmt: skip
def test_options_of_a_destination(query: str, named: str) -> None:
    line = refusal((*SOCKFLOW, "run", "--duration", "1", "-e", f"ipfix://127.0.0.1:9?{query}"))
    assert named in line


@pytest.mark.parametrize(
    ("url", "named"),
    [("netflow9://127.0.0.1?biflow=rfc5103", "NetFlow v9 has no reverse elements"),
     ("netflow9://127.0.0.1?profile=full&max_message=512", "does not fit into messages of 512"),
     ("ipfix+tls://127.0.0.1", "cert=FILE and key=FILE must be given"),
     ("ipfix+tls://127.0.0.1?cert=/nowhere/c.pem&key=/nowhere/k.pem", "/nowhere/c.pem"),
     ("ipfix+tls://127.0.0.1?cert=/etc/hostname&key=/etc/hostname", "PEM"),
     ("ipfix+tcp://127.0.0.1?pace=1000", "pace"),
     ("file:///nowhere/flows.ipfix", "No such file or directory"),
     ("file:///dev/null", "not a regular file"), ("file:///etc/hostname", "not an IPFIX file"),
     ("file://flows.ipfix", "an absolute path")],
)  # fmt: skip
def test_transports_that_cannot_be(url: str, named: str) -> None:
    assert named in refusal((*SOCKFLOW, "run", "--duration", "1", "-e", url))


def test_unreadable_certificate(tmp_path: Path) -> None:
    """The certificate is a directory, because root may read every file."""
    url = f"ipfix+tls://127.0.0.1?cert={tmp_path}&key={tmp_path}"
    assert "Is a directory" in refusal((*SOCKFLOW, "run", "--duration", "1", "-e", url))


def test_template_of_elements_that_nobody_knows(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("octetDeltaCount\nflowColour\n")
    line = refusal((*_RUN, "--profile", "iana", "--template", file))
    assert f"{file}:2" in line
    assert "flowColour" in line


@pytest.mark.parametrize("url", ["ipfix://127.0.0.1:9", "netflow9://127.0.0.1:9"])
def test_template_longer_than_a_message(tmp_path: Path, url: str) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("octetDeltaCount\nSRC_PROC_NAME[400]\nDST_PROC_NAME[400]\n")
    command = (*SOCKFLOW, "run", "--duration", "1", "-e", f"{url}?max_message=512")
    assert "does not fit into messages of 512" in refusal((*command, "--template", file))


@pytest.mark.parametrize("command", [("templates", "nonsense"), ("templates", "--pmacct", "x")])
def test_unknown_profile(command: tuple[str, ...]) -> None:
    line = refusal((*SOCKFLOW, *command))
    assert "profile" in line
    assert "nfdump" in line, "the known ones are named"


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [("--profile", "nonsense", "nonsense"),
     ("--include", "cidr=10.0.0.0/99", "10.0.0.0/99"), ("--exclude", "colour=red", "colour=red"),
     ("--odid", "-1", "odid"), ("--interval", "0", "interval"), ("--duration", "nan", "duration"),
     ("--pen", "x", "--pen"), ("--collector", "pcap", "--collector"),
     ("--max-flows", "0", "max-flows"), ("--no-such-flag", "1", "--no-such-flag")],
)  # fmt: skip
def test_nonsense_options(option: str, value: str, named: str) -> None:
    assert named in refusal((*_RUN, option, value))


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1", "[::1:1", "192.0.2.1:4739", "::1:1"])
def test_collector_that_cannot_listen(listen: str) -> None:
    assert "listen" in refusal((*SOCKFLOW, "collect", "--listen", listen))
