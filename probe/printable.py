"""Makes text safe to show, so that foreign names can neither drive the terminal nor forge a line.

A name may come from a process, from inside a container, from a cgroup or from the network. All text
for people passes ``printable`` just before it is written: views, log lines, errors and summaries.
JSON does not need it, since JSON is written in ASCII with escapes for all other characters.
"""

from __future__ import annotations

import re

_REPLACEMENT = "?"
#: Joiners, fillers and variation selectors, which show nothing. For Python they are printable.
_INVISIBLE = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0000-\U000e0fff"
)
_INVISIBLE_ONE = re.compile(f"[{_INVISIBLE}]")


def printable(text: str) -> str:
    """Returns ``text`` with a '?' for each character that is invisible or has an effect.

    These are control characters (C0, C1, DEL; also line breaks and escapes), changes of direction,
    characters without width, lone surrogates and unassigned ones. The length stays the same.
    """
    if text.isprintable():
        return text if text.isascii() else _INVISIBLE_ONE.sub(_REPLACEMENT, text)
    shown = (one if one.isprintable() else _REPLACEMENT for one in text)
    return _INVISIBLE_ONE.sub(_REPLACEMENT, "".join(shown))
