"""The model cache as `/debug/models` shows it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from typing import Final, TypeVar

from serving.errors import BadRequest, TargetMissing
from serving.runtime.cache_budget import CacheBudget
from serving.runtime.cache_departures import Departures
from serving.runtime.cache_entry import Entry, EntryView
from serving.runtime.cache_faults import Faults

_ABSENT: Final = (TargetMissing, BadRequest)
"""What is said of names that no model has."""

K = TypeVar("K", bound=Hashable)
W = TypeVar("W", bound=Hashable)
H = TypeVar("H")
L = TypeVar("L")


def views(
    entries: Iterable[Entry[K, W, H, L]],
    departures: Departures[K, H],
    faults: Faults[K],
    pins: Collection[K],
    in_use: Callable[[H], bool],
    budget: CacheBudget,
) -> Iterator[EntryView[K]]:
    """All that is known, key by key; a model that was taken out has a line of its own."""
    loaded: set[K] = set()
    for entry in entries:
        resident, fetch = entry.resident, entry.fetch
        doing = fetch.stage.value if fetch is not None else ""
        if resident is not None:
            loaded.add(entry.key)
            fault = faults.get(entry.key)
            yield EntryView(
                entry.key,
                "loaded",
                True,
                budget.scaled(resident.bytes),
                resident.revision,
                resident.since,
                entry.key in pins,
                in_use(resident.handle),
                doing=doing,
                reason=fault.error.message if fault is not None else "",
                until=fault.until if fault is not None else 0.0,
            )
        elif fetch is not None:
            yield EntryView(
                entry.key,
                doing,
                False,
                budget.scaled(fetch.bytes),
                fetch.found_revision,
                fetch.since,
                entry.key in pins,
                waiting=len(entry.waiters),
            )
    for gone, state in departures:
        size, used = budget.scaled(gone.bytes), state == "in use"
        yield EntryView(gone.key, state, False, size, gone.revision, gone.since, in_use=used, reason=gone.reason)
    for key, fault in faults:
        if key not in loaded:
            state = "missing" if isinstance(fault.error, _ABSENT) else "refused"
            yield EntryView(key, state, False, reason=fault.error.message, until=fault.until, refused=fault.refused)
