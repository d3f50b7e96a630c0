"""Loaded models that were taken out of the cache: some still in use, some being unloaded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

from serving.runtime.cache_budget import CacheBudget
from serving.runtime.cache_entry import Resident

K = TypeVar("K", bound=Hashable)
H = TypeVar("H")


class Departures(Generic[K, H]):
    """Each is unloaded as soon as nobody uses it; its bytes count until it is gone."""

    def __init__(self, in_use: Callable[[H], bool], budget: CacheBudget) -> None:
        self._in_use = in_use
        self._budget = budget
        self._leaving: deque[Resident[K, H]] = deque()
        self._unloading: dict[tuple[K, int], Resident[K, H]] = {}
        self.leaving_bytes = 0
        """Estimated bytes of those that are still in use."""

    def __len__(self) -> int:
        return len(self._leaving) + len(self._unloading)

    def __iter__(self) -> Iterator[tuple[Resident[K, H], str]]:
        """All of them, and what is done about them."""
        yield from ((resident, "in use") for resident in self._leaving)
        yield from ((resident, "unloading") for resident in self._unloading.values())

    @property
    def unloading(self) -> int:
        """How many are being unloaded."""
        return len(self._unloading)

    @property
    def waiting(self) -> bool:
        """Whether one of them waits to go out of use."""
        return bool(self._leaving)

    def add(self, resident: Resident[K, H], cause: str, reason: str) -> None:
        """Takes one that nobody finds any more."""
        resident.cause = cause
        resident.reason = reason
        self._leaving.append(resident)
        self.leaving_bytes += resident.bytes

    def next(self, now: float) -> Resident[K, H] | None:
        """One that is out of use, and from now on is being unloaded."""
        for _ in range(len(self._leaving)):
            resident = self._leaving.popleft()
            if self._in_use(resident.handle):
                self._leaving.append(resident)
                continue
            resident.ends = now
            self._unloading[resident.key, id(resident.handle)] = resident
            self.leaving_bytes -= resident.bytes
            self._budget.loaded -= resident.bytes
            self._budget.unloading += resident.bytes
            return resident
        return None

    def ended(self, key: K, handle: H) -> Resident[K, H]:
        """It is unloaded. Raises ValueError for one that was not being unloaded."""
        resident = self._unloading.pop((key, id(handle)), None)
        if resident is None:
            raise ValueError(f"a model of {key} was unloaded that was not to be")
        self._budget.unloading -= resident.bytes
        return resident
