"""Those who wait for models, and until when."""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from serving.errors import Overloaded

K = TypeVar("K", bound=Hashable)
W = TypeVar("W", bound=Hashable)


class Waiting(Generic[K, W]):
    """One who waits for a key, until `deadline`; `gone` once answered or left."""

    __slots__ = ("deadline", "gone", "key", "since", "waiter")

    def __init__(self, key: K, waiter: W, deadline: float, since: float) -> None:
        self.key = key
        self.waiter = waiter
        self.deadline = deadline
        self.since = since
        self.gone = False


class Waiters(Generic[K, W]):
    """At most `limit` of them, in the order of their deadlines; the gone stay in it until reached, or until most are gone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._number = 0
        self._heap: list[tuple[float, int, Waiting[K, W]]] = []

    def __len__(self) -> int:
        return self._count

    def add(self, key: K, waiter: W, deadline: float, now: float) -> Waiting[K, W]:
        """Enters one. Raises `Overloaded` where there are too many."""
        if self._count >= self._limit:
            raise Overloaded(
                f"{self._count} requests wait for models to be loaded already; try again", retry_after_s=1.0
            )
        waiting = Waiting(key, waiter, deadline, now)
        self._number += 1
        heappush(self._heap, (deadline, self._number, waiting))
        self._count += 1
        if len(self._heap) > 2 * self._count + 64:
            self._heap = [entry for entry in self._heap if not entry[2].gone]
            heapify(self._heap)
        return waiting

    def end(self, waiting: Waiting[K, W]) -> None:
        """It waits no longer."""
        waiting.gone = True
        self._count -= 1

    def expired(self, now: float) -> Waiting[K, W] | None:
        """The next whose deadline has passed; it is for the caller to end it."""
        deadline = self.next_deadline
        return self._heap[0][2] if deadline is not None and deadline <= now else None

    @property
    def next_deadline(self) -> float | None:
        """When the next one's deadline passes."""
        heap = self._heap
        while heap and heap[0][2].gone:
            heappop(heap)
        return heap[0][0] if heap else None
