"""GDSF with a window and a memory: the model goes that saves the least time of loading for each byte it takes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from math import inf, log2
from typing import Final, Generic, TypeVar

from serving.runtime.eviction.ranking import Ranked, Ranking
from serving.runtime.eviction.shadow import Shadow

K = TypeVar("K", bound=Hashable)

HALF_LIFE: Final = 12.0
"""In uses for each model that is in: after so many, a use counts half. This is the longest."""

SHORTEST_LIFE: Final = 1.0
"""The shortest; so short, the order is that of the least recently used in all but cost and size."""

STEP: Final = 15.0
"""The log2 of how far the half-life moves once as many loads as models are in speak for one side."""

MOST_WEIGHT: Final = 4.0
"""No comparison counts for more than so many of a model whose loading takes the usual time."""

WINDOW: Final = 0.08
"""The share of the bytes that belongs to the latest newcomers, whatever they are worth."""

HANDICAP: Final = 0.5
"""By how much, as log2, a newcomer has to be worth more than what it displaces."""

USUAL: Final = 100
"""Loads, the latest, whose mean tells what is usual."""

REMEMBERED: Final = 2
"""Models that went whose use is remembered, for each that is in; `REMEMBERED_LEAST` at least."""

REMEMBERED_LEAST: Final = 1_000

LEAST_SECONDS: Final = 1e-4
"""No load counts for less: differences below are the clock's."""


class _Model(Ranked[K]):
    """`uses`: log2 of its decayed count; `cost`: log2 of its seconds; `size`: log2 of its `bytes`; `fresh`: the load was its only use."""

    __slots__ = ("bytes", "cost", "fresh", "size", "uses")

    def __init__(self, key: K, uses: float, cost: float) -> None:
        super().__init__(key)
        self.uses = uses
        self.cost = cost
        self.bytes = 0
        self.size = 0.0
        self.fresh = True

    def appraise(self, handicap: float = 0.0) -> None:
        """Sets what it is ranked by."""
        self.value = self.uses + self.cost - self.size - handicap


class Gdsf(Generic[K]):
    """The least of frequency x seconds of loading / bytes goes first.

    That is the value of Greedy-Dual-Size-Frequency (Cherkasova, Improving WWW Proxies Performance with Greedy-Dual-Size-
    Frequency Caching Policy, HP Labs 1998). What differs:

    - Frequencies age by exponential decay (LRFU: Lee et al., IEEE Transactions on Computers 50(12), 2001) in the place of an
      inflating value. A use counts 2 ** clock and the clock only runs forward (Cormode et al., Forward Decay, ICDE 2009),
      so that values never fall and nothing is ever re-counted. All is kept as log2 and cannot overflow.
    - The half-life follows what is asked for. A shadow tells what the least recently used order would hold: a load that it
      would have saved shortens the half-life, one that it would have needed lengthens it (experts that learn from each
      other's faults: LeCaR, Vietri et al., HotStorage 2018, but without chance). Where popularity is stable, uses count for
      long; where everything changes all the time, the order comes close to the least recently used.
    - The frequency and cost of models that went are remembered, or every model that returns would start from nothing.
    - A newcomer is safe in a small window of the least recently used order, long enough to show whether it is in a burst
      (W-TinyLFU: Einziger, Friedman and Manes, TinyLFU, ACM Transactions on Storage 13(4), 2017).
    - Out of the window it must be worth more than the least of the others by a margin, or goes itself: a scan or a loop over
      more than there is room for moves through the window alone and leaves the rest in peace.
    """

    def __init__(self, half_life: float = HALF_LIFE, window: float = WINDOW, handicap: float = HANDICAP) -> None:
        self._half_life = self._longest = half_life
        self._shortest = min(SHORTEST_LIFE, half_life)
        self._share = window
        self._handicap = handicap
        self._clock = 0.0
        self._bytes = 0
        self._models: dict[K, _Model[K]] = {}
        self._window: OrderedDict[K, _Model[K]] = OrderedDict()
        self._window_bytes = 0
        self._ranking: Ranking[K] = Ranking()
        self._leaving: dict[K, _Model[K]] = {}
        self._evicted = False
        self._gone: OrderedDict[K, tuple[float, float]] = OrderedDict()
        self._shadow: Shadow[K] = Shadow()
        self._usual_cost = 0.0
        self._loads = 0

    def added(self, key: K, bytes_: int, seconds: float, now: float) -> None:
        """It was loaded, which counts as a use; a new load of what is in keeps its place."""
        cost = log2(max(LEAST_SECONDS, seconds))
        model = self._models.get(key)
        new = model is None
        if model is None:
            uses, before = self._gone.pop(key, (-inf, cost))
            model = self._models[key] = self._window[key] = _Model(key, uses, before)
        # One measurement is off by much where several loads share the processors.
        model.cost = (model.cost + cost) / 2
        if new:
            self._count(model, 1)
        self._resize(model, bytes_)
        self._loads += 1
        self._usual_cost += (model.cost - self._usual_cost) / min(self._loads, USUAL)
        if self._shadow.asked(key) and new:
            self._adapt(model, -STEP)
        self._shadow.hold(key, bytes_, self._bytes, self._most())
        self._settle()

    def used(self, key: K, times: int, now: float) -> None:
        """It answered requests; a key that is not in is passed over."""
        model = self._models.get(key)
        if model is None:
            return
        if model.fresh:
            model.fresh = False
            times -= 1
        if times:
            self._count(model, times)
            model.value = model.uses + model.cost - model.size
        if not model.filed:
            self._window.move_to_end(key)
        if not self._shadow.asked(key):
            self._shadow.hold(key, model.bytes, self._bytes, self._most())
            self._adapt(model, STEP)

    def resized(self, key: K, bytes_: int) -> None:
        """It takes other bytes than was thought; a key that is not in is passed over."""
        model = self._models.get(key)
        if model is not None:
            self._resize(model, bytes_)

    def removed(self, key: K, *, evicted: bool) -> None:
        """It is no longer in. Its use and cost are remembered if it was evicted, and forgotten if not."""
        model = self._models.pop(key, None)
        if not evicted:
            self._gone.pop(key, None)
            self._shadow.forget(key)
        if model is None:
            return
        self._bytes -= model.bytes
        if model.filed:
            self._ranking.remove(model)
            self._leaving.pop(key, None)
        else:
            del self._window[key]
            self._window_bytes -= model.bytes
        if evicted:
            self._evicted = True
            self._gone[key] = model.uses, model.cost
        while len(self._gone) > self._most():
            self._gone.popitem(last=False)

    def victims(self) -> Iterator[K]:
        """Every key that is in: the ranked ones by their value, then the window's, the one used longest ago first."""
        self._settle()
        for ranked in self._ranking.ascending():
            yield ranked.key
        yield from self._window

    def _settle(self) -> None:
        """Moves what the window has no room for into the ranking; what came so before, and outlived others, is one of them."""
        if self._evicted:
            self._evicted = False
            for model in self._leaving.values():
                model.appraise()
            self._leaving.clear()
        while self._window_bytes > self._share * self._bytes:
            key, model = self._window.popitem(last=False)
            self._window_bytes -= model.bytes
            model.appraise(self._handicap)
            self._ranking.file(model)
            self._leaving[key] = model

    def _most(self) -> int:
        return max(REMEMBERED_LEAST, REMEMBERED * len(self._models))

    def _adapt(self, model: _Model[K], step: float) -> None:
        """Lengthens the half-life where this order saved a load that the least recently used one had not, else shortens it."""
        weight = min(MOST_WEIGHT, 2.0 ** (model.cost - self._usual_cost))
        life = self._half_life * 2.0 ** (weight * step / (len(self._models) + STEP))
        self._half_life = min(self._longest, max(self._shortest, life))

    def _resize(self, model: _Model[K], bytes_: int) -> None:
        self._bytes += bytes_ - model.bytes
        if not model.filed:
            self._window_bytes += bytes_ - model.bytes
        model.bytes = bytes_
        model.size = log2(max(1, bytes_))
        if model.filed:
            model.appraise()
            self._ranking.file(model)

    def _count(self, model: _Model[K], times: int) -> None:
        """Adds 2 ** clock for each use to the model's count, by logarithms."""
        clock = self._clock = self._clock + times / (self._half_life * len(self._models))
        use = clock + log2(times) if times > 1 else clock
        if use > model.uses:
            model.uses = use + log2(1.0 + 2.0 ** (model.uses - use))
        else:
            model.uses += log2(1.0 + 2.0 ** (use - model.uses))
