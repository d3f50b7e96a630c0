"""Copies of objects on disk under a budget: which there are, who reads them, and which go first. It touches no file."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import msgspec


class Copy(msgspec.Struct, eq=False, gc=False):
    """What was made of one object: its files lie in the folder `place` and take `bytes`; `revision` is the object's ETag.

    `content_bytes` are those of the files alone. `file`: the name of the only one, where the object is a file as it is.
    `holds`: how many read it now. `looked_at`: when the object store last
    said that it is up to date. `leaving`: it is not found any more. `measured`: its bytes were
    counted after it was read. `notes` are its readers', kept as long as it is here.
    """

    url: str
    revision: str
    place: str
    bytes: int
    content_bytes: int
    file: str = ""
    looked_at: float = float("-inf")
    holds: int = 0
    leaving: bool = False
    measured: bool = False
    notes: tuple[Any, ...] = ()


class DiskCache:
    """The copies by URL, least recently used first. Pure: whoever is told of copies that are `gone` removes their files.

    A copy that is held is never gone: where it is replaced or discarded it is no longer found, and goes with its last hold.
    `budget` in bytes holds for copies and what is set aside for those in the making.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self._held = 0
        self._copies: OrderedDict[str, Copy] = OrderedDict()
        self._set_aside: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._copies)

    def find(self, url: str) -> Copy | None:
        """The copy of an object."""
        return self._copies.get(url)

    def hold(self, copy: Copy) -> None:
        """Keeps a copy that is found until it is released; it is the one used last."""
        copy.holds += 1
        self._held += copy.holds == 1
        if not copy.leaving:
            self._copies.move_to_end(copy.url)

    def release(self, copy: Copy) -> list[Copy]:
        """Takes a hold back; gives the copy where it is gone."""
        copy.holds -= 1
        self._held -= not copy.holds
        if copy.leaving and not copy.holds:
            self.used -= copy.bytes
            return [copy]
        return []

    def set_aside(self, url: str, needed: int, free: int) -> list[Copy] | None:
        """Sets bytes aside for a copy in the making, in all; gives what is gone for it, or None where there is no room now.

        `free`: what the disk has left. Copies that are held or in the making leave no room; more than the budget never fits.
        """
        growth = needed - self._set_aside.get(url, 0)
        if growth <= 0:
            return []
        gone = self._oldest(max(self.used + growth - self.budget, growth - free))
        if gone is None:
            return None
        self._take(gone)
        self._set_aside[url] = needed
        self.used += growth
        return gone

    def is_busy(self, url: str) -> bool:
        """Whether others than this one in the making are held or in the making, so that there may be room soon."""
        return self._held > 0 or any(other != url for other in self._set_aside)

    def give_back(self, url: str) -> None:
        """Nothing comes of a copy in the making."""
        self.used -= self._set_aside.pop(url, 0)

    def add(self, copy: Copy) -> list[Copy]:
        """A copy is made, in place of what was set aside for it and of an older one; gives what is gone."""
        self.give_back(copy.url)
        gone = self.discard(copy.url)
        self._held += copy.holds > 0
        self._copies[copy.url] = copy
        self.used += copy.bytes
        return gone + self._shrink()

    def resize(self, copy: Copy, bytes_: int) -> list[Copy]:
        """A copy takes so many bytes by now; gives what is gone for it."""
        self.used += bytes_ - copy.bytes
        copy.bytes = bytes_
        return self._shrink()

    def discard(self, url: str) -> list[Copy]:
        """The copy of an object is not to be found any more; gives it where it is gone at once."""
        copy = self._copies.pop(url, None)
        if copy is None:
            return []
        copy.leaving = True
        if copy.holds:
            return []
        self.used -= copy.bytes
        return [copy]

    def _shrink(self) -> list[Copy]:
        """Back to the budget, as far as what is held allows; the one used last stays."""
        gone: list[Copy] = []
        over = self.used - self.budget
        for copy in list(self._copies.values())[:-1] if over > 0 else ():
            if over <= 0:
                break
            if not copy.holds:
                gone.append(copy)
                over -= copy.bytes
        self._take(gone)
        return gone

    def _oldest(self, needed: int) -> list[Copy] | None:
        """The copies that make so much room, least recently used first; None where all together do not."""
        gone: list[Copy] = []
        if needed > 0:
            for copy in self._copies.values():
                if not copy.holds:
                    gone.append(copy)
                    needed -= copy.bytes
                    if needed <= 0:
                        break
        return None if needed > 0 else gone

    def _take(self, gone: list[Copy]) -> None:
        for copy in gone:
            del self._copies[copy.url]
            copy.leaving = True
            self.used -= copy.bytes
