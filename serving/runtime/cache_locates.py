"""The fetches that wait to be located, and how many are being located."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from serving.runtime.cache_entry import Fetch, Stage

K = TypeVar("K", bound=Hashable)
L = TypeVar("L")

MOST_REFRESHES: Final = 8


class Locates(Generic[K, L]):
    """At most `limit` at once, in order of arrival; a quarter of them, and 8 at most, are refreshes as long as there are any.

    Refreshes have a queue of their own: nobody waits for them, and a burst of them must not delay those for whom somebody
    does; nor must these have a model never looked at again.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._refreshes = min(limit // 4, MOST_REFRESHES)
        self._wanted: OrderedDict[K, Fetch[K, L]] = OrderedDict()
        self._to_refresh: OrderedDict[K, Fetch[K, L]] = OrderedDict()
        self._running = 0
        self._refreshing = 0

    def add(self, fetch: Fetch[K, L]) -> None:
        """Enters one."""
        self._queue(fetch)[fetch.key] = fetch

    def remove(self, fetch: Fetch[K, L]) -> None:
        """Takes out one that was not begun."""
        del self._queue(fetch)[fetch.key]

    def next(self, now: float) -> Fetch[K, L] | None:
        """The one that begins now."""
        refresh = bool(self._to_refresh) and (self._refreshing < self._refreshes or not self._wanted)
        queue = self._to_refresh if refresh else self._wanted
        if not queue or self._running >= self._limit:
            return None
        _, fetch = queue.popitem(last=False)
        self._running += 1
        self._refreshing += fetch.refresh
        fetch.stage = Stage.LOCATING
        fetch.began = now
        return fetch

    def ended(self, fetch: Fetch[K, L], now: float) -> None:
        """It is located, or was not to be."""
        self._running -= 1
        self._refreshing -= fetch.refresh
        fetch.located_at = now
        fetch.locating_s = now - fetch.began

    def _queue(self, fetch: Fetch[K, L]) -> OrderedDict[K, Fetch[K, L]]:
        return self._to_refresh if fetch.refresh else self._wanted
