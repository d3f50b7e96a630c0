"""Keys whose model could not be loaded, and how long that is believed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from copy import copy
from typing import Final, Generic, TypeVar

from serving.errors import NotReady, Overloaded, ServingError, TargetMissing, Unavailable

K = TypeVar("K", bound=Hashable)

_PASSING: Final = (TargetMissing, Unavailable, NotReady, Overloaded)
"""Faults that another try may well not have: a model that was not there may have been put there."""


class Fault:
    """What is known of one key; `times` it failed in a row, `refused` requests."""

    __slots__ = ("error", "refused", "times", "until")

    def __init__(self, error: ServingError, until: float, times: int) -> None:
        self.error = error
        self.until = until
        self.times = times
        self.refused = 0


class Faults(Generic[K]):
    """At most `limit` of them; the one that failed longest ago goes first, and its key is simply tried again.

    A fault that is told without a time is believed for `missing_s` where it may pass by itself, else for `broken_s`, twice
    as long each time, up to `broken_most_s`. One that has expired is kept for as long, to count from.
    """

    def __init__(self, limit: int, missing_s: float, broken_s: float, broken_most_s: float) -> None:
        self._limit = limit
        self._missing_s = missing_s
        self._broken_s = broken_s
        self._broken_most_s = broken_most_s
        self._faults: OrderedDict[K, Fault] = OrderedDict()

    def __len__(self) -> int:
        return len(self._faults)

    def __iter__(self) -> Iterator[tuple[K, Fault]]:
        return iter(self._faults.items())

    def add(self, key: K, error: ServingError, believe_s: float | None, now: float) -> float:
        """Remembers it, and returns until when it is believed."""
        before = self._faults.pop(key, None)
        times = 1
        if before is not None and now < before.until + self._broken_most_s:
            times = before.times + 1
        if believe_s is None:
            believe_s = self._missing_s
            if not isinstance(error, _PASSING):
                believe_s = min(self._broken_s * 2.0 ** min(times - 1, 30), self._broken_most_s)
        # A copy holds no traceback, and with it none of the frames that the error came through.
        self._faults[key] = Fault(copy(error), now + believe_s, times)
        while len(self._faults) > self._limit or self._spent(now):
            self._faults.popitem(last=False)
        return now + believe_s

    def believed(self, key: K, now: float) -> ServingError | None:
        """The error to refuse a request with, which is the caller's to raise; None where the key is to be tried."""
        fault = self._faults.get(key)
        if fault is None or now >= fault.until:
            return None
        fault.refused += 1
        return copy(fault.error)

    def get(self, key: K) -> Fault | None:
        """What is known of a key, believed or not."""
        return self._faults.get(key)

    def doubt(self, key: K, now: float) -> None:
        """The next request for the key tries again; that it failed before still counts."""
        fault = self._faults.get(key)
        if fault is not None:
            fault.until = min(fault.until, now)

    def forget(self, key: K) -> bool:
        """Whether anything was known of the key."""
        return self._faults.pop(key, None) is not None

    def forget_where(self, predicate: Callable[[K, ServingError], bool]) -> None:
        """Forgets what the predicate holds for."""
        for key in [key for key, fault in self._faults.items() if predicate(key, fault.error)]:
            del self._faults[key]

    def _spent(self, now: float) -> bool:
        """Whether the oldest is of no use any more."""
        oldest = next(iter(self._faults.values()), None)
        return oldest is not None and oldest.until + self._broken_most_s < now
