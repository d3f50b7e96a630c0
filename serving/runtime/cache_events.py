"""What happened in the model cache: a bounded log, and counters by cause."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable
from itertools import islice
from typing import Any, Final, Generic, NamedTuple, TypeVar

from serving.runtime.cache_budget import CacheBudget
from serving.runtime.cache_entry import Fetch, Resident

K = TypeVar("K", bound=Hashable)

PRESSING: Final = ("evicted", "over budget")
"""Causes of unloading that tell of too little memory."""


class Event(NamedTuple, Generic[K]):
    """One thing that happened to one key; numbers ascend by one, seconds are how long it took.

    `what`: loaded (`locating_s` before that, `waited_s` the first waiter's wait, `callers` served), unloaded, failed,
    refresh failed (what is loaded goes on), refused (`callers`, `seconds` the longest wait), discarded (a fetch).
    """

    number: int
    what: str
    key: K
    reason: str
    bytes: int
    seconds: float
    when: float
    locating_s: float = 0.0
    waited_s: float = 0.0
    callers: int = 0

    @property
    def text(self) -> str:
        """The event in words, without its key."""
        size = f"{self.bytes / 1e6:.3g} MB, " if self.bytes else ""
        if self.what == "loaded":
            return f"loaded: {self.reason} ({size}located in {self.locating_s:.3f} s, loaded in {self.seconds:.3f} s)"
        if self.what == "refused":
            return f"refused {self.callers} that waited up to {self.seconds:.3f} s: {self.reason}"
        return f"{self.what}: {self.reason} ({size}{self.seconds:.3f} s)"


class Stats:
    """Counters since the start. `misses`: requests that had to wait; those that found their model never came here.

    `refused` and `unloaded` are by cause, in few and fixed words; seconds are sums. `evicted_bytes` went for want of memory.
    """

    __slots__ = (
        "evicted_bytes",
        "failed",
        "loaded",
        "loaded_bytes",
        "loading_s",
        "locating_s",
        "misses",
        "refused",
        "unchanged",
        "unloaded",
        "unloading_s",
    )

    def __init__(self) -> None:
        self.misses = 0
        self.loaded = 0
        self.loaded_bytes = 0
        self.loading_s = 0.0
        self.locating_s = 0.0
        self.failed = 0
        self.unchanged = 0
        self.refused: Counter[str] = Counter()
        self.unloaded: Counter[str] = Counter()
        self.unloading_s = 0.0
        self.evicted_bytes = 0


class Journal(Generic[K]):
    """Counts what happens, and keeps the last `limit` events. Bytes are what estimates stand for at the time."""

    def __init__(self, budget: CacheBudget, limit: int) -> None:
        self.stats = Stats()
        self._budget = budget
        self._events: deque[Event[K]] = deque(maxlen=limit)
        self._number = 0

    def since(self, number: int) -> list[Event[K]]:
        """The events that came after that one and are still there, in order."""
        new = self._number - number
        if new <= 0:
            return []
        return list(islice(self._events, max(len(self._events) - new, 0), None))

    def loaded(
        self, fetch: Fetch[K, Any], resident: Resident[K, Any], seconds: float, waited_s: float, served: int
    ) -> None:
        """A model was loaded, in so many seconds, for so many."""
        size = self._budget.scaled(resident.bytes)
        self.stats.loaded += 1
        self.stats.loaded_bytes += size
        self.stats.loading_s += seconds
        times = (fetch.locating_s, waited_s)
        self._add("loaded", fetch.key, fetch.reason, size, seconds, resident.since, *times, served)

    def failed(self, fetch: Fetch[K, Any], reason: str, now: float, *, refresh: bool) -> None:
        """A fetch failed at its stage."""
        self.stats.failed += 1
        what = "refresh failed" if refresh else "failed"
        size = self._budget.scaled(fetch.bytes)
        self._add(what, fetch.key, reason, size, now - fetch.began, now, fetch.locating_s)

    def discarded(self, fetch: Fetch[K, Any], reason: str, now: float) -> None:
        """A fetch ends, or what comes of it is of no use."""
        self._add("discarded", fetch.key, reason, self._budget.scaled(fetch.bytes), now - fetch.since, now)

    def refused(self, key: K, cause: str, count: int, waited_s: float, now: float) -> None:
        """So many were refused, of whom one waited for so long."""
        self.stats.refused[cause] += count
        self._add("refused", key, cause, 0, waited_s, now, count=count)

    def departs(self, resident: Resident[K, Any]) -> None:
        """A model was taken out, and will be unloaded."""
        self.stats.unloaded[resident.cause] += 1
        if resident.cause in PRESSING:
            self.stats.evicted_bytes += self._budget.scaled(resident.bytes)

    def unloaded(self, resident: Resident[K, Any], now: float) -> None:
        """A model is gone."""
        seconds = now - resident.ends
        self.stats.unloading_s += seconds
        self._add("unloaded", resident.key, resident.reason, self._budget.scaled(resident.bytes), seconds, now)

    def _add(
        self,
        what: str,
        key: K,
        reason: str,
        bytes_: int,
        seconds: float,
        when: float,
        locating_s: float = 0.0,
        waited_s: float = 0.0,
        count: int = 0,
    ) -> None:
        self._number += 1
        self._events.append(Event(self._number, what, key, reason, bytes_, seconds, when, locating_s, waited_s, count))
