"""What a least recently used cache would hold in the same memory: keys alone, to be compared with."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Shadow(Generic[K]):
    """The keys that were asked for last, as many as fit."""

    def __init__(self) -> None:
        self._sizes: OrderedDict[K, int] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._sizes)

    def asked(self, key: K) -> bool:
        """Whether it is held; if so, it is the last that was asked for."""
        try:
            self._sizes.move_to_end(key)
        except KeyError:
            return False
        return True

    def hold(self, key: K, bytes_: int, room: int, most: int) -> None:
        """Takes it in, and lets go what was asked for longest ago, down to `room` bytes and `most` keys."""
        self._bytes += bytes_ - self._sizes.get(key, 0)
        self._sizes[key] = bytes_
        while (self._bytes > room and len(self._sizes) > 1) or len(self._sizes) > most:
            _, freed = self._sizes.popitem(last=False)
            self._bytes -= freed

    def forget(self, key: K) -> None:
        """Lets it go, if it is held."""
        self._bytes -= self._sizes.pop(key, 0)
