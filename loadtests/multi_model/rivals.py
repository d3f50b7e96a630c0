"""Eviction policies from the literature that the server does not have: what its own are compared with."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from serving.runtime.eviction.ranking import Ranked, Ranking

SKETCH_BITS: Final = 14
SEEDS: Final = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)


class _Counted(Ranked[int]):
    """A model with the number of its uses since it came in; `weight` is what one of them counts for."""

    __slots__ = ("uses", "weight")

    def __init__(self, key: int, weight: float) -> None:
        super().__init__(key)
        self.uses = 0
        self.weight = weight


class Gdsf1998:
    """GDSF as published (Cherkasova 1998): uses x seconds / bytes, above the value of the last victim when last used."""

    def __init__(self) -> None:
        self._models: dict[int, _Counted] = {}
        self._ranking: Ranking[int] = Ranking()
        self._inflation = 0.0

    def added(self, key: int, bytes_: int, seconds: float, now: float) -> None:
        """Its first use is told by `used`, which ranks it."""
        self._models[key] = _Counted(key, self._weight(bytes_, seconds))

    def used(self, key: int, times: int, now: float) -> None:
        """Counts, and takes the inflation of now."""
        model = self._models[key]
        model.uses += times
        model.value = self._inflation + model.uses * model.weight
        if not model.filed:
            self._ranking.file(model)

    def resized(self, key: int, bytes_: int) -> None:
        """The sizes of a trace do not change."""

    def removed(self, key: int, *, evicted: bool) -> None:
        """An eviction lifts the inflation to the value of what went."""
        model = self._models.pop(key)
        self._ranking.remove(model)
        if evicted:
            self._inflation = max(self._inflation, model.value)

    def victims(self) -> Iterator[int]:
        """By value."""
        return (ranked.key for ranked in self._ranking.ascending())

    def _weight(self, bytes_: int, seconds: float) -> float:
        return seconds / bytes_


class LfuDa(Gdsf1998):
    """LFU with dynamic aging (Arlitt et al., Evaluating Content Management Techniques for Web Proxy Caches, 1999)."""

    def _weight(self, bytes_: int, seconds: float) -> float:
        return 1.0


class Sketch:
    """A count-min sketch of four rows, aged by halving (Einziger et al. 2017): how often a key was asked for lately."""

    def __init__(self) -> None:
        self._rows = [bytearray(1 << SKETCH_BITS) for _ in SEEDS]
        self._added = 0

    def count(self, key: int) -> int:
        """How often, or more."""
        return min(row[place] for row, place in self._places(key))

    def add(self, key: int, sample: int) -> None:
        """One more time; everything is halved once in `sample` additions."""
        for row, place in self._places(key):
            row[place] = min(row[place] + 1, 255)
        self._added += 1
        if self._added >= sample:
            self._added //= 2
            self._rows = [bytearray(value >> 1 for value in row) for row in self._rows]

    def _places(self, key: int) -> Iterator[tuple[bytearray, int]]:
        whole = (1 << 64) - 1
        return (
            (row, ((key + 1) * seed & whole) >> (64 - SKETCH_BITS)) for row, seed in zip(self._rows, SEEDS, strict=True)
        )


class TinyLfu:
    """W-TinyLFU (Einziger et al. 2017): a window of 1 %, then a segmented main part that a sketch of frequencies guards.

    A newcomer cannot be refused, so the comparison happens as it leaves the window: of it and the main part's oldest, the one
    that was asked for less often goes first.
    """

    window_share = 0.01
    protected_share = 0.8

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._window: OrderedDict[int, None] = OrderedDict()
        self._probation: OrderedDict[int, None] = OrderedDict()
        self._protected: OrderedDict[int, None] = OrderedDict()
        self._leaving: OrderedDict[int, None] = OrderedDict()
        self._bytes = self._window_bytes = self._protected_bytes = 0
        self._sketch = Sketch()

    def added(self, key: int, bytes_: int, seconds: float, now: float) -> None:
        """It enters the window."""
        self._sizes[key] = bytes_
        self._window[key] = None
        self._window_bytes += bytes_
        self._bytes += bytes_

    def used(self, key: int, times: int, now: float) -> None:
        """A use in probation protects it; what is too much protected goes back."""
        self._sketch.add(key, 10 * len(self._sizes))
        if key in self._window:
            self._window.move_to_end(key)
        elif key in self._protected:
            self._protected.move_to_end(key)
        else:
            self._probation.pop(key, None)
            self._leaving.pop(key, None)
            self._protected[key] = None
            self._protected_bytes += self._sizes[key]
            while self._protected_bytes > self.protected_share * self._bytes:
                oldest, _ = self._protected.popitem(last=False)
                self._protected_bytes -= self._sizes[oldest]
                self._probation[oldest] = None

    def resized(self, key: int, bytes_: int) -> None:
        """The sizes of a trace do not change."""

    def removed(self, key: int, *, evicted: bool) -> None:
        """Its frequency stays in the sketch."""
        size = self._sizes.pop(key)
        self._bytes -= size
        if key in self._window:
            del self._window[key]
            self._window_bytes -= size
        elif key in self._protected:
            del self._protected[key]
            self._protected_bytes -= size
        else:
            self._probation.pop(key, None)
            self._leaving.pop(key, None)

    def victims(self) -> Iterator[int]:
        """Newcomers out of the window and the oldest on probation, the less frequent first; then the rest."""
        self._probation.update(self._leaving)
        self._leaving.clear()
        while self._window_bytes > self.window_share * self._bytes:
            key, _ = self._window.popitem(last=False)
            self._window_bytes -= self._sizes[key]
            self._leaving[key] = None
        leaving, main = iter(self._leaving), iter(self._probation)
        new, old = next(leaving, None), next(main, None)
        while new is not None or old is not None:
            if old is None or (new is not None and self._sketch.count(new) <= self._sketch.count(old)):
                assert new is not None
                yield new
                new = next(leaving, None)
            else:
                yield old
                old = next(main, None)
        yield from self._protected
        yield from self._window


class S3Fifo:
    """S3-FIFO (Yang et al., FIFO queues are all you need for cache eviction, SOSP 2023), its queues in bytes.

    A small queue of a tenth, a main queue that lets what was used go round again, and a ghost queue of as many keys as are in.
    """

    small_share = 0.1

    def __init__(self) -> None:
        self._uses: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        self._small: OrderedDict[int, None] = OrderedDict()
        self._main: OrderedDict[int, None] = OrderedDict()
        self._ghosts: OrderedDict[int, None] = OrderedDict()
        self._bytes = self._small_bytes = 0

    def added(self, key: int, bytes_: int, seconds: float, now: float) -> None:
        """What went a short time ago enters the main queue, anything else the small one."""
        self._uses[key] = -1  # the first use, which is told by `used`, does not count
        self._sizes[key] = bytes_
        self._bytes += bytes_
        if key in self._ghosts:
            del self._ghosts[key]
            self._main[key] = None
        else:
            self._small[key] = None
            self._small_bytes += bytes_

    def used(self, key: int, times: int, now: float) -> None:
        """Three uses are as good as more."""
        self._uses[key] = min(3, self._uses[key] + times)

    def resized(self, key: int, bytes_: int) -> None:
        """The sizes of a trace do not change."""

    def removed(self, key: int, *, evicted: bool) -> None:
        """Out of the small queue, it leaves a ghost."""
        size = self._sizes.pop(key)
        del self._uses[key]
        self._bytes -= size
        if key in self._main:
            del self._main[key]
            return
        del self._small[key]
        self._small_bytes -= size
        self._ghosts[key] = None
        while len(self._ghosts) > len(self._sizes):
            self._ghosts.popitem(last=False)

    def victims(self) -> Iterator[int]:
        """The small queue's first while it has more than its share, then the main queue's, then what is left."""
        passed = set[int]()
        for key in list(self._small):
            if self._small_bytes <= self.small_share * self._bytes:
                break
            if self._uses[key] > 1:
                del self._small[key]
                self._small_bytes -= self._sizes[key]
                self._main[key] = None
                self._uses[key] = 0
            else:
                passed.add(key)
                yield key
        yield from self._round()
        for key in list(self._small):
            if key not in passed:
                yield key

    def _round(self) -> Iterator[int]:
        """The main queue: what was used goes to its end with one use less, anything else is a victim."""
        passed = set[int]()
        while len(passed) < len(self._main):
            key = next(iter(self._main)) if not passed else next(key for key in self._main if key not in passed)
            if self._uses[key]:
                self._uses[key] -= 1
                self._main.move_to_end(key)
            else:
                passed.add(key)
                yield key
