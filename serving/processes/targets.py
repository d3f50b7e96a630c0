"""Targets, as the supervisor sees them: artifacts for all workers, memory shared among them, and loads that end none twice.

Workers ask for artifacts and say what they load and hold. The decisions are those of `Suspects`, `Gate` and
`MemoryLeases`; this and `TargetWorker` carry them out.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Final, Protocol

from serving.control.capacity import system_free
from serving.errors import TargetMissing
from serving.processes.channel import Changed, Held, Lease, Locate, Release, TargetBegan, TargetEnded
from serving.processes.handle import WorkerHandle
from serving.processes.loads import Team
from serving.processes.memory_leases import MemoryLeases
from serving.processes.suspects import Key, Suspects
from serving.processes.target_registry import TargetRegistry
from serving.processes.target_worker import HeldArtifact, TargetWorker, WorkerEnded
from serving.runtime.wiring import EndpointWiring, Versions
from serving.settings import MEBIBYTE, Settings
from serving.telemetry.accumulators import Sample

UNKNOWN_BYTES: Final = 1024 * MEBIBYTE
"""What all targets may take of memory where nobody says it and the system cannot tell what is free."""

Message = Locate | Release | TargetBegan | TargetEnded | Held | Changed


class Artifacts(Protocol):
    """What gets artifacts onto the disk: `serving.control.target_artifacts`."""

    async def locate(self, wiring: EndpointWiring, target: str, revision: str) -> HeldArtifact | None:
        """The artifact of a target; None where its revision is still `revision`. Raises `ServingError`s."""

    async def locate_path(self, wiring: EndpointWiring, target: str, path: str, revision: str) -> HeldArtifact | None:
        """The same of a model on this machine."""

    def samples(self) -> list[Sample]:
        """The metrics of the disk."""


class Targets:
    """All targets of the server. Lives on the supervisor's loop.

    `wired` gives the wiring in force, `artifacts` what fetches, made when it is first wanted.
    """

    def __init__(
        self,
        settings: Settings,
        team: Team,
        wired: Callable[[], Versions],
        artifacts: Callable[[], Awaitable[Artifacts]],
    ) -> None:
        self._limit_s = settings.model_load_limit_s
        self._team = team
        self._wired = wired
        self._make_artifacts = artifacts
        self._making = asyncio.Lock()
        self._artifacts: Artifacts | None = None
        self.registry = TargetRegistry()
        self.suspects = Suspects()
        self._leases = MemoryLeases(budget(settings), settings.workers)
        self._workers: dict[WorkerHandle, TargetWorker] = {}
        self._leased = asyncio.Event()
        self._errors: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------ workers

    def started(self, worker: WorkerHandle) -> None:
        """A worker was started; its first lease is sent."""
        self._workers[worker] = TargetWorker(worker, self.suspects, self._errors, self._limit_s, self._team.replace)
        worker.channel.send(Lease(self._leases.joined(worker.number)))

    def buried(self, worker: WorkerHandle) -> None:
        """A worker has ended, and whatever it held is given back."""
        ended = self._workers.pop(worker, None)
        if ended is not None:
            ended.end()
            self._leases.left(worker.number)
            self._tell_leases()

    def close(self) -> None:
        """Nothing is fetched any more."""
        for task in self._tasks:
            task.cancel()

    def handle(self, worker: WorkerHandle, message: Message) -> None:
        """Takes a message of a worker that runs."""
        teller = self._workers[worker]
        if isinstance(message, Locate):
            teller.wants(message)
            task = asyncio.get_running_loop().create_task(teller.find(message, self._fetch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif isinstance(message, Release):
            teller.released(message)
        elif isinstance(message, TargetBegan):
            teller.began(message)
        elif isinstance(message, TargetEnded):
            teller.ended(message)
        elif isinstance(message, Changed):
            teller.changed(message)
        else:
            self._leases.told(worker.number, message.memory_bytes, message.pressure_bytes, message.lease_bytes)
            self._tell_leases()

    async def change(self, worker: WorkerHandle, what: str, key: Key) -> None:
        """Has a worker `load` or `unload` a target. Raises what it answers, and `WorkerEnded`."""
        asked = self._workers.get(worker)
        if asked is None:
            raise WorkerEnded
        await asked.change(what, key)

    def lease(self, worker: WorkerHandle) -> int:
        """What a worker's targets may take of memory."""
        return self._leases.lease(worker.number)

    async def grown(self, worker: WorkerHandle, before: int, within_s: float) -> bool:
        """Whether a worker's lease grows, from what it was before, within so long; that it cannot is said at once."""
        if before >= self._leases.most:
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self.lease(worker) <= before:
                    self._leased.clear()
                    await self._leased.wait()
                return True
        return False

    def _tell_leases(self) -> None:
        channels = {worker.number: worker.channel for worker in self._workers}
        for number, lease in self._leases.changes():
            channels[number].send(Lease(lease))
            self._leased.set()

    # ------------------------------------------------------------------ artifacts

    async def _fetch(self, asked: Locate) -> HeldArtifact | None:
        wiring = self._wiring(asked.endpoint)
        if wiring is None or wiring.targets is None:
            raise TargetMissing(f"there is no multi-model endpoint '{asked.endpoint}' any more")
        path = "" if wiring.targets.prefix else self.registry.url(asked.target)
        async with self._making:
            if self._artifacts is None:
                self._artifacts = await self._make_artifacts()
        if wiring.targets.prefix:
            return await self._artifacts.locate(wiring, asked.target, asked.revision)
        return await self._artifacts.locate_path(wiring, asked.target, path, asked.revision)

    def _wiring(self, endpoint: str) -> EndpointWiring | None:
        return next((one for one in self._wired() if one.name == endpoint and one.targets is not None), None)

    # ------------------------------------------------------------------ what others are told

    def serves(self, endpoint: str) -> bool:
        """Whether a multi-model endpoint of that name is in force."""
        return self._wiring(endpoint) is not None

    def samples(self) -> list[Sample]:
        """The metrics of all this; none where there is no multi-model endpoint and was none."""
        if not self._errors and all(wiring.targets is None for wiring in self._wired()):
            return []
        samples = [
            Sample("serving_target_locate_errors", "counter", (("reason", reason),), count)
            for reason, count in self._errors.items()
        ]
        for worker in self._workers:
            labels = (("worker", str(worker.number)),)
            samples.append(Sample("serving_target_lease_bytes", "gauge", labels, self.lease(worker)))
        samples.append(Sample("serving_target_budget_bytes", "gauge", (), self._leases.budget))
        samples.append(Sample("serving_target_suspects", "gauge", (), len(self.suspects)))
        samples.append(Sample("serving_target_refused", "gauge", (), len(self.suspects.refusals(monotonic()))))
        return samples + (self._artifacts.samples() if self._artifacts is not None else [])


def budget(settings: Settings) -> int:
    """What all targets may take of memory, in bytes."""
    if settings.model_cache_bytes is not None:
        return settings.model_cache_bytes
    free = system_free()
    return UNKNOWN_BYTES if free is None else max(free // 2, 1)
