"""Loads: models are loaded by every worker before they are wired, and one that ends or holds up its process costs no other.

A worker says what it loads before it does. Where it ends amid loads, those are suspected and loaded again one at a time,
with nothing beside them; the one that then ends a worker is it. A load that nobody waits for any more, and that does not
come to its end, goes with its process, which is replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from serving.errors import Unavailable
from serving.processes.channel import Began, Ended, Forget, Prepare, Prepared
from serving.processes.handle import Outcome, WorkerHandle
from serving.runtime.wiring import ENDED, EndpointWiring

ABANDONED_S: Final = 30.0
"""How long a load that nobody waits for may go on."""

WIRED_S: Final = 240.0
"""How long a worker may take for a model that others serve already."""

_DEATHS: Final = 2
"""A worker may be killed for reasons that lie elsewhere, but hardly twice amid the same load."""


class Team(Protocol):
    """The workers, as the supervisor keeps them."""

    @property
    def ready(self) -> bool:
        """Whether callers depend on them."""

    def workers(self) -> Sequence[WorkerHandle]:
        """Those that run, in order."""

    async def complete(self, *, settled: bool) -> Sequence[WorkerHandle]:
        """The same, once all are there, and with `settled` serve what is wired. Raises `Unavailable`."""

    def replace(self, worker: WorkerHandle, why: str) -> None:
        """Ends a worker, after what it has in flight, and starts another."""

    def lose(self, endpoint: EndpointWiring, why: str) -> None:
        """A model that was in force cannot be loaded by a new worker."""


class _Batch:
    """What is prepared together: why each failed, or "", the calls made for it, and those suspected, by position."""

    def __init__(self, endpoints: Sequence[EndpointWiring], patience_s: float | None) -> None:
        self.endpoints = endpoints
        self.patience_s = patience_s
        self.whys = [""] * len(endpoints)
        self.calls: list[int] = []
        self.suspects: set[int] = set()

    def turns(self) -> list[tuple[list[int], bool]]:
        """What is loaded together, and then each suspect alone."""
        trusted = [number for number in range(len(self.endpoints)) if number not in self.suspects]
        return [(trusted, False), *(([number], True) for number in sorted(self.suspects))]


class Loads:
    """What workers are to load, load, and could not load. Lives on the supervisor's loop."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self._last_call = 0
        self._deaths: list[EndpointWiring] = []
        """What workers loaded that was wired, when they ended."""

    async def prepare(
        self, endpoints: Sequence[EndpointWiring], patience_s: float | None
    ) -> tuple[list[str], list[int]]:
        """Loads in every worker: for each endpoint why that failed, or "", and what `forget` wants. Raises `Unavailable`.

        Once the server is ready one worker loads first, so that what ends a process ends one. With `patience_s`, what has
        not come so long after the last one counts as failed.
        """
        batch = _Batch(endpoints, patience_s)
        try:
            await self._prepare(batch)
        except (asyncio.CancelledError, Unavailable):
            self.forget(batch.calls)
            raise
        return batch.whys, batch.calls

    def forget(self, calls: Sequence[int]) -> None:
        """What was prepared and is not in force need not be kept."""
        if not calls:
            return
        known = frozenset(calls)
        for worker in self._team.workers():
            worker.channel.send(Forget(tuple(calls)))
            for load, began in worker.begun.items():
                if began.call in known:
                    self._limit(worker, load, ABANDONED_S)

    # ------------------------------------------------------------------ what workers tell

    def began(self, worker: WorkerHandle, message: Began) -> None:
        """A worker is about to load."""
        worker.begun[message.load] = message
        if not message.call:
            self._limit(worker, message.load, WIRED_S)

    def ended(self, worker: WorkerHandle, message: Ended) -> None:
        """A load has ended, well or not."""
        began = worker.begun.pop(message.load, None)
        if began is not None and not began.call:
            self._deaths = [endpoint for endpoint in self._deaths if endpoint != began.endpoint]

    def prepared(self, worker: WorkerHandle, message: Prepared) -> None:
        """What came of a `Prepare`."""
        load = worker.loads.pop(message.call, None)
        if load is not None and not load.done():
            load.set_result(Outcome(message.why))

    def buried(self, worker: WorkerHandle) -> None:
        """A worker has ended; who waits for its loads is told."""
        wired = [began.endpoint for began in worker.begun.values() if not began.call]
        worker.buried()
        for endpoint in wired:
            self._deaths.append(endpoint)
            if self._deaths.count(endpoint) >= _DEATHS:
                self._deaths = [other for other in self._deaths if other != endpoint]
                self._team.lose(endpoint, ENDED)

    # ------------------------------------------------------------------ how it is done

    async def _prepare(self, batch: _Batch) -> None:
        again = False
        while True:
            # A worker that was replaced loads what is wired first, and what is loaded alone is to be alone.
            workers = await self._team.complete(settled=again and self._team.ready)
            again = False
            for numbers, alone in batch.turns():
                if not await self._turn(batch, workers, numbers, alone):
                    again = True
                    break
            if not again:
                return

    async def _turn(self, batch: _Batch, workers: Sequence[WorkerHandle], numbers: Sequence[int], alone: bool) -> bool:
        """Loads those that have not failed; False where a worker ended meanwhile."""
        first = 1 if self._team.ready else len(workers)
        outcomes = await self._load(batch, workers[:first], numbers, alone)
        for number, outcome in outcomes:
            if outcome.suspect and alone:
                batch.whys[number] = ENDED
            elif outcome.suspect:
                batch.suspects.add(number)
        if any(outcome.ended for _, outcome in outcomes):
            return False
        # One of the others that ends meanwhile is replaced, and loads what is wired by then.
        await self._load(batch, workers[first:], numbers, alone)
        return True

    async def _load(
        self, batch: _Batch, workers: Sequence[WorkerHandle], numbers: Sequence[int], alone: bool
    ) -> list[tuple[int, Outcome]]:
        """What came of each load, after noting what failed."""
        wanted = [number for number in numbers if not batch.whys[number]]
        loads = [(number, self._ask(worker, batch, number, alone)) for worker in workers for number in wanted]
        await _settled([load for _, load in loads], batch.patience_s)
        late = Outcome(f"it was not loaded within {batch.patience_s} s")
        outcomes = [(number, load.result() if load.done() else late) for number, load in loads]
        for number, outcome in outcomes:
            batch.whys[number] = batch.whys[number] or outcome.why
        return outcomes

    def _ask(self, worker: WorkerHandle, batch: _Batch, number: int, alone: bool) -> asyncio.Future[Outcome]:
        load: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        if worker.leaving:
            load.set_result(Outcome(ended=True))
            return load
        self._last_call += 1
        batch.calls.append(self._last_call)
        worker.loads[self._last_call] = load
        worker.channel.send(Prepare(self._last_call, batch.endpoints[number], alone))
        return load

    def _limit(self, worker: WorkerHandle, load: int, seconds: float) -> None:
        """A load that still runs then goes with its process."""

        def look() -> None:
            began = worker.begun.get(load)
            if began is not None and not worker.leaving:
                self._team.replace(worker, f"its load of the model {began.endpoint.name} does not end")

        asyncio.get_running_loop().call_later(seconds, look)


async def _settled(loads: Sequence[asyncio.Future[Outcome]], patience_s: float | None) -> None:
    """Returns once all are done, or none is for so long."""
    waiting = {load for load in loads if not load.done()}
    when = asyncio.ALL_COMPLETED if patience_s is None else asyncio.FIRST_COMPLETED
    while waiting:
        done, waiting = await asyncio.wait(waiting, timeout=patience_s, return_when=when)
        if not done:
            return
