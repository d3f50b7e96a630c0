"""Memory leases: one budget of bytes, shared by the workers, each of which keeps to what it was leased.

All begin with an equal share. What one does not use goes to those under pressure, who refused or evicted models for want
of memory; what one uses is only taken from it where it has more than an equal share of what is wanted. A worker shrinks
first and says so, and only then do others grow, so that all together never hold more than the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

FLOORS: Final = 4
"""A worker keeps its equal share divided by this, whatever others want, so that it can begin at any time."""

STEPS: Final = 64
"""Leases change by a part of the budget that is not much smaller than this one."""


class Need(NamedTuple):
    """One worker: what it is to have, what it holds, and what it had to refuse or evict, in bytes."""

    lease: int
    held: int
    pressure: int


def divide(budget: int, floor: int, needs: Sequence[Need]) -> list[int]:
    """What each worker is to have from now on: as it was, but for those under pressure, who get what others can spare.

    The sum of `needs`' leases is within the budget, and so is the answer's; nobody has less than `floor` (at most an equal
    share), and nobody under pressure less than an equal share for want of what others hold.
    """
    step = max(budget // STEPS, 1)
    wanted = [max(floor, _wanted(need, step)) for need in needs]
    level = _level(budget, wanted)
    fair = [min(want, level) for want in wanted]
    gains = [
        share - need.lease if need.pressure and share - need.lease >= max(step // 4, 1) else 0
        for share, need in zip(fair, needs, strict=True)
    ]
    spare = [
        max(need.lease - share, 0) if not gain else 0 for share, need, gain in zip(fair, needs, gains, strict=True)
    ]
    missing = max(sum(gains) - (budget - sum(need.lease for need in needs)), 0)
    taken = _shared_out(missing, spare)
    return [need.lease + gain - loss for need, gain, loss in zip(needs, gains, taken, strict=True)]


class Change(NamedTuple):
    """A worker's next lease, in bytes."""

    worker: int
    lease: int


@dataclass(slots=True)
class _Lease:
    goal: int
    lease: int
    """What it was told last."""
    known: bool
    """It has said that it keeps to that."""
    most: int
    """What it may hold at this moment, as far as is known."""
    held: int = 0
    pressure: int = 0


class MemoryLeases:
    """What each of so many workers may hold. A worker is told nothing new before it knows its last lease."""

    def __init__(self, budget: int, workers: int) -> None:
        self.budget = budget
        self._share = budget // workers
        self._floor = self._share // FLOORS
        self._leases = {number: self._absent() for number in range(workers)}

    def joined(self, worker: int) -> int:
        """The first lease of a worker that begins: an equal share where others have not taken it, else what is left."""
        self.left(worker)
        one = self._leases[worker]
        one.known = False
        one.goal += max(min(self._share - self._floor, self._left([one.goal for one in self._leases.values()])), 0)
        one.lease += max(min(one.goal - one.lease, self._free()), 0)
        one.most = one.lease
        return one.lease

    def left(self, worker: int) -> None:
        """A worker has ended, and holds nothing any more."""
        self._leases[worker] = self._absent()

    def told(self, worker: int, held: int, pressure: int, lease: int) -> None:
        """What a worker holds, what it had to refuse or evict in its last second, and the lease that it keeps to."""
        one = self._leases[worker]
        one.held, one.pressure = held, pressure
        one.known = lease == one.lease
        one.most = max(one.lease, held) if one.known else max(one.most, held)
        if any(other.pressure for other in self._leases.values()):
            self._divide()

    def changes(self) -> list[Change]:
        """What is to be told to workers now; each is taken for told."""
        changes: list[Change] = []
        for worker, one in self._leases.items():
            if one.known and one.goal < one.lease:
                changes.append(self._change(worker, one.goal))
        step = max(self.budget // STEPS, 1)
        for worker, one in self._leases.items():
            grow = min(one.goal - one.lease, self._free())
            if one.known and grow > 0 and grow >= min(one.goal - one.lease, step):
                changes.append(self._change(worker, one.lease + grow))
        return changes

    @property
    def most(self) -> int:
        """What one worker may come to have."""
        return self.budget - self._floor * (len(self._leases) - 1)

    def lease(self, worker: int) -> int:
        """What a worker was told last."""
        return self._leases[worker].lease

    def _divide(self) -> None:
        leases = list(self._leases.values())
        needs = [Need(one.goal, one.held, one.pressure) for one in leases]
        for one, goal in zip(leases, divide(self.budget, self._floor, needs), strict=True):
            if goal > one.goal:
                one.pressure = 0  # it is answered: what it still has to refuse or evict then, it tells
            one.goal = goal

    def _change(self, worker: int, lease: int) -> Change:
        one = self._leases[worker]
        one.lease = lease
        one.known = False
        one.most = max(one.most, lease)
        return Change(worker, lease)

    def _free(self) -> int:
        return self._left([one.most for one in self._leases.values()])

    def _left(self, taken: Sequence[int]) -> int:
        return self.budget - sum(taken)

    def _absent(self) -> _Lease:
        return _Lease(self._floor, self._floor, known=False, most=self._floor)


def _wanted(need: Need, step: int) -> int:
    if need.pressure:
        return max(need.held + need.pressure, need.lease + step)
    return min(need.lease, need.held + step)


def _level(budget: int, wanted: Sequence[int]) -> int:
    """The share up to which each may have what it wants, so that all together have no more than the budget."""
    left = budget
    for count, want in zip(range(len(wanted), 0, -1), sorted(wanted), strict=True):
        if want * count > left:
            return left // count
        left -= want
    return max(wanted, default=budget)


def _shared_out(missing: int, spare: Sequence[int]) -> list[int]:
    """`missing` bytes in parts, each in proportion to what can be spared there and no more than that."""
    total = sum(spare)
    taken = [missing * one // total if total else 0 for one in spare]
    rest = missing - sum(taken)
    for number, one in enumerate(spare):
        more = min(rest, one - taken[number])
        taken[number] += more
        rest -= more
    return taken
