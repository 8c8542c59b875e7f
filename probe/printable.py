"""Text that is safe to show: what others chose must not drive the terminal, nor forge a line.

A name may come from a process, from inside a container, from a cgroup or from the network. Whatever
Sockflow writes for people passes here, at the last moment: views, log lines, errors, summaries.
JSON needs no such care: all of it is written in ASCII, with escapes for everything else.
"""

from __future__ import annotations

import re

_REPLACEMENT = "?"
#: Python takes these for printable, but they show nothing: joiners, fillers, variation selectors.
_INVISIBLE = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0000-\U000e0fff"
)
_INVISIBLE_ONE = re.compile(f"[{_INVISIBLE}]")


def printable(text: str) -> str:
    """``text`` with one '?' for every character that shows nothing or does something.

    These are control characters (C0, C1, DEL: line breaks and escapes too), changes of direction,
    characters without width, lone surrogates and what Unicode has not assigned. The length stays.
    """
    if text.isprintable():
        return text if text.isascii() else _INVISIBLE_ONE.sub(_REPLACEMENT, text)
    shown = (one if one.isprintable() else _REPLACEMENT for one in text)
    return _INVISIBLE_ONE.sub(_REPLACEMENT, "".join(shown))
