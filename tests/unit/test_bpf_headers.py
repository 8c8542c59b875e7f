"""Tests that each header of bpf/ compiles alone and that headers call in one direction."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

BPF = Path(__file__).resolve().parents[2] / "bpf"
HEADERS = sorted(BPF.glob("*.h"))
#: Headers of declarations. Other headers may include them without using any name of them.
DECLARATIONS = {"kernel.h", "flow.h"}

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_INCLUDE = re.compile(r'^#include "(\w+\.h)"', re.MULTILINE)
_MACRO = re.compile(r"^#define (\w+)", re.MULTILINE)
_FUNCTION = re.compile(r"^(?!#)[\w \*]*?\b(\w+)\([^;{}\"]*\)\n\{", re.MULTILINE)
_MAP = re.compile(r'^\} (\w+) SEC\("\.maps"\)', re.MULTILINE)
_TYPE = re.compile(r"^(?:struct|enum) (\w+) \{", re.MULTILINE)
_VARIABLE = re.compile(r"^(?!extern)[\w \*]*?\b(\w+)(?: = [^;{]+)?;", re.MULTILINE)
_ENUMERATOR = re.compile(r"^\t([A-Z]\w+)(?: = [^,]+)?,", re.MULTILINE)
_PROGRAM = re.compile(r"^int BPF_PROG\((\w+)", re.MULTILINE)
_PROTOTYPE = re.compile(
    r"^(?:static|extern|__noinline|void|int|struct \w+)\b[^;{}=\n]*\w+\([^;{}]*\);", re.MULTILINE
)
_WORD = re.compile(r"(?<!->)(?<!\.)\b[A-Za-z_]\w+\b")  # but not a member


def code(text: str) -> str:
    """Returns ``text`` without comments and strings."""
    return re.sub(r'"[^"\n]*"', '""', _COMMENT.sub(" ", text))


def defined(text: str) -> set[str]:
    """Returns the names that a header defines at file scope, without its include guard."""
    text = _COMMENT.sub("", text)
    kinds = (_MACRO, _FUNCTION, _PROGRAM, _MAP, _TYPE, _VARIABLE, _ENUMERATOR)
    found = {name for kind in kinds for name in kind.findall(text)}
    return {name for name in found if not name.startswith("SOCKFLOW_") and name != "BPF_PROG"}


def faults(texts: Mapping[str, str]) -> list[str]:
    """Returns what is wrong with the headers {name: text}."""
    includes = {name: set(_INCLUDE.findall(text)) for name, text in texts.items()}
    found = _circles(includes)
    owners: dict[str, str] = {}
    for name, text in texts.items():
        if name not in DECLARATIONS:
            for word in defined(text):
                if owners.setdefault(word, name) != name:
                    found.append(f"{word} is defined in {owners[word]} and {name}")
    for name in texts.keys() - DECLARATIONS:
        text = texts[name]
        used = {owners[word] for word in _WORD.findall(code(text)) if word in owners} - {name}
        found += [f"{name} uses {other} without including it" for other in used - includes[name]]
        unused = includes[name] - used - DECLARATIONS
        found += [f"{name} includes {other} and does not use it" for other in unused]
        ahead = [one for one in _PROTOTYPE.findall(_COMMENT.sub("", text)) if "__ksym" not in one]
        found += [f"{name} calls up, by a declaration: {one}" for one in ahead]
    return sorted(found)


def _circles(includes: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(includes).prepare()
    except CycleError as error:
        return ["a circle of includes: " + " -> ".join(error.args[1])]
    return []


def read_headers() -> dict[str, str]:
    return {path.name: path.read_text() for path in HEADERS}


def test_headers_include_what_they_use_and_call_down() -> None:
    assert faults(read_headers()) == []


def test_names_are_found() -> None:
    """``defined`` reads every header; the checks above miss a header that it cannot read."""
    headers = read_headers()
    assert len(headers) > 20
    for name in headers.keys() - {"protocols.h"}:
        assert len(defined(headers[name])) >= 1, name
    assert {"slots", "slot_of", "SLOTS", "cookie_line"} <= defined(headers["slots.h"])
    assert {"tcp_retransmitted", "retransmits"} <= defined(headers["tcp_events.h"])
    assert {"use_slots", "hash_secret"} <= defined(headers["knobs.h"])
    assert {"losses", "flow_ring", "ring_flags"} <= defined(headers["output.h"])


@pytest.mark.parametrize(
    ("name", "added", "expected"),
    [
        ("rows.h", '#include "tcp.h"\nstatic int up(void)\n{\n\treturn is_of_interest(1);\n}\n',
         "a circle of includes"),
        ("rows.h", "static int up(void)\n{\n\treturn is_of_interest(1);\n}\n",
         "rows.h uses tcp.h without including it"),
        ("rows.h", "static __noinline int emit_later(struct sock_flow *f, int old);\n",
         "rows.h calls up, by a declaration"),
        ("rows.h", '#include "protocols.h"\n#include "paths.h"\n',
         "rows.h includes paths.h and does not use it"),
        ("rows.h", "#define SLOTS 5\n", "SLOTS is defined in"),
    ],
)  # fmt: skip
def test_faults_are_seen(name: str, added: str, expected: str) -> None:
    headers = read_headers()
    headers[name] += added
    assert any(fault.startswith(expected) for fault in faults(headers)), faults(headers)


def compiles(tmp_path: Path, *names: str, folder: Path = BPF) -> str:
    """Returns the compiler's errors for a source that includes these headers in this order."""
    source = tmp_path / "headers.bpf.c"
    source.write_text("".join(f'#include "{folder / name}"\n' for name in names))
    return subprocess.run(
        ["make", "--silent", "-C", BPF, "check", f"SOURCE={source}"],
        capture_output=True, text=True, timeout=300,
    ).stderr  # fmt: skip


@pytest.mark.parametrize("name", [path.name for path in HEADERS])
def test_a_header_compiles_alone(tmp_path: Path, name: str) -> None:
    assert compiles(tmp_path, name) == ""


@pytest.mark.parametrize("turned", [False, True])
def test_the_order_of_includes_does_not_matter(tmp_path: Path, turned: bool) -> None:
    names = sorted((path.name for path in HEADERS), reverse=turned)
    assert compiles(tmp_path, *names, *names) == ""


def test_a_header_that_does_not_compile_alone_is_seen(tmp_path: Path) -> None:
    (tmp_path / "lone.h").write_text(
        "static struct sock_flow *nothing(u32 at)\n{\n\treturn 0;\n}\n"
    )
    assert "u32" in compiles(tmp_path, "lone.h", folder=tmp_path)
