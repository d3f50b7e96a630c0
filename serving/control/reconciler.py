"""The reconciler: one node's loop that makes what runs equal to what was asked.

Everything follows from the database and from what this node serves; whatever is lost on the way is found again at the
next look. Each endpoint that has something to do has a job, and jobs run side by side. The database may go away: what
is served goes on, and the loop tries again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from functools import partial
from math import inf
from time import monotonic
from typing import Any, Final

import msgspec

from serving.control import capacity, ledger, nodes, settling
from serving.control.capacity import Memory, TooLarge
from serving.control.deployer import Deployer, Resolved, reason
from serving.control.deployment import Deployment
from serving.control.ledger import Asked, View
from serving.control.settling import (
    IN_SERVICE,
    OLDER,
    OUT_OF_SERVICE,
    UPDATING,
    Interrupt,
    Observation,
    Promote,
    Refuse,
    Remove,
    Resume,
    Revert,
    Row,
    Transition,
)
from serving.control.store import Store
from serving.errors import ObjectStoreUnavailable, ServingError, StoreUnavailable, Unavailable
from serving.runtime.turns import Turns
from serving.runtime.wiring import ENDED, Fleet
from serving.settings import Settings
from serving.telemetry.accumulators import Histogram, Sample, freeze

log = logging.getLogger("serving.control")

SAFETY_S: Final = 5.0
"""The longest between two looks; each says that the node is alive."""

PATIENCE_S: Final = 20.0
"""How long what may pass (a store that cannot be reached) is tried again before it counts as a failure."""

LOADS: Final = 4
"""Endpoints that the fleet is told to load at a time."""

SLOW_S: Final = 5.0
"""One that takes longer does not count any more, so that it holds up no other."""

PASSING_S: Final = (0.25, 10.0)
LASTING_S: Final = (15.0, 300.0)
"""First and longest wait before another try: of what may pass, and of what an endpoint that should serve died of."""

LOST_S: Final = (0.2, 5.0)
"""The same for the database."""

SECONDS_BOUNDS: Final = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)


class Superseded(Exception):
    """Something else is asked of the endpoint by now."""


class Held(msgspec.Struct):
    """What the fleet serves under a name: of which generation, and made of what."""

    generation: int
    deployment: Deployment
    resolved: Resolved


class Failure(msgspec.Struct):
    """Why a generation is not served; `told` once the others are to know. Times by the monotonic clock."""

    generation: int
    since: float
    tries: int = 0
    again_at: float = 0.0
    reason: str = ""
    told: bool = False


class Job(msgspec.Struct):
    """What is done for an endpoint now; the generation is `OLDER` where it is withdrawn, which cannot be called off.

    While `loading` the fleet may serve it.
    """

    generation: int
    loading: bool = False
    task: asyncio.Task[None] | None = None


class Reconciler:
    """One node's part in the endpoints of the database. Lives on one loop."""

    def __init__(self, store: Store, fleet: Fleet, deployer: Deployer, node_id: str, settings: Settings) -> None:
        self._store = store
        self._fleet = fleet
        self._deployer = deployer
        self._node = node_id
        self._workers = settings.workers
        self._memory = Memory(settings.model_memory_bytes)
        self._loads = Turns(LOADS, SLOW_S)
        self._begun = False
        self._rows: dict[str, Row] = {}
        self._asked: dict[str, Asked] = {}
        self._held: dict[str, Held] = {}
        self._doubtful: set[str] = set()
        """Names of which it is not known what the fleet serves, since a call of it broke off."""
        self._failures: dict[str, Failure] = {}
        self._jobs: dict[str, Job] = {}
        self._tidying: asyncio.Task[None] | None = None
        self._untidy = True
        self._lost = 0
        self._outcomes: dict[str, Histogram] = {}
        fleet.on_lost(self._on_lost)

    # ------------------------------------------------------------------ the loop

    async def restore(self) -> None:
        """Brings back, together, what should be served and is on disk; the rest, and all else, is left to `run`."""
        try:
            self._see(await self._store.run(partial(ledger.begin, node=self._node)))
            self._begun = True
        except StoreUnavailable:
            try:
                # A disk that is full can still be read.
                self._see(await self._store.run(ledger.read))
            except StoreUnavailable:
                return
        found = await asyncio.gather(*(self._restorable(row) for row in self._rows.values()))
        ready = {
            row.name: (row, held) for row, held in found if held is not None and self._fits(row.name, held.resolved)
        }
        if not ready:
            return
        started = monotonic()
        try:
            whys = await self._fleet.deploy({name: held.resolved.versions for name, (_, held) in ready.items()})
        except Unavailable:
            for name in ready:
                self._memory.settle(name, loaded=False)
            return
        for name, (row, held) in ready.items():
            self._loaded(row, held, whys[name])
        log.info("%d of %d endpoints are back after %.3f s", len(self._held), len(self._rows), monotonic() - started)

    async def run(self) -> None:
        """Reconciles until cancelled."""
        try:
            while True:
                seen = self._store.news.count
                try:
                    await self._look()
                except StoreUnavailable:
                    self._lost += 1
                    await asyncio.sleep(_backoff(LOST_S, self._lost))
                    continue
                except Exception:
                    log.exception("endpoints could not be reconciled; trying again")
                    self._lost += 1
                    await asyncio.sleep(_backoff(LOST_S, self._lost))
                    continue
                self._lost = 0
                await self._store.news.wait(seen, self._pause())
        finally:
            await self._stop()

    async def leave(self) -> None:
        """Says that the node is gone, so that others need not wait for it."""
        with suppress(StoreUnavailable):
            await self._store.run(partial(nodes.leave, node=self._node))

    async def _look(self) -> None:
        """One look at what is asked for, and what follows from it."""
        if not self._begun:
            self._see(await self._store.run(partial(ledger.begin, node=self._node)))
            self._begun = True
        known = {name: asked.key for name, asked in self._asked.items()}
        view = await self._store.run(partial(ledger.look, node=self._node, made=self._made(), known=known))
        self._see(view)
        for row, transition in view.settled:
            self._report(row, transition)
        for name in {*self._rows, *self._held, *self._doubtful, *self._jobs, *self._failures}:
            self._attend(name)
        self._tidy()

    def _see(self, view: View) -> None:
        self._rows = {row.name: row for row in view.rows}
        self._asked = {name: asked for name, asked in self._asked.items() if name in self._rows} | dict(view.asked)

    def _made(self) -> dict[str, Observation]:
        """What this node makes of endpoints at this moment."""
        made: dict[str, Observation] = {}
        for name in {*self._held, *self._doubtful, *self._failures, *self._jobs}:
            held, failure, job = self._held.get(name), self._failures.get(name), self._jobs.get(name)
            if name in self._doubtful or (held is None and job is not None and job.loading):
                serving = OLDER
            else:
                serving = held.generation if held is not None else settling.NOTHING
            if failure is not None and failure.told:
                made[name] = Observation(serving, failure.generation, failure.reason)
            else:
                made[name] = Observation(serving)
        return made

    def _pause(self) -> float:
        """Seconds to the next look, if nothing happens."""
        now = monotonic()
        retries = [failure.again_at - now for name, failure in self._failures.items() if name not in self._jobs]
        return max(0.01, min((SAFETY_S, *retries)))

    # ------------------------------------------------------------------ one endpoint

    def _attend(self, name: str) -> None:
        """Starts or calls off what has to be done for an endpoint."""
        row, job = self._rows.get(name), self._jobs.get(name)
        deployment = self._wanted(row)
        failure = self._failures.get(name)
        if failure is not None and (row is None or deployment is None or failure.generation != row.generation):
            failure = None
            del self._failures[name]
        if job is not None:
            if (row is None or deployment is None or job.generation != row.generation) and job.generation != OLDER:
                assert job.task is not None
                job.task.cancel()
            return
        held = self._held.get(name)
        if row is None or deployment is None:
            if held is not None or name in self._doubtful:
                self._start(name, OLDER, self._withdraw(name), loading=True)
        elif (
            held is not None
            and name not in self._doubtful
            and (held.generation == row.generation or held.deployment == deployment)
        ):
            if self._failures.pop(name, None) is not None or held.generation != row.generation:
                held.generation = row.generation
                # It is to be written.
                self._store.news.tell()
        elif failure is None or monotonic() >= failure.again_at:
            self._start(name, row.generation, self._bring(row, deployment), loading=False)

    def _wanted(self, row: Row | None) -> Deployment | None:
        """What this node is to serve of an endpoint."""
        asked = self._asked.get(row.name) if row is not None else None
        return None if asked is None else asked.deployment

    def _start(self, name: str, generation: int, work: Coroutine[Any, Any, None], *, loading: bool) -> None:
        job = self._jobs[name] = Job(generation, loading)
        job.task = asyncio.get_running_loop().create_task(work)
        job.task.add_done_callback(partial(self._ended, name))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        del self._jobs[name]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the endpoint %s could not be reconciled; trying again", name, exc_info=error)
        # Whatever came of it is seen at the next look.
        self._store.news.tell()

    async def _bring(self, row: Row, deployment: Deployment) -> None:
        """Brings a deployment into force under its endpoint's name, or notes why that cannot be."""
        started = monotonic()
        outcome = "failed"
        try:
            held = await self._resolve(row, deployment)
            before = self._held.get(row.name)
            same = before is not None and before.resolved.versions == held.resolved.versions
            if same and row.name not in self._doubtful:
                self._held[row.name] = held
                outcome = "ok"
            elif await self._load(row, held, serves=same):
                outcome = "ok"
        except Superseded:
            outcome = "superseded"
        except asyncio.CancelledError:
            outcome = "superseded"
            raise
        except ObjectStoreUnavailable as error:
            self._fail(row, deployment, error.message, passing=True)
        except (StoreUnavailable, Unavailable) as error:
            # Nothing that is asked for is at fault.
            self._fail(row, deployment, error.message, passing=True, ours=True)
        except TooLarge as error:
            self._fail(row, deployment, error.message, passing=row.status in (IN_SERVICE, OUT_OF_SERVICE))
        except ServingError as error:
            self._fail(row, deployment, error.message, passing=False)
        except Exception:
            log.exception("the endpoint %s could not be deployed", row.name, extra=_about(row.name, deployment))
            self._fail(row, deployment, "the server failed; its log has the cause", passing=False)
        finally:
            self._outcomes.setdefault(outcome, Histogram(SECONDS_BOUNDS)).observe(monotonic() - started)

    async def _resolve(self, row: Row, deployment: Deployment) -> Held:
        """The deployment resolved to the model data that all nodes serve. Raises `Superseded` and `ServingError`s."""
        started = monotonic()
        while True:
            resolved = await self._deployer.resolve(row.name, deployment)
            if resolved.revisions.items() <= deployment.revisions.items():
                break
            pinned = await self._store.run(partial(ledger.pin, row=row, revisions=resolved.revisions))
            if pinned is None:
                raise Superseded
            deployment = pinned
            self._pinned(row, pinned)
            if resolved.revisions.items() <= pinned.revisions.items():
                break
        extra = _about(row.name, deployment)
        if resolved.artifact is not None:
            url, seconds = resolved.artifact.source.url, monotonic() - started
            log.info(
                "endpoint %s: %s is here, %d bytes, after %.3f s", row.name, url, resolved.bytes, seconds, extra=extra
            )
        for warning in resolved.warnings:
            log.warning("endpoint %s: %s", row.name, warning, extra=extra)
        return Held(row.generation, deployment, resolved)

    def _pinned(self, row: Row, pinned: Deployment) -> None:
        """Knows what was pinned without reading it again."""
        asked = self._asked.get(row.name)
        if asked is not None and asked.key == (row.generation, settling.wanted(row.status)):
            self._asked[row.name] = msgspec.structs.replace(asked, **{asked.wanted: pinned})

    async def _load(self, row: Row, held: Held, *, serves: bool) -> bool:
        """Has the fleet load it: whether it is in force in time. `serves`: it may do so already, and has its memory."""
        async with self._loads.turn():
            self._jobs[row.name].loading = True
            if not serves:
                await self._make_room(row, held.resolved)
            started = monotonic()
            try:
                async with asyncio.timeout(held.resolved.startup_s):
                    why = (await self._fleet.deploy({row.name: held.resolved.versions}))[row.name]
            except BaseException as error:
                self._doubtful.add(row.name)
                self._memory.settle(row.name, loaded=False)
                if not isinstance(error, TimeoutError):
                    raise
                limit = f"{held.resolved.startup_s:g} s (ContainerStartupHealthCheckTimeoutInSeconds)"
                self._fail(row, held.deployment, f"the model was not ready within {limit}", passing=False)
                return False
        if not why:
            seconds = monotonic() - started
            log.info("endpoint %s: loaded in %.3f s", row.name, seconds, extra=_about(row.name, held.deployment))
        self._loaded(row, held, why)
        return not why

    async def _make_room(self, row: Row, resolved: Resolved) -> None:
        """Sets memory aside. Raises `TooLarge`."""
        needed = self._needed(resolved)
        try:
            self._memory.reserve(row.name, needed)
        except TooLarge:
            if row.status not in (IN_SERVICE, OUT_OF_SERVICE) or row.name not in self._held:
                raise
            # What serves was refused meanwhile, so it makes room for what is to serve.
            await self._withdraw(row.name)
            self._memory.reserve(row.name, needed)

    def _loaded(self, row: Row, held: Held, why: str) -> None:
        """What the fleet made of it: "" or why it could not be loaded."""
        self._memory.settle(row.name, loaded=not why)
        if why:
            self._fail(row, held.deployment, held.resolved.told(why), passing=False)
            if why == ENDED:
                # Trying again would cost the other endpoints a worker each time.
                self._failures[row.name].again_at = inf
        else:
            self._held[row.name] = held
            self._doubtful.discard(row.name)
            self._untidy = True

    def _on_lost(self, name: str, why: str) -> None:
        """The fleet had to take an endpoint out of force."""
        held = self._held.pop(name, None)
        if held is None:
            return
        self._memory.drop(name)
        row = self._rows.get(name)
        if row is not None and row.generation == held.generation:
            self._fail(row, held.deployment, held.resolved.told(why), passing=False)
        self._store.news.tell()

    async def _withdraw(self, name: str) -> None:
        try:
            await self._fleet.withdraw([name])
        except Exception:
            log.exception("the endpoint %s could not be withdrawn; trying again", name)
            await asyncio.sleep(PASSING_S[0])
            return
        held = self._held.pop(name, None)
        self._doubtful.discard(name)
        self._memory.drop(name)
        self._untidy = True
        log.info("endpoint %s: withdrawn", name, extra=_about(name, held.deployment if held is not None else None))

    def _fail(self, row: Row, deployment: Deployment, why: str, *, passing: bool, ours: bool = False) -> None:
        """Notes why an endpoint could not be brought into force, and when it is tried again.

        What may pass is a failure after a while, and never where the fault is `ours`.
        """
        now = monotonic()
        failure = self._failures.get(row.name)
        if failure is None or failure.generation != row.generation:
            failure = self._failures[row.name] = Failure(row.generation, now)
        failure.tries += 1
        failure.again_at = now + _backoff(PASSING_S if passing else LASTING_S, failure.tries)
        told = not passing or (not ours and now - failure.since >= PATIENCE_S)
        if failure.tries == 1 or (told and not failure.told):
            again = "" if told else "; trying again"
            log.error("endpoint %s: %s%s", row.name, why, again, extra=_about(row.name, deployment))
        failure.reason = reason(why)
        failure.told = failure.told or told

    def _needed(self, resolved: Resolved) -> int:
        if resolved.artifact is None:
            # The models of a multi-model endpoint share model_cache_bytes.
            return 0
        return capacity.estimate(resolved.container, resolved.bytes, self._workers)

    # ------------------------------------------------------------------ the start

    async def _restorable(self, row: Row) -> tuple[Row, Held | None]:
        """What an endpoint served before, where all of it is on disk."""
        asked = self._asked[row.name]
        if row.status not in (IN_SERVICE, OUT_OF_SERVICE, UPDATING) or asked.current is None:
            return row, None
        try:
            resolved = await self._deployer.resolve_here(row.name, asked.current)
        except ServingError:
            # The loop meets it again, and says so.
            return row, None
        except Exception:
            log.exception("the endpoint %s could not be looked at", row.name)
            return row, None
        generation = OLDER if row.status == UPDATING else row.generation
        return row, None if resolved is None else Held(generation, asked.current, resolved)

    def _fits(self, name: str, resolved: Resolved) -> bool:
        try:
            self._memory.reserve(name, self._needed(resolved))
        except TooLarge:
            return False
        return True

    # ------------------------------------------------------------------ the rest

    def _tidy(self) -> None:
        """Removes model data that nothing needs any more, at a moment when nothing is being brought in."""
        if not self._untidy or self._jobs or self._tidying is not None:
            return
        self._untidy = False
        needed = [one for name, asked in self._asked.items() for one in self._needs(self._rows[name], asked)]
        artifacts = (held.resolved.artifact for held in self._held.values())
        further = [(artifact.source, artifact.revision) for artifact in artifacts if artifact is not None]
        self._tidying = asyncio.get_running_loop().create_task(self._keep(needed, further))

    async def _keep(self, needed: Iterable[Deployment], further: Iterable[Any]) -> None:
        try:
            if not await self._deployer.keep(needed, further):
                self._untidy = True
        except OSError as error:
            log.warning("model data that is not needed could not be removed: %s", error.strerror or error)
        finally:
            self._tidying = None

    @staticmethod
    def _needs(row: Row, asked: Asked) -> list[Deployment]:
        if settling.wanted(row.status) == "nothing":
            return []
        return [asked.target] + ([asked.current] if asked.current is not None else [])

    async def _stop(self) -> None:
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        for task in tasks:
            task.cancel()
        # What is being removed is removed to its end: nothing may be fetched into the same place meanwhile.
        await asyncio.gather(*tasks, *filter(None, (self._tidying,)), return_exceptions=True)

    def _report(self, row: Row, transition: Transition) -> None:
        """Says in the log what became of an endpoint."""
        self._untidy = True
        asked = self._asked.get(row.name)
        extra = _about(row.name, asked.target) if asked is not None else _about(row.name, None)
        match transition:
            case Promote() | Resume():
                log.info("endpoint %s: in service", row.name, extra=extra)
            case Refuse(why):
                log.error("endpoint %s: failed: %s", row.name, why, extra=extra)
            case Revert(why):
                log.error("endpoint %s: serves what it served before: %s", row.name, why, extra=extra)
            case Interrupt(why):
                log.error("endpoint %s: out of service: %s", row.name, why, extra=extra)
            case Remove():
                log.info("endpoint %s: deleted", row.name, extra=extra)

    def samples(self) -> list[Sample]:
        """The metrics of endpoints."""
        statuses: dict[str, int] = {}
        for row in self._rows.values():
            statuses[row.status] = statuses.get(row.status, 0) + 1
        found = [
            Sample("serving_endpoints", "gauge", (("status", status),), count) for status, count in statuses.items()
        ]
        for outcome, histogram in self._outcomes.items():
            labels = (("outcome", outcome),)
            found.append(Sample("serving_deployments", "counter", labels, sum(histogram.counts)))
            found.append(Sample("serving_deployment_seconds", "histogram", labels, freeze(histogram)))
        return found


def _about(name: str, deployment: Deployment | None) -> Mapping[str, str]:
    """What a log line about an endpoint carries."""
    variants = deployment.config.get("ProductionVariants") if deployment is not None else None
    return {"endpoint": name, "variant": variants[0].get("VariantName", "") if variants else ""}


def _backoff(limits: tuple[float, float], tries: int) -> float:
    first, most = limits
    return min(most, first * 2.0 ** min(tries - 1, 30)) * random.uniform(0.75, 1.0)  # noqa: S311 - it parts retries
