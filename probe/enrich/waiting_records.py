"""Holds records until the container at one of their ends has a name.

A record that has left cannot get a name any more. So a record waits while the runtime is likely to
name its container soon.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from probe.enrich.container_owners import ContainerOwners
from probe.enrich.enrichers import Enricher
from probe.flow.columns import RECORD_DTYPE
from probe.flow.rows import Rows

_SIDES = ("source_owner", "destination_owner")
_MOST_WAITING = 16384  # records


class WaitingRecords(Enricher):
    """Holds records back, at most ``most`` of them; the oldest leave first."""

    def __init__(self, owners: ContainerOwners, most: int = _MOST_WAITING) -> None:
        self._owners, self._most = owners, most
        self._records: Rows = np.zeros(0, RECORD_DTYPE)
        self._is_open = True

    def __len__(self) -> int:
        return len(self._records)

    def apply(self, records: Rows) -> Rows:
        """Returns those of ``records``, and of the ones held back, that need not wait any more."""
        nameless = self._owners.nameless(time.monotonic())
        return self.hold(records, nameless if self._is_open else nameless[:0])

    def stop(self) -> None:
        """Makes ``apply`` return all records from now on: the probe ends."""
        self._is_open = False

    def hold(self, records: Rows, nameless: NDArray[np.int64]) -> Rows:
        """Returns the records that need not wait for the owners ``nameless``.

        Both directions of a flow wait if one of them has to.
        """
        if not len(nameless) and not len(self._records):
            return records
        both = np.concatenate([self._records, records])
        waiting = np.flatnonzero(_waiting(both, nameless))
        if len(waiting) > self._most:
            waiting = waiting[-self._most :]
        self._records = both.take(waiting)
        return both.take(np.setdiff1d(np.arange(len(both)), waiting, assume_unique=True))

    def owners_in_use(self) -> set[int]:
        """Returns the owners of the records that are held back."""
        return {int(index) for side in _SIDES for index in np.unique(self._records[side])}


def _waiting(records: Rows, nameless: NDArray[np.int64]) -> NDArray[np.bool_]:
    must = np.isin(records["source_owner"], nameless)
    must |= np.isin(records["destination_owner"], nameless)
    found: NDArray[np.bool_] = np.isin(records["flow_id"], records["flow_id"][must])
    return found
