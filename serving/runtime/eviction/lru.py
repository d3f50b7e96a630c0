"""Least recently used first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Lru(Generic[K]):
    """The model goes that was used longest ago, whatever it takes and whatever loading it costs."""

    def __init__(self) -> None:
        self._keys: OrderedDict[K, None] = OrderedDict()

    def added(self, key: K, bytes_: int, seconds: float, now: float) -> None:
        """It was loaded, which counts as a use."""
        self._keys[key] = None
        self._keys.move_to_end(key)

    def used(self, key: K, times: int, now: float) -> None:
        """It answered requests; a key that is not in is passed over."""
        if key in self._keys:
            self._keys.move_to_end(key)

    def resized(self, key: K, bytes_: int) -> None:
        """Bytes play no part here."""

    def removed(self, key: K, *, evicted: bool) -> None:
        """It is no longer in."""
        self._keys.pop(key, None)

    def victims(self) -> Iterator[K]:
        """Every key that is in, the one that was used longest ago first."""
        return iter(self._keys)
