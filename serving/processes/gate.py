"""The gate before the loads of one worker: a suspect is let in once nothing else loads, and the others wait until it ended.

In the order in which they came, so that neither waits for ever. What was let in counts as loading from then on: the
worker may be making room for it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

from serving.processes.suspects import Key

PATIENCE_S: Final = 60.0
"""How long a suspect waits for the others to end, and how long what was let in may take to begin."""


class Admitted(NamedTuple):
    """What need not wait any more: it may be loaded, or, where not `let_in`, the others do not end."""

    call: int
    let_in: bool


@dataclass(slots=True)
class _Load:
    call: int
    key: Key
    alone: bool
    since: float
    begun: bool = False


class Gate:
    """One worker's. A load is known by the call that found its artifact; times are in seconds of any one clock."""

    def __init__(self) -> None:
        self._waiting: deque[_Load] = deque()
        self._inside: dict[int, _Load] = {}

    def found(self, call: int, key: Key, now: float, *, alone: bool) -> None:
        """An artifact is there to be loaded, `alone` or beside others."""
        self._waiting.append(_Load(call, key, alone, now))

    def began(self, key: Key) -> None:
        """The worker loads it: it may take as long as any load may."""
        for load in self._inside.values():
            if load.key == key:
                load.begun = True

    def ended(self, key: Key) -> None:
        """The load of a target has ended."""
        self._inside = {call: load for call, load in self._inside.items() if load.key != key or not load.begun}

    def left(self, call: int) -> None:
        """The worker does not want it any more, whether it has begun or still waits."""
        self._inside.pop(call, None)
        self._waiting = deque(load for load in self._waiting if load.call != call)

    def admit(self, now: float) -> list[Admitted]:
        """All that need not wait any more."""
        admitted: list[Admitted] = []
        while self._waiting:
            load = self._waiting[0]
            if self._in_the_way(load, now):
                if not load.alone or now < load.since + PATIENCE_S:
                    break
                admitted.append(Admitted(load.call, let_in=False))
            else:
                load.since = now
                self._inside[load.call] = load
                admitted.append(Admitted(load.call, let_in=True))
            self._waiting.popleft()
        return admitted

    def wake_at(self, now: float) -> float | None:
        """When `admit` is to be asked again, should nothing else happen."""
        if not self._waiting:
            return None
        first = self._waiting[0]
        idle = [load.since + PATIENCE_S for load in self._inside.values() if not load.begun]
        ends = [when for when in idle if when > now]
        return min([*ends, first.since + PATIENCE_S] if first.alone else ends, default=None)

    def _in_the_way(self, load: _Load, now: float) -> bool:
        return any(
            (load.alone or other.alone) and (other.begun or now < other.since + PATIENCE_S)
            for other in self._inside.values()
        )
