"""One eviction policy on one trace: what a cache of models would have answered, and what it would have loaded."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np

from loadtests.multi_model.traces import Trace
from serving.runtime.eviction import EvictionPolicy

IN_USE: Final = 32
"""The models of that many requests, the latest, are in use and cannot go."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the requests; `loading_s` as the trace has it, without its noise."""

    requests: int
    hits: int
    bytes: int
    hit_bytes: int
    loading_s: float

    @property
    def hit_ratio(self) -> float:
        """The share of the requests whose model was in memory."""
        return self.hits / self.requests

    @property
    def byte_hit_ratio(self) -> float:
        """The same, each request counting as many times as its model has bytes."""
        return self.hit_bytes / self.bytes


def simulate(policy: EvictionPolicy[int], trace: Trace, budget: int | None = None, in_use: int = IN_USE) -> Outcome:
    """Drives a new policy with the trace under `budget` bytes (the trace's own where None).

    Every request is served: a model that is not in is loaded at once, and others go before, those in use excepted.
    """
    budget = trace.budget if budget is None else budget
    sizes, seconds = trace.sizes.tolist(), trace.seconds.tolist()
    noise = np.exp(np.random.default_rng(8).normal(0.0, trace.noise, 4_093)).tolist()
    present, taken, hits = set[int](), 0, 0
    loads = [0] * len(sizes)
    latest = deque[int](maxlen=in_use)
    for moment, key in enumerate(trace.keys.tolist()):
        if key in present:
            hits += 1
        else:
            loads[key] += 1
            if taken + sizes[key] > budget:
                taken -= _make_room(policy, present, sizes, taken + sizes[key] - budget, latest)
            policy.added(key, sizes[key], seconds[key] * noise[moment % len(noise)], moment)
            present.add(key)
            taken += sizes[key]
        policy.used(key, 1, moment)
        latest.append(key)
    asked = np.bincount(trace.keys, minlength=len(sizes))
    loaded = np.array(loads)
    return Outcome(
        requests=len(trace.keys),
        hits=hits,
        bytes=int(asked @ trace.sizes),
        hit_bytes=int((asked - loaded) @ trace.sizes),
        loading_s=float(loaded @ trace.seconds),
    )


def _make_room(
    policy: EvictionPolicy[int], present: set[int], sizes: list[int], wanted: int, latest: deque[int]
) -> int:
    """Lets models go until `wanted` bytes are free, or all that can go have gone; returns the bytes.

    As the server does, it spares what turns out not to be needed because a later one is large.
    """
    going, freed, kept = [], 0, frozenset(latest)
    for key in policy.victims():
        if key not in kept:
            going.append(key)
            freed += sizes[key]
            if freed >= wanted:
                break
    for key in going[-2::-1]:
        if freed - sizes[key] >= wanted:
            freed -= sizes[key]
            going.remove(key)
    for key in going:
        present.remove(key)
        policy.removed(key, evicted=True)
    return freed
