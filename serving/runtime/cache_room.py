"""Room in memory: which model is loaded next, and which ones go for it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from enum import Enum, auto
from typing import Final, Generic, NamedTuple, TypeVar

from serving.runtime.cache_budget import CacheBudget
from serving.runtime.cache_departures import Departures
from serving.runtime.cache_entry import Entry, Fetch
from serving.runtime.eviction import EvictionPolicy

K = TypeVar("K", bound=Hashable)
W = TypeVar("W", bound=Hashable)
H = TypeVar("H")
L = TypeVar("L")

LOOK_AGAIN_S: Final = 0.01
"""How often models that go out of use have room looked for again: a look goes through all that is loaded."""


class Verdict(Enum):
    """What becomes of a fetch whose turn it is; in the first case once its victims are gone."""

    EVICT = auto()
    LOAD = auto()
    TOO_LARGE = auto()
    UNWANTED = auto()


class Decision(NamedTuple, Generic[K, W, H, L]):
    """A fetch, and what becomes of it."""

    verdict: Verdict
    entry: Entry[K, W, H, L]
    fetch: Fetch[K, L]
    victims: list[Entry[K, W, H, L]]


class Room(Generic[K, W, H, L]):
    """The queue of those that are located and wait to be loaded, and the order in which the loaded go; it decides, and changes no entry.

    `turn_s` and `wait_s`: see rule 3 of the model cache. Sizes are estimates.
    """

    def __init__(
        self,
        entries: Mapping[K, Entry[K, W, H, L]],
        budget: CacheBudget,
        policy: EvictionPolicy[K],
        departures: Departures[K, H],
        in_use: Callable[[H], bool],
        turn_s: float,
        wait_s: float,
    ) -> None:
        self.queue: OrderedDict[K, Fetch[K, L]] = OrderedDict()
        self.pins: set[K] = set()
        self.stuck = False
        """Whether a load, or the budget, waits for something to go out of use."""
        self._entries = entries
        self._budget = budget
        self._policy = policy
        self._departures = departures
        self._in_use = in_use
        self._turn_s = turn_s
        self._wait_s = wait_s
        self._turn_at: float | None = None
        self._look_at = 0.0
        self._look_due = False

    # ------------------------------------------------------------------ when to look

    def rested(self, now: float) -> bool:
        """Something went out of use: whether to look for room now. If not, but later, `wake_at` tells."""
        self._look_due = self.stuck and now < self._look_at
        return self.stuck and not self._look_due

    def due(self, now: float) -> bool:
        """Whether to look for room because of the time."""
        return (self._turn_at is not None and now >= self._turn_at) or (self._look_due and now >= self._look_at)

    @property
    def wake_at(self) -> float | None:
        """When to look for room though nothing happens."""
        if self._look_due:
            return self._look_at if self._turn_at is None else min(self._look_at, self._turn_at)
        return self._turn_at

    # ------------------------------------------------------------------ decisions

    def excess(self, now: float) -> list[Entry[K, W, H, L]]:
        """Those to go because more is held than may be, beside what goes already."""
        self.stuck = self._look_due = False
        self._turn_at = None
        budget = self._budget
        excess = budget.loaded - self._departures.leaving_bytes + budget.loading - budget.capacity
        if excess <= 0:
            return []
        victims, found = self._victims(excess)
        if found < excess:
            self._is_stuck(now)
        return victims

    def next(self, slots: int, now: float) -> Decision[K, W, H, L] | None:
        """The first fetch of which something becomes, with so many loads to be had.

        What those before it were promised is not free for it, be it that their victims are still being unloaded.
        """
        free = self._budget.capacity - self._budget.taken
        coming = self._budget.unloading
        found: int | None = None
        first = True
        for fetch in self.queue.values():
            if slots <= 0:
                return None
            entry = self._entries[fetch.key]
            short = fetch.bytes - free - coming
            if short <= 0:
                if fetch.bytes <= free and not entry.unloading:
                    return Decision(Verdict.LOAD, entry, fetch, [])
                free -= fetch.bytes
                slots -= 1
                continue
            if found is None or short <= found:
                victims, found = self._victims(short, entry)
                if found >= short:
                    return Decision(Verdict.EVICT, entry, fetch, victims)
            if self.too_large(fetch):
                return Decision(Verdict.TOO_LARGE, entry, fetch, [])
            if not self._patient(entry, fetch, now):
                return Decision(Verdict.UNWANTED, entry, fetch, [])
            self._is_stuck(now)
            if first and self._has_the_turn(fetch, now):
                return None
            first = False
        return None

    def too_large(self, fetch: Fetch[K, L]) -> bool:
        """Whether it could not be loaded were nothing else loaded but what is pinned."""
        return fetch.bytes > self._budget.capacity - self.pinned_beside(fetch.key)

    def pinned_beside(self, key: K) -> int:
        """What the other pinned models take."""
        return sum(self._entries[other].bytes for other in self.pins if other != key and other in self._entries)

    def may_go(self, entry: Entry[K, W, H, L]) -> bool:
        """Whether it is loaded, and neither in use nor pinned."""
        resident = entry.resident
        return resident is not None and entry.key not in self.pins and not self._in_use(resident.handle)

    # ------------------------------------------------------------------ inside

    def _victims(self, short: int, last: Entry[K, W, H, L] | None = None) -> tuple[list[Entry[K, W, H, L]], int]:
        """Those to go for so many bytes, in the policy's order and as few as needed; and the bytes that were found.

        `last` goes only where all others do not suffice.
        """
        victims: list[Entry[K, W, H, L]] = []
        found = 0
        for key in self._policy.victims():
            entry = self._entries[key]
            if entry is not last and self.may_go(entry):
                victims.append(entry)
                found += entry.bytes
                if found >= short:
                    break
        if found < short and last is not None and self.may_go(last):
            victims.append(last)
            found += last.bytes
        # A large one that came late in the order may do without some of those before it; the most worth stay first.
        spare = found - short
        needed = victims[-1:]
        for entry in victims[-2::-1]:
            if entry.bytes <= spare:
                spare -= entry.bytes
            else:
                needed.append(entry)
        return needed[::-1], found

    def _patient(self, entry: Entry[K, W, H, L], fetch: Fetch[K, L], now: float) -> bool:
        if fetch.stuck_since is None:
            fetch.stuck_since = now
        return bool(entry.waiters) or (entry.asked and now - fetch.stuck_since < self._wait_s)

    def _has_the_turn(self, fetch: Fetch[K, L], now: float) -> bool:
        """Whether nobody passes the first that finds no room; it is passed, and not passed, in turns."""
        if not fetch.turn_ends:
            fetch.turn_ends = now + self._turn_s
        elif now >= fetch.turn_ends:
            fetch.holds = not fetch.holds
            fetch.turn_ends = now + self._turn_s
        self._turn_at = fetch.turn_ends
        return fetch.holds

    def _is_stuck(self, now: float) -> None:
        self.stuck = True
        self._look_at = now + LOOK_AGAIN_S
