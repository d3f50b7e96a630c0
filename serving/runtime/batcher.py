"""The dynamic batcher: which queued requests run together, and when.

A pure state machine: requests and the time go in, batches come out. It holds no loop, no clock and no thread;
`serving.runtime.model` is the thin loop around it. All times are seconds of one monotonic clock.

The rules, in the order in which they bind:

1. Only requests of equal signature share a batch; inside one signature and priority they start in order of arrival.
2. A batch is formed as late as possible: when an execution slot is free, with all that has queued by then.
3. Work-conserving: a free slot waits for nothing but (a) the operator's queue delay and (b) the *gap*: right after a
   batch, while the callers just answered are expected back. The gap ends when as many rows have come as were answered
   on top of those queued, after `gap_idle_s` without an arrival, or after `gap_limit_s` in all (of both a tenth of the
   batch's run time, if longer; of silence 5 ms at most). Time in which no caller could be heard counts for little, up to
   three times the limit: 50 us of that between two looks, as the core may be another's, and nothing that the process
   itself has worked since the answers left, perhaps in the thread that brings the callers. It is learned whether callers
   come back: where they do not (open-loop traffic), only one gap in sixteen is tried.
4. Nobody starves: a request of priority p runs before any that came more than (p - 1) x `priority_step_s` after it.
5. A request is refused at once when its predicted wait is over the bound or over its own deadline.

Cost per request does not grow with the queue: queues are deques, cancelled requests are dropped when reached (or when
they outnumber the living), and the choice among signatures is a heap of queue heads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Generic, Protocol, TypeVar

from serving.runtime.costs import Costs

WAITING, QUEUED, RUNNING, DONE = range(4)
"""Life of a request as the batcher sees it; DONE once answered, cancelled or expired."""


class Item(Protocol):
    """A request as the batcher sees it. `priority` is 1 (highest) to the policy's `levels`."""

    rows: int
    signature: Hashable
    priority: int
    enqueued: float
    deadline: float
    state: int


_GAP_SHARE = 0.1
_GAP_IDLE_LIMIT_S = 5e-3
_GAP_STRETCH = 3.0
_LOOK_S = 50e-6

I = TypeVar("I", bound=Item)  # noqa: E741


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """How one model's requests are merged, or each run alone without `merge`; sizes in rows, times in seconds."""

    max_rows: int = 1
    merge: bool = True
    preferred_rows: tuple[int, ...] = ()
    delay_s: float = 0.0
    max_wait_s: float = 1.0
    default_timeout_s: float = 60.0
    levels: int = 1
    priority_step_s: float = 1.0
    slots: int = 1
    gap_idle_s: float = 100e-6
    gap_limit_s: float = 1e-3


class Batch(Generic[I]):
    """Requests that run together, and why now.

    `reason`: `idle` (a slot was free when they came), `full` (the batch reached its largest size), `backlog` (they
    queued while the slot was busy), `returned` (the callers just answered are back), `gap` (the gap ended without
    them), `delay` (the queue delay ended), `preferred` (a preferred size was reached), `oversize` (one request larger
    than a batch), `isolated` (a batch failed and its requests run again in halves, to find the guilty one).
    """

    __slots__ = (
        "deadline",
        "ends",
        "formed",
        "inline",
        "items",
        "oldest",
        "reason",
        "rows",
        "run_rows",
        "seconds",
        "signature",
    )

    def __init__(self, items: list[I], rows: int, reason: str, formed: float, oldest: float) -> None:
        self.items = items
        self.rows = rows
        self.run_rows = rows
        self.reason = reason
        self.formed = formed
        self.oldest = oldest
        self.signature = items[0].signature
        self.seconds = 0.0
        self.inline = False
        self.deadline = 0.0
        self.ends = 0.0


class _Queue(Generic[I]):
    """Requests of one signature and priority, in order of arrival; the dead among them stay until reached."""

    __slots__ = ("head_start", "items", "key", "listed", "live", "rows")

    def __init__(self, key: tuple[Hashable, int], head_start: float) -> None:
        self.key = key
        self.items: deque[I] = deque()
        self.rows = 0
        self.live = 0
        self.head_start = head_start
        self.listed = False

    def drop_dead(self) -> None:
        items = self.items
        while items and items[0].state != QUEUED:
            items.popleft()


class Batcher(Generic[I]):
    """The queue of one loaded model; see the module's text for its rules."""

    def __init__(self, policy: BatchPolicy, costs: Costs) -> None:
        self.policy = policy
        self.costs = costs
        self.free = policy.slots
        self.queued = 0
        self.queued_rows = 0
        self.in_gap = False
        """Set by `poll`: it returned None only because a gap is open; poll again on the next turn of the loop."""
        self.wake_at: float | None = None
        """Set by `poll`: it returned None only because a queue delay runs until then."""
        self.expecting = False
        """A gap is open in which nobody has come and nobody looks: what then comes may be told of by `excuse` first."""
        self._queues: dict[tuple[Hashable, int], _Queue[I]] = {}
        self._heads: list[tuple[float, int, _Queue[I]]] = []
        self._deadlines: list[tuple[float, int, I]] = []
        self._sequence = 0
        self._ends: list[float] = []
        self._gap_rows = 0
        self._gap_opened = 0.0
        self._gap_idle_s = 0.0
        self._gap_limit_s = 0.0
        self._gap_looked = 0.0
        self._gap_silence_s = 0.0
        self._gap_spent_s = 0.0
        self._gap_heard = False
        self._gap_polled = False
        self._gap_answered = 0
        self._gap_arrived = 0
        self._gap_skipped = 0
        self._returning = 1.0
        self._late = False

    # ------------------------------------------------------------------ events

    def add(self, item: I, now: float, admitted: bool = False) -> float:
        """Queues a request and returns 0, or returns the predicted wait in seconds for which it is refused.

        `admitted`: part of a request that was let in before, never refused.
        """
        if self.queued and not self.free and not admitted:
            wait = self.predicted_wait(now)
            if wait > self.policy.max_wait_s or now + wait > item.deadline:
                return wait
        key = (item.signature, item.priority)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue(key, (item.priority - 1) * self.policy.priority_step_s)
        queue.items.append(item)
        queue.rows += item.rows
        queue.live += 1
        item.enqueued = now
        item.state = QUEUED
        self.queued += 1
        self.queued_rows += item.rows
        if not queue.listed:
            self._list(queue, now)
        if item.deadline < now + self.policy.default_timeout_s - 1e-3:
            # Only deadlines shorter than the default need an order of their own: the rest expire as they queued.
            self._sequence += 1
            heappush(self._deadlines, (item.deadline, self._sequence, item))
            if len(self._deadlines) > 2 * self.queued + 64:
                self._deadlines = [entry for entry in self._deadlines if entry[2].state == QUEUED]
                heapify(self._deadlines)
        if self._gap_rows:
            self._look(now)
            self.expecting = False
            patience = self._gap_idle_s if self._gap_heard else self._gap_limit_s
            if self._gap_silence_s > patience or self._gap_is_over(now):
                self._close_gap()
            else:
                self._gap_heard = True
                self._gap_silence_s = 0.0
                self._gap_arrived += item.rows
        return 0.0

    def cancel(self, item: I) -> bool:
        """Takes a request out of the queue (its caller hung up); False when it is not queued any more."""
        if item.state != QUEUED:
            return False
        item.state = DONE
        self._forget(item)
        queue = self._queues[item.signature, item.priority]
        if len(queue.items) > 2 * queue.live + 64:
            queue.items = deque(other for other in queue.items if other.state == QUEUED)
        return True

    def expire(self, now: float) -> list[I]:
        """Takes out, and returns, the queued requests whose deadline has passed."""
        expired: list[I] = []
        deadlines = self._deadlines
        while deadlines and (deadlines[0][0] <= now or deadlines[0][2].state != QUEUED):
            item = heappop(deadlines)[2]
            if item.state == QUEUED:
                self._end(item, expired)
        for queue in self._queues.values():
            queue.drop_dead()
            while queue.items and queue.items[0].deadline <= now:
                self._end(queue.items.popleft(), expired)
                queue.drop_dead()
        return expired

    def overdue(self, now: float) -> bool:
        """Whether a queued request with a deadline of its own has passed it; the usual ones have a timer."""
        return bool(self._deadlines) and self._deadlines[0][0] <= now

    def next_deadline(self) -> float | None:
        """When the earliest queued request expires; None when nothing is queued."""
        deadlines = self._deadlines
        while deadlines and deadlines[0][2].state != QUEUED:
            heappop(deadlines)
        earliest = deadlines[0][0] if deadlines else None
        for queue in self._queues.values():
            queue.drop_dead()
            if queue.items and (earliest is None or queue.items[0].deadline < earliest):
                earliest = queue.items[0].deadline
        return earliest

    def poll(self, now: float, patient: bool = True) -> Batch[I] | None:
        """The batch to start now; its slot is taken. None sets `in_gap` or `wake_at` where waiting is the reason.

        `patient` False closes an open gap at once (somebody else needs the processor).
        """
        self.in_gap = False
        self.wake_at = None
        if not self.free or not self.queued:
            return None
        reason = "backlog" if self._late else "idle"
        if self._gap_rows:
            if self.queued_rows >= self._gap_rows:
                reason = "returned"
            elif patient and self._gap_is_open(now):
                self.in_gap = True
                return None
            else:
                reason = "gap"
            self._close_gap()
        queue = self._oldest(now)
        if queue is None:
            return None
        batch = self._take(queue, now, reason)
        if batch is not None:
            self.free -= 1
            batch.ends = now + self.costs.predict(batch.rows)
            self._ends.append(batch.ends)
        return batch

    def finished(self, batch: Batch[I], now: float) -> None:
        """Gives the slot of a batch back, once its answers are on their way; `batch.seconds` is its measured run time (0 when it failed).

        A batch that ran inline opens no gap, and its loop decides which of its times are learned; nor does one of
        requests that are not merged.
        """
        self.free += 1
        self._ends.remove(batch.ends)
        self._late = self.queued > 0
        if batch.inline:
            return
        if batch.seconds:
            self.costs.learn(batch.run_rows, batch.seconds)
        if not self.policy.merge:
            return
        if self._returning < 0.25:
            # Callers do not come back: try a gap now and then only, to notice when they do.
            self._gap_skipped += 1
            if self._gap_skipped < 16:
                return
        self._gap_skipped = 0
        self._gap_rows = min(batch.rows + self.queued_rows, self.policy.max_rows)
        self._gap_opened = now
        self._gap_idle_s = max(self.policy.gap_idle_s, min(batch.seconds * _GAP_SHARE, _GAP_IDLE_LIMIT_S))
        self._gap_limit_s = max(self.policy.gap_limit_s, batch.seconds * _GAP_SHARE)
        self._gap_looked = now
        self._gap_silence_s = self._gap_spent_s = 0.0
        self._gap_heard = self._gap_polled = False
        self.expecting = True
        self._gap_answered = batch.rows
        self._gap_arrived = 0

    def excuse(self, seconds: float) -> None:
        """Takes so much of the time since the last look out of the gap's: it was spent on bringing who comes now."""
        self._gap_looked += seconds

    # ------------------------------------------------------------------ what can be asked

    def predicted_wait(self, now: float) -> float:
        """Seconds until a request that came now would start: the queue at the best batch size known, or one by one."""
        busy = 0.0 if self.free else max(min(self._ends) - now, 0.0)
        if self.policy.merge or not self.queued:
            work = self.queued_rows * self.costs.row_s
        else:
            work = self.queued * self.costs.predict(-(-self.queued_rows // self.queued))
        return busy + work / self.policy.slots

    # ------------------------------------------------------------------ inside

    def _list(self, queue: _Queue[I], now: float) -> None:
        """Enters a queue among those to choose from, by the virtual arrival of its head."""
        self._sequence += 1
        heappush(self._heads, (now + queue.head_start, self._sequence, queue))
        queue.listed = True

    def _oldest(self, now: float) -> _Queue[I] | None:
        """The queue whose living head has waited longest (by virtual arrival)."""
        heads = self._heads
        while heads:
            start, _, queue = heads[0]
            queue.drop_dead()
            if not queue.items:
                heappop(heads)
                queue.listed = False
                self._queues.pop(queue.key, None)
                continue
            actual = queue.items[0].enqueued + queue.head_start
            if actual > start:
                # The head that was listed is gone; its successor came later.
                heappop(heads)
                self._list(queue, queue.items[0].enqueued)
                continue
            return queue
        return None

    def _take(self, queue: _Queue[I], now: float, reason: str) -> Batch[I] | None:
        policy = self.policy
        limit = policy.max_rows if policy.merge else 0
        available = queue.rows
        if policy.levels > 1:
            available = sum(other.rows for other in self._siblings(queue))
        if policy.preferred_rows:
            fitting = [size for size in policy.preferred_rows if size <= available]
            if fitting:
                limit = fitting[-1]
                reason = "preferred"
        if policy.delay_s:
            # `wanted` is the size worth waiting for.
            wanted = policy.preferred_rows[-1] if policy.preferred_rows else policy.max_rows
            due = queue.items[0].enqueued + policy.delay_s
            if available < wanted:
                if now < due:
                    self.wake_at = due
                    return None
                reason = "delay"
        items: list[I] = []
        rows = self._fill(items, 0, queue, limit)
        if policy.levels > 1:
            for other in self._siblings(queue):
                if other is not queue and rows < limit:
                    rows = self._fill(items, rows, other, limit)
        if rows > policy.max_rows:
            reason = "oversize"
        elif rows == policy.max_rows and rows > 1:
            reason = "full"
        return Batch(items, rows, reason, now, items[0].enqueued)

    def _fill(self, items: list[I], rows: int, queue: _Queue[I], limit: int) -> int:
        """Moves requests from a queue until the next would not fit; the first of a batch always does."""
        source = queue.items
        taken = 0
        live = 0
        while source:
            item = source[0]
            if item.state != QUEUED:
                source.popleft()
                continue
            if rows + item.rows > limit and items:
                break
            source.popleft()
            item.state = RUNNING
            items.append(item)
            rows += item.rows
            taken += item.rows
            live += 1
        queue.rows -= taken
        queue.live -= live
        self.queued_rows -= taken
        self.queued -= live
        return rows

    def _siblings(self, queue: _Queue[I]) -> list[_Queue[I]]:
        """The queues of the same signature, highest priority first."""
        signature = queue.key[0]
        found = (self._queues.get((signature, level)) for level in range(1, self.policy.levels + 1))
        return [other for other in found if other is not None]

    def _forget(self, item: I) -> None:
        queue = self._queues[item.signature, item.priority]
        queue.rows -= item.rows
        queue.live -= 1
        self.queued_rows -= item.rows
        self.queued -= 1

    def _end(self, item: I, expired: list[I]) -> None:
        item.state = DONE
        self._forget(item)
        expired.append(item)

    def _look(self, now: float) -> None:
        """Adds the time since the last look to the gap's, as far as callers could have been heard in it."""
        passed = max(now - self._gap_looked, 0.0)
        if self._gap_polled and passed > _LOOK_S:
            # The loop spins, and was kept from it.
            passed = _LOOK_S
        self._gap_looked = now
        self._gap_silence_s += passed
        self._gap_spent_s += passed

    def _gap_is_open(self, now: float) -> bool:
        self._look(now)
        again, self._gap_polled = self._gap_polled, True
        self.expecting = False
        if self._gap_spent_s > self._gap_limit_s or self._gap_is_over(now):
            return False
        if not self._gap_heard:
            # The answers leave at the end of this turn of the loop: the silence is measured from the next one.
            self._gap_heard = again
            self._gap_silence_s = 0.0
            return True
        return self._gap_silence_s <= self._gap_idle_s

    def _gap_is_over(self, now: float) -> bool:
        """Whether it ends however little of it counts."""
        return now - self._gap_opened > self._gap_limit_s * _GAP_STRETCH

    def _close_gap(self) -> None:
        self.expecting = False
        share = self._gap_arrived / self._gap_answered
        self._returning += (min(share, 1.0) - self._returning) * 0.25
        self._gap_rows = 0
