"""Tests the tables and the files for collectors of ``sockflow templates``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from probe.commands.cli import main
from probe.mapping import load_elements, load_profiles
from probe.mapping.collector_files import snake_case


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["templates", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def rows(text: str) -> dict[str, list[str]]:
    """Returns {first word of a line: all of its words}."""
    return {words[0]: words for line in text.splitlines() if (words := line.split())}


def test_profiles_are_listed_with_their_notes(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys).splitlines()
    profiles = load_profiles()
    assert [line.split()[0] for line in lines] == list(profiles)
    assert lines[5].endswith(profiles["nfdump"].note)


def test_a_template_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(shown(capsys, "full", "--pen", "4711"))
    assert found["element"] == ["element", "id", "PEN", "type", "length", "in"]
    assert found["sourceIPv4Address"] == ["sourceIPv4Address", "8", "-", "ipv4Address", "4", "IPv4"]
    assert found["sourceIPv6Address"][-1] == "IPv6"
    assert found["tcpControlBits"] == ["tcpControlBits", "6", "-", "unsigned16", "1"]
    assert found["SRC_PROC_NAME"][:5] == ["SRC_PROC_NAME", "169", "35632", "string", "variable"]
    assert found["sourceGroupId"][1:3] == ["1", "4711"]
    assert " ".join(found["SRC_PROC_CMDLINE"]).endswith("if privacy allows command-lines")
    assert " ".join(found["postNATSourceIPv4Address"]).endswith("IPv4, translated")


def test_a_template_of_netflow9(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(shown(capsys, "full", "--netflow9"))
    assert "PEN" not in found["element"]
    assert found["flowStartSysUpTime"][1:] == ["22", "unsigned32", "4"]
    assert found["SRC_PROC_NAME"][1:4] == ["57641", "string", "16"]
    assert found["sourceProcessPath"][1:4] == ["60003", "string", "48"]


def test_a_template_of_ones_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("octetDeltaCount[4]\nuserName\n")
    assert rows(shown(capsys, str(file)))["octetDeltaCount"][-1] == "4"
    text = shown(capsys, str(file), "--netflow9")
    assert "NetFlow v9 has no field type for: userName\n" in text
    assert rows(text)["octetDeltaCount"] == ["octetDeltaCount", "1", "unsigned64", "4"]


def test_reverse_elements(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(shown(capsys, "iana", "--biflow"))
    assert found["reverseOctetDeltaCount"][1:] == ["1", "29305", "unsigned64", "8"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nope"], "there is no profile 'nope': use one of full, "),
        (["full", "--biflow", "--netflow9"], "NetFlow v9 has no reverse elements"),
        (["--pmacct", "--goflow2"], "not allowed with argument"),
        (["full", "--pen", "0"], "pen"),
    ],
)
def test_refusals(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["templates", *arguments]) == 2
    captured = capsys.readouterr()
    assert reason in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SRC_PROC_NAME", "src_proc_name"),
        ("sourceProcessPath", "source_process_path"),
        ("postNATSourceIPv4Address", "post_nat_source_ipv4_address"),
        ("postNAPTSourceTransportPort", "post_napt_source_transport_port"),
        ("sourcePodUUID", "source_pod_uuid"),
    ],
)
def test_names_in_small_letters(name: str, expected: str) -> None:
    assert snake_case(name) == expected


def test_names_in_small_letters_are_different_names() -> None:
    names = [snake_case(element.name) for element in load_elements()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-z][a-z0-9_]*", name) for name in names)


def primitives(text: str) -> dict[str, dict[str, str]]:
    """Returns {name: keys}, as pmacct reads its file."""
    lines = [line for line in text.splitlines() if not line.startswith("!")]
    parsed = [dict(word.split("=") for word in line.split()) for line in lines]
    return {keys["name"]: keys for keys in parsed}


def test_primitives_for_pmacct(capsys: pytest.CaptureFixture[str]) -> None:
    found = primitives(shown(capsys, "--pmacct"))
    assert found["src_proc_name"] == {
        "name": "src_proc_name", "field_type": "35632:169", "len": "vlen", "semantics": "str"
    }  # fmt: skip
    assert found["flow_id"]["field_type"] == "148"
    assert found["src_proc_pid"]["len"] == "4"
    assert not {"octet_delta_count", "tcp_control_bits", "flow_start_milliseconds"} & set(found)


def test_primitives_for_pmacct_by_netflow9(capsys: pytest.CaptureFixture[str]) -> None:
    """Strings are vlen in v9, too. Otherwise nfacctd prints octets behind a full field."""
    found = primitives(shown(capsys, "--pmacct", "--netflow9"))
    assert found["src_proc_container_id"] == {
        "name": "src_proc_container_id", "field_type": "58030", "len": "vlen", "semantics": "str"
    }  # fmt: skip
    assert all((keys["len"] == "vlen") == (keys["semantics"] == "str") for keys in found.values())


def test_primitives_for_strings_of_fixed_length(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("octetDeltaCount\nSRC_PROC_NAME[16]\nsourcePodUUID\n")
    found = primitives(shown(capsys, str(file), "--pmacct"))
    assert found["src_proc_name"]["len"] == "vlen"


def test_what_does_not_leave_by_default_is_a_comment(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "full", "--pmacct")
    assert "src_proc_cmdline" not in primitives(text)
    assert "! if allowed to leave: name=src_proc_cmdline " in text


def test_pmacct_is_told_of_numbers_that_it_confuses(capsys: pytest.CaptureFixture[str]) -> None:
    """pmacct reads 0 if two enterprises use the same number; its own profile avoids that."""
    warning = "two elements with number 1 in one Template"
    assert warning in shown(capsys, "full", "--pmacct", "--biflow")
    assert "two elements" not in shown(capsys, "pmacct", "--pmacct", "--biflow")


def section(text: str, name: str, inner: str) -> list[str]:
    """Returns the items of a list in the YAML file: ``name:``, ``  inner:``, ``    - item``."""
    block = re.search(rf"^{name}:\n(?:  .*\n)*?  {inner}:\n((?:    .*\n)*)", text, re.M)
    assert block is not None
    return [line.strip().removeprefix("- ") for line in block[1].splitlines()]


def test_mapping_for_goflow2(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "--goflow2")
    fields = section(text, "formatter", "fields")
    declared = section(text, "formatter", "protobuf")
    names = [re.findall(r"name: (\w+), index: (\d+), type: (\w+)", item)[0] for item in declared]
    assert {name for name, _, _ in names} <= set(fields)
    assert len({index for _, index, _ in names}) == len(names)
    assert {"src_addr", "bytes", "time_flow_start_ns", "src_proc_name"} <= set(fields)
    assert ("src_proc_name", "string") in [(name, kind) for name, _, kind in names]
    assert ("src_proc_pid", "varint") in [(name, kind) for name, _, kind in names]
    assert "src_proc_name: string" in section(text, "formatter", "render")
    assert "post_nat_source_ipv4_address: ip" in section(text, "formatter", "render")
    ipfix, netflow9 = section(text, "ipfix", "mapping"), section(text, "netflowv9", "mapping")
    assert "{field: 169, penprovided: true, pen: 35632, destination: src_proc_name}" in ipfix
    assert "{field: 57641, destination: src_proc_name}" in netflow9
    assert "{field: 225, destination: post_nat_source_ipv4_address}" in ipfix
    destinations = {item.rpartition(" ")[2].rstrip("}") for item in ipfix}
    assert destinations == {name for name, _, _ in names}


def test_dissector_for_wireshark(capsys: pytest.CaptureFixture[str]) -> None:
    """It has all elements of enterprises, or those of a profile. Another test runs it in tshark."""
    everything = shown(capsys, "--wireshark", "--pen", "4711")
    assert '{ 35632, 169, 57641, "SRC_PROC_NAME", "string" },' in everything
    assert '{ 4711, 1, 60001, "sourceGroupId", "uint32" },' in everything
    assert '{ 29305, 1, 0, "reverseOctetDeltaCount", "uint64" },' in everything
    assert '"lossTotalCount", "uint64"' in everything
    assert "@ELEMENTS@" not in everything
    few = shown(capsys, "nprobe", "--wireshark")
    assert '"SRC_PROC_NAME"' in few
    assert '"sourceGroupId"' not in few
