"""What no policy can beat, because it would have to know the requests to come."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from loadtests.multi_model.simulation import Outcome, simulate
from loadtests.multi_model.traces import Trace
from serving.runtime.eviction.ranking import Ranked, Ranking


class Belady:
    """The model goes whose next request is farthest away (Belady, IBM Systems Journal 5(2), 1966): best where all are equal."""

    def __init__(self, trace: Trace) -> None:
        self._next = following(trace.keys).tolist()
        self._moment = 0
        self._models: dict[int, Ranked[int]] = {}
        self._ranking: Ranking[int] = Ranking()

    def added(self, key: int, bytes_: int, seconds: float, now: float) -> None:
        """When it is asked for next is known once `used` tells this request."""
        self._models[key] = Ranked(key)

    def used(self, key: int, times: int, now: float) -> None:
        """Looks its next request up. Each request is told once, which is how this knows the moment."""
        model = self._models[key]
        model.value = -self._next[self._moment]
        self._ranking.file(model)
        self._moment += 1

    def resized(self, key: int, bytes_: int) -> None:
        """Bytes play no part here."""

    def removed(self, key: int, *, evicted: bool) -> None:
        """It is no longer in."""
        self._ranking.remove(self._models.pop(key))

    def victims(self) -> Iterator[int]:
        """The farthest next request first."""
        return (ranked.key for ranked in self._ranking.ascending())


def following(keys: NDArray[np.int32]) -> NDArray[np.int64]:
    """For each request, the place of the next one of the same model; for the last one a place beyond the end."""
    order = np.argsort(keys, kind="stable")
    found = np.full(len(keys), 2 * len(keys), np.int64)
    same = keys[order[1:]] == keys[order[:-1]]
    found[order[:-1][same]] = order[1:][same]
    return found


def bound(trace: Trace, budget: int | None = None) -> Outcome:
    """Belady's optimum where all models are alike, else PFOO's bound on each of the three measures by itself.

    PFOO-L (Berger, Beckmann and Harchol-Balter, Practical Bounds on Optimal Caching with Variable Object Sizes, SIGMETRICS 2018):
    a hit takes its model's bytes from the last request until it; those hits are taken that are worth most for
    what they take, until all the room of all the time is given away, whether or not it would fit at each moment.
    """
    budget = trace.budget if budget is None else budget
    if len(np.unique(trace.sizes)) == len(np.unique(trace.seconds)) == 1:
        return simulate(Belady(trace), trace, budget, in_use=0)
    sizes, seconds = trace.sizes[trace.keys].astype(np.float64), trace.seconds[trace.keys]
    waits = following(trace.keys) - np.arange(len(trace.keys))
    again = waits < len(trace.keys)
    room = (sizes * waits)[again]
    area = float(budget) * len(trace.keys)
    return Outcome(
        requests=len(trace.keys),
        hits=int(_most(room, np.ones_like(room), area)),
        bytes=int(sizes.sum()),
        hit_bytes=int(_most(room, sizes[again], area)),
        loading_s=float(seconds.sum()) - _most(room, seconds[again], area),
    )


def _most(room: NDArray[np.float64], worth: NDArray[np.float64], area: float) -> float:
    """The sum of what is worth most for its room, as far as the area goes, with the one that is cut counted whole."""
    order = np.argsort(room / worth, kind="stable")
    fits = int(np.searchsorted(np.cumsum(room[order]), area)) + 1
    return float(worth[order[:fits]].sum())
