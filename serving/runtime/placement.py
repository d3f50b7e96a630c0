"""Placement: which of several workers holds a model that few ask for, and when a copy in another worker pays.

Each target has a home among the workers, found by its name alone (rendezvous hashing), so that all agree on it without
talking. A worker that is asked for a target that it does not hold forwards the request to its home: cold models take the
memory of one worker, and are loaded once.

A copy pays once requests for it are forwarded 200 times a second for more than a second. A forwarded request costs 30 to
70 us of CPU more than one that runs here, in the two workers together, so that is 1 % of a core for as long as it goes
on; loading a small model once more costs 20 to 60 ms of CPU, so a few seconds of forwarding pay for it (who buys once the
rent paid equals the price never pays more than twice what was needed). Below that, the memory that a copy takes is better
given to another model: to load that again for each request costs as much as hundreds that are forwarded. A herd of
callers who come at once and go is no rate: it is counted as at most two seconds' worth, and forgotten within one.

Nor does it take a high rate for a slow model to be too much for its home: a copy pays at once where the home refuses
requests because it is overloaded.

Source: Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates" (1998).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from functools import lru_cache
from hashlib import blake2b
from typing import Final

Key = tuple[str, str]
"""An endpoint and a target."""

HOT_PER_S: Final = 200.0
SUSTAINED_S: Final = 1.0
PAUSE_S: Final = 1.0

_DECAY_S: Final = 1.0
_MOST_KEYS: Final = 4096
_MASK: Final = 2**64 - 1


@lru_cache(maxsize=_MOST_KEYS)
def home(key: Key, workers: int) -> int:
    """The worker (0 to `workers` - 1) where a target is to be found; the same in each process, and after each start.

    One worker more takes its share of the targets from all others, and no other target moves.
    """
    digest = blake2b("\0".join(key).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    name = int.from_bytes(digest, "big")
    return max(range(workers), key=lambda worker: _mixed(name ^ _mixed(worker + 1)))


def _mixed(value: int) -> int:
    """64 bits of which each depends on each of the value's: the last steps of SplitMix64."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31


class _Heat:
    """How often requests for one target were forwarded of late: a count that decays, when it was right, since when it has
    been over the threshold (infinity: it is not), and when its home last refused one."""

    __slots__ = ("at", "count", "refused", "since")

    def __init__(self, now: float) -> None:
        self.count = 0.0
        self.at = now
        self.since = math.inf
        self.refused = -math.inf


class Placement:
    """Where one worker sends requests for targets that it does not hold. Pure; `now` are seconds of one clock."""

    def __init__(self, worker: int, workers: int, *, hot_per_s: float = HOT_PER_S, most_keys: int = _MOST_KEYS) -> None:
        self._worker = worker
        self._workers = workers
        self._hot = hot_per_s * _DECAY_S
        self._most_keys = most_keys
        self._heat: OrderedDict[Key, _Heat] = OrderedDict()  # the last forwarded last
        self._avoided = [-math.inf] * workers

    def elsewhere(self, key: Key, now: float) -> int | None:
        """The worker to which a request for a target that is not in memory is to be forwarded; None: it is loaded here,
        because this is its home, or its home could not be reached a moment ago."""
        worker = home(key, self._workers)
        return None if worker == self._worker or now < self._avoided[worker] else worker

    def forwarded(self, key: Key, now: float) -> bool:
        """Counts a request that is forwarded; whether a copy here pays.

        It is said once; where no copy comes of it (there is no room for one), again after as long.
        """
        heat = self._heat_of(key, now)
        count = heat.count * math.exp((heat.at - now) / _DECAY_S)
        if count < self._hot:
            heat.since = math.inf
        heat.count = count = min(count + 1.0, 2.0 * self._hot)
        heat.at = now
        if count < self._hot:
            return False
        if now - heat.since >= SUSTAINED_S:
            heat.since = now
            return True
        heat.since = min(heat.since, now)
        return False

    def overloaded(self, key: Key, now: float) -> bool:
        """The home of a target refused a request because too much waits for it there; whether a copy here pays.

        Said once, and again after as long.
        """
        heat = self._heat_of(key, now)
        if now - heat.refused < SUSTAINED_S:
            return False
        heat.refused = now
        return True

    def failed(self, worker: int, now: float) -> None:
        """A worker could not be reached: nothing is forwarded there for a moment."""
        self._avoided[worker] = now + PAUSE_S

    def reached(self, worker: int) -> None:
        """A worker that could not be reached can be again."""
        self._avoided[worker] = -math.inf

    def _heat_of(self, key: Key, now: float) -> _Heat:
        heat = self._heat.pop(key, None) or _Heat(now)
        self._heat[key] = heat
        if len(self._heat) > self._most_keys:
            self._heat.popitem(last=False)
        return heat

    def __len__(self) -> int:
        """How many targets it keeps count of."""
        return len(self._heat)
