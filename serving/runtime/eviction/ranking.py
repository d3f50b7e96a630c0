"""Keys in the order of a value that mostly grows: raising one costs nothing until it would come first."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heappush, heapreplace
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

SLACK: Final = 64
"""Void records that the heap may hold beside as many as are in force."""


MANY: Final = 32
"""Records, and a sixteenth of all, that are filed anew before all are."""


class Ranked(Generic[K]):
    """A key, and its value, which may be raised in place at any time; of a lower one the ranking is told by `file`.

    `filed` is the number of its record in force, 0 where it has none.
    """

    __slots__ = ("filed", "key", "value")

    def __init__(self, key: K) -> None:
        self.key = key
        self.value = 0.0
        self.filed = 0


class Ranking(Generic[K]):
    """A binary heap of records: the value when it was filed, a number, and what it is of.

    No record says more than the real value, so the first one that says the real value is the least of all. One
    whose value was raised is filed anew only when it comes first, which leaves a raise O(1) and asking O(log n) amortised.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Ranked[K]]] = []
        self._walked: list[tuple[float, int, Ranked[K]]] = []
        self._number = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def file(self, ranked: Ranked[K]) -> None:
        """Puts it in; once it is in, makes a lower value count."""
        self._length += not ranked.filed
        heappush(self._heap, self._record(ranked))
        self._sweep()

    def remove(self, ranked: Ranked[K]) -> None:
        """Takes it out, if it is in."""
        if ranked.filed:
            ranked.filed = 0
            self._length -= 1
            self._sweep()

    def ascending(self) -> Iterator[Ranked[K]]:
        """All that are in by their value, least first, equal ones as they were filed; ends the walk before this one."""
        self._put_back()
        raised = 0
        while self._heap:
            value, number, ranked = self._heap[0]
            if ranked.filed != number:
                heappop(self._heap)
            elif ranked.value > value:
                raised += 1
                if raised > MANY and raised > len(self._heap) >> 4:
                    self._renew()
                    raised = 0
                else:
                    heapreplace(self._heap, self._record(ranked))
            else:
                self._walked.append(heappop(self._heap))
                yield ranked

    def _record(self, ranked: Ranked[K]) -> tuple[float, int, Ranked[K]]:
        self._number += 1
        ranked.filed = self._number
        return ranked.value, self._number, ranked

    def _put_back(self) -> None:
        for record in self._walked:
            if record[2].filed == record[1]:
                heappush(self._heap, record)
        self._walked.clear()

    def _sweep(self) -> None:
        """Drops void records once they are more than half of all, so that a removal costs O(1) amortised."""
        if len(self._heap) + len(self._walked) > 2 * self._length + SLACK:
            self._put_back()
            self._renew()

    def _renew(self) -> None:
        """Makes all records those of the real values: quicker than one by one where many were raised."""
        self._heap = [(ranked.value, number, ranked) for _, number, ranked in self._heap if ranked.filed == number]
        heapify(self._heap)
