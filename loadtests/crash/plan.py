"""Which process is killed when: drawn from a seed before the run, so that a run can be repeated."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Victim = Literal["supervisor", "worker", "all workers"]

LONGEST_S = 1.2
AT_ONCE_S = 0.05
STARTING_S = 1.5


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill -9 (or as many as there are workers, at once). `which` worker: modulo how many there are.

    `after_s` counts from when traffic began again, or, where `on_call` is set, from the next call of that operation.
    `starting_s` are the moments, from the begin of the start that follows, at which the supervisor is killed again.
    `goes_on_s` is how long traffic goes on once a killed worker was replaced.
    """

    victim: Victim
    after_s: float
    on_call: str
    which: int = 0
    starting_s: tuple[float, ...] = ()
    goes_on_s: float = 0.0

    @property
    def count(self) -> int:
        """Kills, with those while starting."""
        return 1 + len(self.starting_s)


CALLS = ("CreateEndpoint", "UpdateEndpoint", "DeleteEndpoint", "CreateModel", "CreateEndpointConfig", "AddTags")


def draw(count: int, seed: int) -> Iterator[Kill]:
    """Kills, `count` of them in all."""
    choose = random.Random(seed)
    left = count
    while left > 0:
        kill = _one(choose, left)
        left -= kill.count
        yield kill


def _one(choose: random.Random, left: int) -> Kill:
    victim: Victim = choose.choices(("supervisor", "worker", "all workers"), (50, 40, 10))[0]
    # Half of them right in the middle of a call, since that is where there is something to lose.
    on_call = choose.choice(CALLS) if choose.random() < 0.5 else ""
    after_s = choose.uniform(0, AT_ONCE_S if on_call else LONGEST_S)
    if victim != "supervisor":
        return Kill(victim, after_s, on_call, choose.randrange(64), goes_on_s=choose.uniform(0, 0.5))
    again = choose.choices((0, 1, 2), (80, 15, 5))[0]
    starting = tuple(choose.uniform(0, STARTING_S) for _ in range(min(again, left - 1)))
    return Kill(victim, after_s, on_call, starting_s=starting)
