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

    def asked(self, key: K, bytes_: int, room: int, most: int) -> bool:
        """Whether it was held; now it is, and what was asked for longest ago goes, down to `room` bytes and `most` keys."""
        before = self._sizes.get(key)
        if before is not None:
            self._sizes.move_to_end(key)
            if before == bytes_:
                return True
        self._sizes[key] = bytes_
        self._bytes += bytes_ - (before or 0)
        while (self._bytes > room and len(self._sizes) > 1) or len(self._sizes) > most:
            _, freed = self._sizes.popitem(last=False)
            self._bytes -= freed
        return before is not None

    def forget(self, key: K) -> None:
        """Lets it go, if it is held."""
        self._bytes -= self._sizes.pop(key, 0)
