"""Draws the picture of the live table, with flows of a made-up host and the view's code."""

from __future__ import annotations

import io
import re
from html import unescape

from rich.console import Console

from probe.view.flows import End, Flow
from probe.view.terminal import Drawn, make_table
from probe.view.text import ALL_COLUMNS, NUMBERS, cells

_WIDTH = 182
_NOW_S = 1_767_323_045.0
#: The declarations of fonts. They would be loaded from the network, so they are left out.
_FONTS = re.compile(r"\s*@font-face \{.*?\}", re.S)
_TEXT = re.compile(r"<text[^>]*>(.*?)</text>", re.S)


def flows_picture() -> str:
    """Returns the SVG of docs/pictures/flows.svg."""
    console = Console(record=True, width=_WIDTH, file=io.StringIO(), color_system="truecolor")
    console.print(make_table(_drawn()))
    svg = console.export_svg(title="sockflow flows --sort octets", unique_id="flows")
    return "\n".join(line.rstrip() for line in _FONTS.sub("", svg).splitlines()) + "\n"


def shown_text(svg: str) -> str:
    """Returns the text in a picture without blanks. Versions of rich differ in the rest."""
    return re.sub(r"\s", "", unescape("".join(_TEXT.findall(svg))))


def _drawn() -> Drawn:
    rows = [cells(flow, _NOW_S, ALL_COLUMNS) for flow in _FLOWS]
    dim = [number for number, flow in enumerate(_FLOWS) if flow.ended]
    return Drawn(f"sockflow on node-7: {len(_FLOWS)} flows", ALL_COLUMNS, rows, NUMBERS, dim)


def _flow(
    protocol: str, client: End, server: End, age_s: float, rtt_us: int = 0, resent: int = 0,
    state: str = "established",
) -> Flow:  # fmt: skip
    return Flow(
        protocol, client, server, _NOW_S - age_s, _NOW_S, _NOW_S, rtt_us, resent, state,
        ended=state == "closed",
    )  # fmt: skip


_FLOWS = (
    _flow("tcp", End("172.18.0.3:40112", 1_904_000, 14_311, "nginx(2417)", "www-data", "web"),
          End("172.18.0.4:5432", 48_310_000, 33_180, "postgres(1893)", "postgres", "db"),
          192.4, 41),
    _flow("tcp", End("198.51.100.23:51344", 61_204, 702),
          End("172.18.0.3:443", 9_310_220, 6_511, "nginx(2417)", "www-data", "web"),
          31, 18_420, 6),
    _flow("tcp", End("192.0.2.10:39772", 2_961_004, 2_107, "rsync(3051)", "backup"),
          End("203.0.113.5:22", 84_216, 1_610), 12, 9_950),
    _flow("tcp", End("172.18.0.5:58220", 9_204, 24, "cart(2660)", "app", "cart"),
          End("172.18.0.4:5432", 61_882, 58, "postgres(1904)", "postgres", "db"), 4.2, 52),
    _flow("tcp", End("172.18.0.6:44718", 3_650, 24, "curl(3054)", "ada", "cli"),
          End("172.18.0.3:80", 5_420, 12, "nginx(2417)", "www-data", "web"), 0.3, 21, 0, "closed"),
    _flow("udp", End("172.18.0.3:47012", 71, 1, "nginx(2417)", "www-data", "web"),
          End("172.18.0.2:53", 103, 1, "dnsmasq(1711)", "dns", "dns"), 1.1, state=""),
)  # fmt: skip
