"""Encodes the owner at one side of a flow as TLV items, once per owner."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.flow.key_index import distinct
from probe.flow.owner import Owner, OwnerTable
from probe.ipfix.text import cut_text
from probe.ipfix.text import encode_text as to_octets
from probe.mapping.tables import Privacy
from probe.ntopng.tlv_items import encode_text, encode_u32

#: Octets of one string at most, so that those of an owner stay far below the limit of a payload.
_LONGEST_TEXT = 1024

#: (name after ``SRC_`` or ``DST_``, switch of Privacy or '', function that returns the value).
#: The item is left out if the value is None or ''.
_Read = Callable[[Owner], int | str | None]
OWNER_ITEMS: tuple[tuple[str, str, _Read], ...] = (
    ("PROC_PID", "", lambda owner: owner.process.pid or None),
    ("PROC_NAME", "names", lambda owner: owner.process.name),
    ("PROC_UID", "users", lambda owner: owner.process.uid),
    ("PROC_USER_NAME", "users", lambda owner: owner.process.user_name),
    ("PROC_CMDLINE", "command_lines", lambda owner: owner.process.command_line),
    ("PROC_CONTAINER_ID", "", lambda owner: owner.container.id),
    ("FATHER_PROC_PID", "", lambda owner: owner.parent.pid or None),
    ("FATHER_PROC_NAME", "names", lambda owner: owner.parent.name),
    ("FATHER_PROC_UID", "users", lambda owner: owner.parent.uid),
    ("FATHER_PROC_USER_NAME", "users", lambda owner: owner.parent.user_name),
    # These are not ntop's. ntopng keeps them as extra fields of the flow.
    ("CONTAINER_NAME", "", lambda owner: owner.container.name),
    ("CONTAINER_UNCONFIRMED", "", lambda owner: 1 if owner.container.is_unconfirmed else None),
    ("POD_NAME", "", lambda owner: owner.pod.name),
    ("POD_NAMESPACE", "", lambda owner: owner.pod.namespace),
)


class OwnerItems:
    """Keeps ``texts`` and their ``lengths`` (octets) by index of ``owners``.

    Each text ends with the octets ``end``.
    """

    def __init__(self, owners: OwnerTable, side: str, privacy: Privacy, end: bytes = b"") -> None:
        self._owners = owners
        self._end = end
        self._items = [
            (f"{side}_{name}", read)
            for name, switch, read in OWNER_ITEMS
            if not switch or getattr(privacy, switch)
        ]
        self._seen = np.zeros(0, bool)
        self.texts = np.full(0, b"", object)
        self.lengths = np.zeros(0, np.int64)

    def prepare(self, indices: NDArray[Any]) -> None:
        """Encodes the owners in ``indices`` that are not encoded yet."""
        if len(indices) and int(indices.max()) >= len(self._seen):
            self._grow(max(256, 2 * int(indices.max())))
        missing = indices[~self._seen[indices]]
        if len(missing):
            for index in distinct(missing).tolist():
                self.texts[index] = text = self._encode(self._owners[index])
                self.lengths[index] = len(text)
                self._seen[index] = True

    def forget(self, indices: Iterable[int]) -> None:
        for index in indices:
            if index < len(self._seen):
                self._seen[index] = False
                self.texts[index] = b""

    def _grow(self, size: int) -> None:
        more = size - len(self._seen)
        self._seen = np.append(self._seen, np.zeros(more, bool))
        self.texts = np.append(self.texts, np.full(more, b"", object))
        self.lengths = np.append(self.lengths, np.zeros(more, np.int64))

    def _encode(self, owner: Owner) -> bytes:
        found = ((key, read(owner)) for key, read in self._items)
        items = [_item(key, value) for key, value in found if value is not None and value != ""]
        return b"".join(items) + self._end


def _item(key: str, value: int | str) -> bytes:
    if isinstance(value, str):
        return encode_text(key, cut_text(to_octets(value), _LONGEST_TEXT))
    return encode_u32(key, min(value, 0xFFFFFFFF))
