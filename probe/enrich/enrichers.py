"""Defines the steps that add to records what metering does not know, and runs them in order."""

from __future__ import annotations

from abc import ABC, abstractmethod

from probe.flow.rows import Rows
from probe.guard import Part, close_quietly


class Enricher(ABC):
    """One step. Only steps that keep state between two calls need more than ``apply``."""

    @abstractmethod
    def apply(self, records: Rows) -> Rows:
        """Fills in columns of ``records`` (RECORD_DTYPE). Returns the records that leave now."""

    def owners_in_use(self) -> set[int]:
        """Returns the owners of records that the step holds back."""
        return set()

    def sweep(self, in_use: set[int], now_s: float) -> list[int]:
        """Releases owners that the step made, unless they are ``in_use``. Returns their indices."""
        return []

    def close(self) -> None:
        """Frees what the step has opened."""
        return


class Enrichers:
    """Runs each step as a part: a step that raises is skipped from then on."""

    def __init__(self, steps: tuple[tuple[Part, Enricher], ...] = ()) -> None:
        self._steps = steps

    def apply(self, records: Rows) -> Rows:
        """Returns the records that leave now, completed by all steps."""
        for part, step in self._steps:
            found = part.call(step.apply, records)
            records = records if found is None else found
        return records

    def owners_in_use(self) -> set[int]:
        """Returns the owners of all records that any step holds back."""
        return set().union(*(step.owners_in_use() for _, step in self._steps))

    def sweep(self, in_use: set[int], now_s: float) -> list[int]:
        """Returns the indices of the owners that the steps have released."""
        found = (part.call(step.sweep, in_use, now_s) for part, step in self._steps)
        return [index for released in found for index in released or ()]

    def close(self) -> None:
        """Closes all steps, whatever one of them raises."""
        for part, step in self._steps:
            close_quietly(part.name, step.close)
