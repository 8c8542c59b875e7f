"""Counts durations in the buckets of a histogram."""

from __future__ import annotations

from bisect import bisect_left

from probe.figures import DurationFigures

#: The upper bounds of the buckets, in seconds.
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Durations:
    """A histogram. ``counts`` has one number per bound of BOUNDS_S, and one for all above."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds

    def copy(self) -> DurationFigures:
        """Returns the counts of this moment, as values that do not change."""
        return DurationFigures(tuple(self.counts), self.sum_s)
