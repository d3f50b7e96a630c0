"""The model cache: which models of a worker are in memory, which are fetched, and which go for them.

A pure state machine: events and the time go in, actions come out of `poll`. It holds no loop, no clock and no thread;
`serving.runtime.targets` is the thin loop around it. All times are seconds of one monotonic clock. The loop polls after
each event until it gets None, and carries out each action before it polls for the next.

The rules:

1. A key has one flight at a time: located, then loaded, however many wait. Flights start in the order in which they were
   asked for, at most `locates` and `loads` at once. One that waits to be located ends when nobody wants it any more; one
   that was begun goes on without its waiters.
2. Room comes first: a model is loaded once its estimate fits beside all that is held. For that models are unloaded, in
   the policy's order and only as many as needed; never one that is in use or pinned, and none at all where all that may
   go would not suffice.
   A load that takes longer than `slow_s` no longer counts among the `loads`, so that those that hang hold up no others.
3. A model for which no room can be made waits until something goes out of use, and others pass it where they find room.
   When it has waited for `turn_s` it has the turn: nobody passes it for as long again; then others may pass once more. So
   a large model gets what falls free, and costs the others at most every second turn. Without anybody who waits it gives
   up.
4. A waiter is answered once: served, or refused when the fetch fails, is discarded, or its deadline passes.
5. A fault is believed for a while, and refuses at once (`Faults`). What is loaded outlives it: a model that is in use
   after `refresh_s` has the store asked whether it changed; the changed one is loaded beside the old and takes its place,
   and whatever goes wrong with that leaves the old one. Only where both do not fit, the old one goes first.
6. What is taken out is found by nobody from then on, and unloaded once it is out of use. Its bytes count until it is
   gone, and a key is not loaded anew while a model of it is being unloaded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from copy import copy
from typing import Generic, TypeVar

from serving.errors import ServingError
from serving.runtime.cache_actions import Action, Drop, Load, Locate, Refuse, Serve, Unload
from serving.runtime.cache_budget import CacheBudget
from serving.runtime.cache_departures import Departures
from serving.runtime.cache_entry import Entry, EntryView, Fetch, Resident, Stage
from serving.runtime.cache_events import Event, Journal
from serving.runtime.cache_faults import Faults
from serving.runtime.cache_locates import Locates
from serving.runtime.cache_refusals import is_too_large, shown, too_large, too_late
from serving.runtime.cache_room import Room, Verdict
from serving.runtime.cache_views import views
from serving.runtime.cache_waiters import Waiters, Waiting
from serving.runtime.eviction import EvictionPolicy

K = TypeVar("K", bound=Hashable)
W = TypeVar("W", bound=Hashable)
H = TypeVar("H")
L = TypeVar("L")


class ModelCache(Generic[K, W, H, L]):
    """The models of one worker, within `budget` bytes; see the module's text for its rules.

    `in_use` tells whether a model answers requests. Waiters must be hashable, and no two of one key equal.
    `max_waiting` bounds those who wait, `keep_known` the keys that are known to be broken, `keep_events` the log.
    """

    def __init__(
        self,
        budget: int,
        policy: EvictionPolicy[K],
        in_use: Callable[[H], bool],
        *,
        loads: int = 2,
        locates: int = 8,
        refresh_s: float = 60.0,
        wait_s: float = 60.0,
        turn_s: float = 1.0,
        slow_s: float = 5.0,
        missing_s: float = 1.0,
        broken_s: float = 30.0,
        broken_most_s: float = 600.0,
        max_waiting: int = 10_000,
        keep_known: int = 10_000,
        keep_events: int = 1_000,
    ) -> None:
        self.budget = CacheBudget(budget)
        self._journal: Journal[K] = Journal(self.budget, keep_events)
        self.stats = self._journal.stats
        self._policy = policy
        self._in_use = in_use
        self._loads = loads
        self._loading: dict[K, Fetch[K, L]] = {}
        self._slow_s = slow_s
        self._slow_at: float | None = None
        """When a load that others wait behind no longer counts."""
        self._refresh_s = refresh_s
        self._wait_s = wait_s
        self._broken_s = broken_s
        self._entries: dict[K, Entry[K, W, H, L]] = {}
        self._waiters: Waiters[K, W] = Waiters(max_waiting)
        self._locates: Locates[K, L] = Locates(locates)
        self._departures: Departures[K, H] = Departures(in_use, self.budget)
        self._room: Room[K, W, H, L] = Room(
            self._entries, self.budget, policy, self._departures, in_use, turn_s, wait_s
        )
        self._faults: Faults[K] = Faults(keep_known, missing_s, broken_s, broken_most_s)
        self._outbox: deque[Action[K, L, H, W]] = deque()
        self._passing: dict[K, Entry[K, W, H, L]] = {}
        """Loaded ones that are not to be kept, and were of use."""
        self._over = ""
        """Why more may be held than the budget."""
        self._rested = False
        """Something that was taken out, or is not to be kept, may be out of use."""
        self._changed = False
        """Something may be begun that could not be before."""

    # ------------------------------------------------------------------ callers

    def get(self, key: K) -> H | None:
        """The loaded model; None where there is none. Changes nothing."""
        entry = self._entries.get(key)
        return entry.resident.handle if entry is not None and entry.resident is not None else None

    def want(self, key: K, waiter: W, deadline: float, now: float, *, keep: bool = True) -> H | None:
        """The loaded model, to be in use before the next poll; None: the waiter is kept until a Serve or a Refuse.

        With `keep` False the model goes as soon as it was of use and is not in use. Raises the error that is known of the
        key, and `Overloaded` where too many wait.
        """
        entry = self._entries.get(key)
        if entry is not None and entry.resident is not None:
            entry.keep = keep
            self._of_use(entry, entry.resident, now)
            return entry.resident.handle
        if entry is None or entry.fetch is None or entry.fetch.void:
            error = self._faults.believed(key, now)
            if error is not None:
                self.stats.refused["broken"] += 1
                raise error
        waiting = self._waiters.add(key, waiter, min(deadline, now + self._wait_s), now)
        if entry is None:
            entry = self._entries[key] = Entry(key)
        entry.keep = keep
        entry.waiters[waiter] = waiting
        self.stats.misses += 1
        self._fetch(entry, "requested", now)
        return None

    def leave(self, key: K, waiter: W) -> None:
        """The waiter hung up; one that was answered meanwhile is passed over."""
        entry = self._entries.get(key)
        waiting = entry.waiters.pop(waiter, None) if entry is not None else None
        if entry is not None and waiting is not None:
            self._waiters.end(waiting)
            self._abandon(entry)

    def load(self, key: K, now: float, *, keep: bool = True) -> None:
        """Has a model loaded for which nobody waits, also one that is known to be broken; nothing where it is loaded."""
        self._faults.doubt(key, now)
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = Entry(key)
        entry.keep = keep
        if entry.resident is None:
            entry.asked = True
            self._fetch(entry, "preloaded", now)

    def refresh(self, key: K, now: float) -> bool:
        """Has the store asked whether a loaded model changed, whenever it last was; False where it is not loaded."""
        entry = self._entries.get(key)
        if entry is None or entry.resident is None:
            return False
        entry.check_at = now
        self._check(entry, entry.resident, now)
        return True

    def used(self, key: K, times: int, now: float) -> None:
        """It answered that many requests; one that is not loaded is passed over."""
        entry = self._entries.get(key)
        if entry is not None and entry.resident is not None and times:
            self._policy.used(key, times, now)
            self._of_use(entry, entry.resident, now)

    def idle(self, now: float) -> None:
        """Some model went out of use. Needs to be told only while `heeds_idle`."""
        self._rested = True
        self._changed = self._room.rested(now) or self._changed

    @property
    def heeds_idle(self) -> bool:
        """Whether anything waits for models to go out of use."""
        return self._room.stuck or bool(self._passing) or self._departures.waiting

    def pin(self, key: K) -> None:
        """It is not to be evicted, once it is loaded. A pin lasts until `unpin`, or until the key is discarded."""
        self._room.pins.add(key)

    def unpin(self, key: K) -> None:
        """It may be evicted."""
        if key in self._room.pins:
            self._room.pins.discard(key)
            self._faults.forget_where(is_too_large)
            self._changed = True
            entry = self._entries.get(key)
            if entry is not None and entry.resident is not None:
                self._let_pass(entry)

    # ------------------------------------------------------------------ answers to actions

    def located(self, key: K, located: L, bytes_: int, revision: str, now: float) -> None:
        """The artifact is there; loaded, it will take so many bytes, by an estimate."""
        entry, fetch = self._end_locating(key, now)
        same = entry.resident is not None and entry.resident.revision == revision
        if fetch.void or same or (fetch.refresh and entry.resident is None and not entry.wanted):
            self._outbox.append(Drop(key, located))
            self._end_fetch(entry, now, unchanged=same and not fetch.void)
            return
        fetch.stage = Stage.LOCATED
        fetch.located = located
        fetch.found_revision = revision
        fetch.bytes = max(bytes_, 0)
        fetch.began = now
        self._room.queue[key] = fetch
        if self._room.too_large(fetch):
            self._give_up_large(entry, fetch, now)

    def unchanged(self, key: K, now: float) -> None:
        """The artifact still is of the revision that `Locate` named."""
        entry, fetch = self._end_locating(key, now)
        self._end_fetch(entry, now, unchanged=not fetch.void)

    def loaded(self, key: K, handle: H, seconds: float, now: float, bytes_: int | None = None) -> None:
        """The model is loaded, which took so long; `bytes_` is a better estimate, where there is one."""
        entry, fetch = self._flight(key, Stage.LOADING)
        self._end_loading(fetch)
        size = fetch.bytes if bytes_ is None else bytes_
        resident: Resident[K, H] = Resident(key, handle, size, fetch.found_revision, now)
        self.budget.loaded += size
        if size > fetch.bytes:
            self._over = self._over or "more was loaded than estimated"
        if fetch.void:
            self._journal.loaded(fetch, resident, seconds, 0.0, 0)
            self._depart(entry, resident, fetch.void, fetch.void)
            self._end_fetch(entry, now)
            return
        self._journal.loaded(fetch, resident, seconds, entry.waited_s(now), len(entry.waiters))
        if entry.resident is not None:
            self._depart(entry, entry.resident, "replaced", "replaced")
        self._policy.added(key, size, seconds, now)
        self._faults.forget(key)
        entry.resident = resident
        entry.check_at = fetch.located_at + self._refresh_s
        entry.served = bool(entry.waiters)
        entry.asked = False
        for waiting in self._released(entry):
            self._outbox.append(Serve(key, waiting.waiter, handle))
        self._let_pass(entry)
        self._end_fetch(entry, now)

    def failed(self, key: K, error: ServingError, believe_s: float | None, now: float) -> None:
        """It could not be located, or not be loaded. `believe_s`: for how long that is so; None: by the error's kind."""
        entry, fetch = self._flight(key, Stage.LOCATING, Stage.LOADING)
        if fetch.stage is Stage.LOADING:
            self._end_loading(fetch)
        else:
            self._end_locating(key, now)
        if not fetch.void:
            self._fail(entry, fetch, error, believe_s, "failed", now)
        self._end_fetch(entry, now)

    def unloaded(self, key: K, handle: H, now: float) -> None:
        """It is gone, and its memory is free."""
        resident = self._departures.ended(key, handle)
        self._journal.unloaded(resident, now)
        self._changed = True
        entry = self._entries[key]
        entry.going -= 1
        entry.unloading -= 1
        self._settle(entry)

    # ------------------------------------------------------------------ the operator

    def discard(self, key: K, reason: str, error: ServingError, now: float) -> bool:
        """Takes out whatever there is of a key, pinned or not; who waits is refused with the error. False: there was nothing.

        `reason` is one of a few, for it is a label of a counter.
        """
        self._room.pins.discard(key)
        known = self._faults.forget(key)
        entry = self._entries.get(key)
        if entry is None:
            return known
        fetch = entry.fetch
        there = known or entry.resident is not None or (fetch is not None and not fetch.void)
        entry.asked = False
        self._refuse(entry, reason, error, now)
        if fetch is not None and not fetch.void:
            self._journal.discarded(fetch, reason, now)
            if fetch.stage in (Stage.QUEUED, Stage.LOCATED):
                self._cancel(entry, fetch)
            else:
                fetch.void = reason or "discarded"
        if entry.resident is not None:
            self._take_out(entry, reason, reason, evicted=False)
        self._settle(entry)
        return there

    def discard_where(self, predicate: Callable[[K], bool], reason: str, error: ServingError, now: float) -> None:
        """Discards every key for which the predicate holds, and all that is known of them."""
        self._faults.forget_where(lambda key, _: predicate(key))
        self._room.pins.difference_update([key for key in self._room.pins if predicate(key)])
        for key in [key for key in self._entries if predicate(key)]:
            self.discard(key, reason, error, now)

    def resize(self, budget: int, now: float) -> None:
        """What may be held from now on, in bytes."""
        if budget > self.budget.bytes:
            self._faults.forget_where(is_too_large)
        self.budget.bytes = budget
        self._over = "the budget shrank"
        self._changed = True

    def measured(self, bytes_: int, now: float, *, force: bool = False) -> None:
        """What all models really take. While models are loaded or unloaded it is passed over, unless `force`."""
        if not force and (self._loading or self._departures.unloading):
            return
        self.budget.measure(bytes_)
        self._over = self._over or "more was measured than estimated"
        self._changed = True

    # ------------------------------------------------------------------ what can be asked

    @property
    def waiting(self) -> int:
        """Those who wait, for any key."""
        return len(self._waiters)

    @property
    def wake_at(self) -> float | None:
        """When the cache is to be polled though nothing happened; None: never."""
        times = (self._waiters.next_deadline, self._room.wake_at, self._slow_at)
        return min((time for time in times if time is not None), default=None)

    def events(self, since: int = 0) -> list[Event[K]]:
        """What happened after the event of that number, as far as it is still known."""
        return self._journal.since(since)

    def __iter__(self) -> Iterator[K]:
        """The keys of loaded models."""
        return (key for key, entry in self._entries.items() if entry.resident is not None)

    def entries(self) -> Iterator[EntryView[K]]:
        """All that is known, key by key; a model that was taken out has a line of its own."""
        return views(self._entries.values(), self._departures, self._faults, self._room.pins, self._in_use, self.budget)

    # ------------------------------------------------------------------ what to do next

    def poll(self, now: float) -> Action[K, L, H, W] | None:
        """What to do next, asked until None."""
        self._expire(now)
        self._changed = self._changed or self._room.due(now) or (self._slow_at is not None and now >= self._slow_at)
        while self._outbox or self._rested or self._changed:
            # Whoever is served has its model in use before anything is judged by use.
            if self._outbox:
                return self._outbox.popleft()
            action: Action[K, L, H, W] | None
            if self._rested:
                action = self._next_unload(now)
            else:
                self._changed = False
                action = self._next_locate(now) or self._next_load(now)
            if action is not None:
                self._changed = True
                return action
        return None

    def _expire(self, now: float) -> None:
        """Refuses those whose deadline has passed."""
        late: dict[tuple[K, str], tuple[int, float]] = {}
        while (waiting := self._waiters.expired(now)) is not None:
            entry = self._entries[waiting.key]
            waited_s = now - waiting.since
            cause, error = too_late(waiting.key, entry.fetch, waited_s)
            count, longest_s = late.get((waiting.key, cause), (0, 0.0))
            late[waiting.key, cause] = (count + 1, max(longest_s, waited_s))
            self._outbox.append(Refuse(waiting.key, waiting.waiter, error))
            del entry.waiters[waiting.waiter]
            self._waiters.end(waiting)
            self._abandon(entry)
        for (key, cause), (count, longest_s) in late.items():
            self._journal.refused(key, cause, count, longest_s, now)

    def _next_unload(self, now: float) -> Unload[K, H] | None:
        for entry in [entry for entry in self._passing.values() if self._room.may_go(entry)]:
            self._take_out(entry, "not kept", "not kept")
        resident = self._departures.next(now)
        if resident is None:
            self._rested = False
            return None
        self._entries[resident.key].unloading += 1
        return Unload(resident.key, resident.handle, resident.reason)

    def _next_locate(self, now: float) -> Locate[K] | None:
        fetch = self._locates.next(now)
        return Locate(fetch.key, fetch.revision) if fetch is not None else None

    def _next_load(self, now: float) -> Load[K, L] | None:
        for entry in self._room.excess(now):
            self._take_out(entry, "over budget", self._over or "more is held than may be")
        if self._rested:
            # These are unloaded first, and then there may be room.
            self._changed = True
            return None
        if not self._room.stuck:
            self._over = ""
        decision = self._room.next(self._slots(now), now)
        if decision is None:
            return None
        verdict, entry, fetch, victims = decision
        if verdict is Verdict.LOAD:
            return self._begin_load(fetch, now)
        if verdict is Verdict.EVICT:
            for victim in victims:
                if victim is entry:
                    self._take_out(victim, "replaced", "replaced, and both do not fit")
                else:
                    self._take_out(victim, "evicted", f"evicted for {shown(fetch.key)}")
        elif verdict is Verdict.TOO_LARGE:
            self._give_up_large(entry, fetch, now)
        else:
            self._give_up_unwanted(entry, fetch, now)
        return None

    def _slots(self, now: float) -> int:
        """How many loads may be begun."""
        fast = [fetch.began for fetch in self._loading.values() if now < fetch.began + self._slow_s]
        slots = self._loads - len(fast)
        self._slow_at = min(fast) + self._slow_s if slots <= 0 and self._room.queue else None
        return slots

    def _begin_load(self, fetch: Fetch[K, L], now: float) -> Load[K, L]:
        located = fetch.located
        del fetch.located
        del self._room.queue[fetch.key]
        fetch.stage = Stage.LOADING
        fetch.began = now
        self._loading[fetch.key] = fetch
        self.budget.loading += fetch.bytes
        return Load(fetch.key, located)

    # ------------------------------------------------------------------ fetches

    def _fetch(self, entry: Entry[K, W, H, L], reason: str, now: float) -> None:
        """Has a key located and loaded, unless that is under way."""
        fetch = entry.fetch
        if fetch is not None:
            if not (fetch.refresh and fetch.stage is Stage.QUEUED):
                return
            # What was to be compared is not loaded any more.
            self._locates.remove(fetch)
        self._begin_fetch(entry, Fetch(entry.key, reason, now))

    def _begin_fetch(self, entry: Entry[K, W, H, L], fetch: Fetch[K, L]) -> None:
        entry.fetch = fetch
        self._locates.add(fetch)
        self._changed = True

    def _of_use(self, entry: Entry[K, W, H, L], resident: Resident[K, H], now: float) -> None:
        entry.served = True
        self._let_pass(entry)
        if now >= entry.check_at:
            self._check(entry, resident, now)

    def _check(self, entry: Entry[K, W, H, L], resident: Resident[K, H], now: float) -> None:
        if entry.fetch is None:
            self._begin_fetch(entry, Fetch(entry.key, "changed", now, resident.revision, refresh=True))

    def _flight(self, key: K, *stages: Stage) -> tuple[Entry[K, W, H, L], Fetch[K, L]]:
        """A fetch that is under way. Raises ValueError where there is none at such a stage."""
        entry = self._entries.get(key)
        if entry is None or entry.fetch is None or entry.fetch.stage not in stages:
            raise ValueError(f"{shown(key)} is not {' or '.join(stage.value for stage in stages)}")
        return entry, entry.fetch

    def _end_locating(self, key: K, now: float) -> tuple[Entry[K, W, H, L], Fetch[K, L]]:
        entry, fetch = self._flight(key, Stage.LOCATING)
        self._locates.ended(fetch, now)
        self.stats.locating_s += fetch.locating_s
        self._changed = True
        return entry, fetch

    def _end_loading(self, fetch: Fetch[K, L]) -> None:
        del self._loading[fetch.key]
        self.budget.loading -= fetch.bytes
        self._changed = True

    def _end_fetch(self, entry: Entry[K, W, H, L], now: float, *, unchanged: bool = False) -> None:
        """A fetch is over; whom it was not for, or who came after it was discarded, has another one begin."""
        entry.fetch = None
        if unchanged and entry.resident is not None:
            entry.check_at = now + self._refresh_s
            self._faults.forget(entry.key)
            self.stats.unchanged += 1
        elif entry.wanted and entry.resident is None:
            self._fetch(entry, "requested" if entry.waiters else "preloaded", now)
        self._settle(entry)

    def _cancel(self, entry: Entry[K, W, H, L], fetch: Fetch[K, L]) -> None:
        """Ends a fetch that waits in a queue."""
        if fetch.stage is Stage.LOCATED:
            del self._room.queue[entry.key]
            self._outbox.append(Drop(entry.key, fetch.located))
        else:
            self._locates.remove(fetch)
        entry.fetch = None
        self._changed = True

    def _abandon(self, entry: Entry[K, W, H, L]) -> None:
        """Ends a fetch that was not begun, once nobody wants it."""
        fetch = entry.fetch
        if not entry.wanted and entry.resident is None and fetch is not None and fetch.stage is Stage.QUEUED:
            self._cancel(entry, fetch)
            self._settle(entry)

    def _settle(self, entry: Entry[K, W, H, L]) -> None:
        """Forgets a key of which nothing is left."""
        if entry.resident is None and entry.fetch is None and not entry.going:
            del self._entries[entry.key]

    # ------------------------------------------------------------------ faults

    def _fail(
        self,
        entry: Entry[K, W, H, L],
        fetch: Fetch[K, L],
        error: ServingError,
        believe_s: float | None,
        cause: str,
        now: float,
    ) -> None:
        until = self._faults.add(entry.key, error, believe_s, now)
        self._journal.failed(fetch, error.message, now, refresh=entry.resident is not None)
        entry.check_at = max(until, now + self._refresh_s)
        entry.asked = False
        self._refuse(entry, cause, error, now)

    def _refuse(self, entry: Entry[K, W, H, L], cause: str, error: ServingError, now: float) -> None:
        """Refuses all that wait for a key, each with an error of its own."""
        waited_s, count = entry.waited_s(now), len(entry.waiters)
        for waiting in self._released(entry):
            self._outbox.append(Refuse(entry.key, waiting.waiter, copy(error)))
        if count:
            self._journal.refused(entry.key, cause, count, waited_s, now)

    def _released(self, entry: Entry[K, W, H, L]) -> list[Waiting[K, W]]:
        """All that waited for a key; they wait no longer."""
        waiters = list(entry.waiters.values())
        entry.waiters = {}
        for waiting in waiters:
            self._waiters.end(waiting)
        return waiters

    def _give_up_large(self, entry: Entry[K, W, H, L], fetch: Fetch[K, L], now: float) -> None:
        pinned = self.budget.scaled(self._room.pinned_beside(entry.key))
        error = too_large(entry.key, self.budget.scaled(fetch.bytes), self.budget.bytes, pinned)
        self._cancel(entry, fetch)
        self._fail(entry, fetch, error, self._broken_s, "too large", now)
        self._settle(entry)

    def _give_up_unwanted(self, entry: Entry[K, W, H, L], fetch: Fetch[K, L], now: float) -> None:
        self._cancel(entry, fetch)
        self._journal.discarded(fetch, "no room: what is loaded is in use or pinned, and nobody waits", now)
        entry.asked = False
        entry.check_at = now + self._refresh_s
        self._settle(entry)

    # ------------------------------------------------------------------ departures

    def _let_pass(self, entry: Entry[K, W, H, L]) -> None:
        """Has a model go after its use that is not to be kept."""
        if entry.keep:
            self._passing.pop(entry.key, None)
        elif entry.served:
            self._passing[entry.key] = entry
            self._rested = True

    def _take_out(self, entry: Entry[K, W, H, L], cause: str, reason: str, *, evicted: bool = True) -> None:
        """Nobody finds a model any more. `evicted`: it may come back."""
        resident = entry.resident
        assert resident is not None
        entry.resident = None
        self._passing.pop(entry.key, None)
        self._policy.removed(entry.key, evicted=evicted)
        self._depart(entry, resident, cause, reason)

    def _depart(self, entry: Entry[K, W, H, L], resident: Resident[K, H], cause: str, reason: str) -> None:
        entry.going += 1
        self._departures.add(resident, cause, reason)
        self._journal.departs(resident)
        self._rested = True
