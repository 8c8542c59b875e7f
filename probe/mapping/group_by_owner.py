"""Groups of records with the same owners: most of what a busy host sends is of few programs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]

#: Fewer records of one group are not worth a message of their own that is not full.
_LEAST = 256
#: Groups that are looked for. Each costs a comparison for every record.
_MOST_GROUPS = 8
#: Tries that may find a group that is too small.
_MOST_MISSES = 2


def group_by_owner(keys: NDArray[np.int64]) -> tuple[list[Places], Places]:
    """Returns the places of each of the frequent values of ``keys``, and those of all others."""
    found: list[Places] = []
    others: Places = np.arange(len(keys))
    misses = 0
    while len(others) >= _LEAST and len(found) < _MOST_GROUPS and misses < _MOST_MISSES:
        left = keys[others]
        same = left == left[misses * len(left) // _MOST_MISSES]
        if np.count_nonzero(same) < _LEAST:
            misses += 1
            continue
        found.append(others[same])
        others = others[~same]
    return found, others
