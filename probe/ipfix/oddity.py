"""Names the ways in which exporters break the rules of the protocols.

A strict collector would get nothing from many devices. So the decoder reads what can be read,
counts each kind of breach, and reports it once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import Enum


class Oddity(Enum):
    """One kind of breach: its text, which follows a number, and whether octets were lost."""

    # everything could be read
    PADDING = "Sets with padding that is not zero", False
    LONG_PADDING = "Sets with padding as long as a record", False
    ZERO_TAIL = "messages filled up with zeros", False
    UNCOUNTED_PADDING = "Sets behind padding that no length counts", False
    EMPTY_FIELD = "fields of length 0", False
    VARIABLE_LENGTH = "fields of variable length in NetFlow v9", False
    NO_SCOPE = "Options Templates with an impossible number of scopes", False
    OPTIONS_LENGTH = "Options Templates whose lengths are no multiples of 4", False
    COUNT_OF_SETS = "NetFlow v9 headers that count FlowSets", False
    COUNT = "NetFlow v9 headers with a wrong count", False
    MESSAGE_LENGTH = "headers with a wrong message length", False
    BEHIND_MESSAGE = "messages with octets behind them", False
    # some octets could not be read
    CUT_MESSAGE = "messages that were cut", True
    SET_LENGTH = "Sets with an impossible length", True
    RESERVED_SET = "Sets with a reserved id", True
    BEHIND_SETS = "messages with octets behind their Sets", True
    TEMPLATE_ID = "Templates with an id below 256", True
    CUT_TEMPLATE = "Templates that run past their Set", True
    NO_OCTETS = "Templates of records without octets", True
    NO_FIELDS = "NetFlow v9 Templates without fields", True
    CUT_RECORD = "records that run past their Set", True
    SHORT_SET = "Sets that are shorter than a record of theirs", True

    def __init__(self, text: str, is_loss: bool) -> None:
        self.text = text
        self.is_loss = is_loss


#: Is called with a kind and the details of one case.
Note = Callable[[Oddity, str], None]


class Oddities:
    """Counts the oddities of one message by kind, with the details of the first of each."""

    def __init__(self) -> None:
        self.counts: Counter[Oddity] = Counter()
        self.first: dict[Oddity, str] = {}

    def note(self, kind: Oddity, detail: str) -> None:
        self.counts[kind] += 1
        self.first.setdefault(kind, detail)

    @property
    def losses(self) -> list[str]:
        """Describes what could not be read of the message, one line for each kind."""
        return [f"{kind.text}: {self.first[kind]}" for kind in self.counts if kind.is_loss]
