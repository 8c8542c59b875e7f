"""Records that share their owners: most of what a busy host sends is of few programs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]

#: Fewer of a kind are not worth a message of their own that is not full.
_LEAST = 256
#: Kinds looked for, each at the cost of a comparison for every record, and tries in vain.
_MOST_KINDS = 8
_MOST_MISSES = 2


def split_alike(kinds: NDArray[np.int64]) -> tuple[list[Places], Places]:
    """Where each of the frequent values of ``kinds`` is, and where all others are."""
    found: list[Places] = []
    others: Places = np.arange(len(kinds))
    misses = 0
    while len(others) >= _LEAST and len(found) < _MOST_KINDS and misses < _MOST_MISSES:
        left = kinds[others]
        same = left == left[misses * len(left) // _MOST_MISSES]
        if np.count_nonzero(same) < _LEAST:
            misses += 1
            continue
        found.append(others[same])
        others = others[~same]
    return found, others
