"""Tests that generated pages are up to date, that links lead somewhere and commands exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.make.__main__ import DOCS, MADE, stale
from docs.make.elements import in_flows, in_options, read_sentences, read_values
from docs.make.picture import shown_text
from probe.commands.cli import build_parser
from probe.config import build, check
from probe.flow.codes import UNCONFIRMED, UNCONFIRMED_PATH, EndReason, OwnerSource, Role
from probe.flow.owner import OwnerTable
from probe.ipfix.elements import content_lines
from probe.mapping import load_elements
from probe.mapping.tables import TCP_STATES
from probe.owners.users import UserNames
from probe.run.causes import NOTICES
from probe.run.destinations import KINDS, parse_destination
from probe.sources.netlink.source import NetlinkSource
from probe.view.text import ALL_COLUMNS
from tests.support.json_schema import check_line
from tests.support.tree import ROOT, tracked
from tests.unit.test_layers import LAYERS
from tests.unit.test_new_column import EXAMPLE as NEW_COLUMN

PAGES = sorted(path for path in tracked() if path.suffix == ".md")
_CODE = re.compile(r"^```.*?^```", re.M | re.S)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*)$", re.M)
_LONGEST_README = 150
_BLOCK = re.compile(r"^```(?:sh)?\n(.*?)^```", re.M | re.S)


def read(page: Path) -> str:
    return (ROOT / page).read_text("utf-8")


def anchors(page: Path) -> set[str]:
    """Returns the names that GitHub gives to the headings of a page."""
    text = _CODE.sub("", read(page))
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in _HEADING.findall(text)
    }


def broken_links(page: Path) -> list[str]:
    found = []
    for target in _LINK.findall(_CODE.sub("", read(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (ROOT / page).parent.joinpath(path).resolve() if path else (ROOT / page).resolve()
        is_there = there.exists() and there.is_relative_to(ROOT)
        if not is_there or (anchor and anchor not in anchors(there.relative_to(ROOT))):
            found.append(target)
    return found


def commands(page: Path) -> Iterator[str]:
    """Yields what follows ``sockflow`` in the commands of a page's blocks."""
    for block in _BLOCK.findall(read(page)):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.match(r"(?:\S*/|[A-Z_]+=\S+ |sudo )*sockflow (.+)", line.strip()):
                yield found[1]


def words(command: str) -> list[str]:
    """Returns the words of a command up to a comment, a pipe or a redirection."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    found: list[str] = []
    for word in lexer:
        if word[0] in "|&;<>":
            break
        found.append(word)
    return found


# -- what is made ----------------------------------------------------------------------------------
def test_made_pages_are_up_to_date() -> None:
    assert stale() == [], "run `make docs`"


def test_a_stale_page_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docs.make.__main__.DOCS", tmp_path)
    assert stale() == list(MADE)


def test_the_picture_has_the_columns_of_the_view() -> None:
    svg = (DOCS / "pictures" / "flows.svg").read_text("utf-8")
    assert "".join(ALL_COLUMNS) in shown_text(svg)
    assert "@font-face" not in svg, "a viewer would fetch fonts from the network"


# -- elements --------------------------------------------------------------------------------------
def test_each_element_has_a_sentence() -> None:
    sentences = read_sentences()
    assert set(sentences) == {element.name for element in load_elements()}
    assert [name for name, text in sentences.items() if len(text) < 4] == []


def test_each_element_is_in_the_reference() -> None:
    page = read(Path("docs/elements.md"))
    assert [e.name for e in load_elements() if page.count(f"| `{e.name}` |") != 1] == []
    assert {*in_flows(), *in_options()} <= set(read_sentences())


def test_values_are_those_of_the_code() -> None:
    values = {name: [value for value, _ in rows] for name, rows in read_values().items()}
    assert values["flowEndReason"] == [str(int(reason)) for reason in EndReason]
    assert values["biflowDirection"] == [str(int(role)) for role in Role]
    origins = list(map(str, [*map(int, OwnerSource), UNCONFIRMED, UNCONFIRMED_PATH]))
    assert values["sourceOwnerOrigin"] == values["destinationOwnerOrigin"] == origins
    assert values["tcpState"] == [state for state in TCP_STATES if state]


def test_values_are_of_elements_that_are_sent() -> None:
    assert set(read_values()) <= {*in_flows(), *in_options()}


def test_other_registries_describe_their_own_elements() -> None:
    """Only Sockflow's own elements have descriptions for type records."""
    told = {element.pen for element in load_elements() if element.description}
    assert told == {32473}


# -- pages -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "a.md").write_text("# One `two`: three\n[x](#one-two-three) [y](#four) [z](b.md)\n")
    assert broken_links(Path("a.md")) == ["#four", "b.md"]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_are_commands(page: Path, tmp_path: Path) -> None:
    """The parser accepts each command, and the checks accept the settings of each ``run``."""
    for command in commands(page):
        if command.startswith("--version"):
            continue
        options = vars(build_parser().parse_args(words(command)))
        if options.pop("command").name == "run":
            del options["version"]
            options.pop("config", None)
            for destination in build(options).destinations:
                parse_destination(destination.replace("$PWD", "/folder"))


def test_commands_are_found() -> None:
    assert sum(1 for page in PAGES for _ in commands(page)) > 20


def test_paths_that_pages_name_exist() -> None:
    """Paths of this tree in code, such as `tests/support/ipfix/lenient.py`, exist."""
    tops = {path.parts[0] for path in tracked() if len(path.parts) > 1}
    named = re.compile(rf"`((?:{'|'.join(map(re.escape, sorted(tops)))})/[\w./-]*\w)`")
    missing = {
        (str(page), path)
        for page in PAGES
        if page.name != "CHANGELOG.md"
        for path in named.findall(read(page))
        if not (ROOT / path).exists() and not (ROOT / f"{path}.py").exists() and "NAME" not in path
    }
    assert missing == set()


def test_each_cause_is_documented() -> None:
    """The causes are losses and notices of eBPF, of Netlink and of the probe itself."""
    page = read(Path("docs/counters.md"))
    header = read(Path("bpf/flow.h"))
    (losses,) = re.findall(r"^struct losses \{(.*?)^\};", header, re.M | re.S)
    causes = set(re.findall(r"__u64 (\w+);", losses)) | set(NOTICES)
    causes |= set(NetlinkSource(OwnerTable(), UserNames()).losses())
    assert len(causes) > 15
    assert {cause for cause in causes if f"`{cause}`" not in page} == set()


def test_each_option_of_a_destination_is_documented() -> None:
    section = read(Path("docs/configuration.md")).partition("## Destinations")[2]
    options = {option.name for kind in KINDS for option in kind.options}
    assert {name for name in options if f"`{name}`" not in section} == set()
    assert {kind.scheme for kind in KINDS if f"| `{kind.scheme}:" not in section} == set()


def test_the_readme_is_short() -> None:
    assert len(read(Path("README.md")).splitlines()) < _LONGEST_README


def test_profiles_are_documented() -> None:
    lines = content_lines((ROOT / "templates" / "profiles.txt").read_text("utf-8"))
    names = {line.split()[0] for _, line in lines}
    page = read(Path("docs/profiles.md"))
    assert {name for name in names if f"`{name}`" not in page} == set()


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_configurations_are_taken(page: Path) -> None:
    for block in re.findall(r"^```toml\n(.*?)^```", read(page), re.M | re.S):
        assert check(tomllib.loads(block))


def test_the_object_of_the_page_satisfies_the_schema() -> None:
    (block,) = re.findall(r"^```json\n(.*?)^```", read(Path("docs/json.md")), re.M | re.S)
    check_line(block.replace("\n", ""))


def test_the_readme_shows_the_picture() -> None:
    assert "](docs/pictures/flows.svg)" in read(Path("README.md"))


def test_messages_of_the_probe_are_quoted_as_they_are() -> None:
    """The probe has every message that docs/troubleshooting.md quotes."""
    sources = (path.read_text("utf-8") for path in (ROOT / "probe").rglob("*.py"))
    said = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))
    section = read(Path("docs/troubleshooting.md")).partition("## It says that")[0]
    quoted = re.findall(r"^\| `(.+?)` \|", section, re.M)
    pieces = [piece.strip() for text in quoted for piece in text.split("...") if piece.strip()]
    assert len(pieces) >= 8
    assert [piece for piece in pieces if piece not in said] == []


def test_the_table_of_rooms_has_all_of_them() -> None:
    page = read(Path("docs/architecture.md"))
    table = page.partition("| room | does")[2].partition("\n\n")[0]
    firsts = (line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    rooms = {name.rstrip("/") for first in firsts for name in re.findall(r"`(.+?)`", first)}
    inner = {name for name in set().union(*LAYERS) if "." in name}
    assert rooms == set().union(*LAYERS) - inner - {"__main__"}


def test_the_example_of_a_column_is_the_one_that_is_tested() -> None:
    page = " ".join(read(Path("CONTRIBUTING.md")).split())
    for path, (_, more) in NEW_COLUMN.items():
        assert f"`{path}`" in page
        for line in more.splitlines():
            assert " ".join(line.split()) in page


def test_each_decision_is_listed_under_its_title() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text("utf-8")
    pages = sorted(folder.glob("[0-9]*.md"))
    assert len(pages) > 20
    for page in pages:
        title = page.read_text("utf-8").partition("\n")[0].removeprefix("# ")
        assert f"- [{title}]({page.name})" in index
        assert title.startswith(f"{int(page.name[:4])}. ")
