"""Targets: the models of multi-model endpoints in one worker, each loaded when it is asked for.

`ModelCache` decides; this carries out what it says, on the worker's loop: artifacts are located by the supervisor, models
are loaded on threads, and callers wait until their model is there.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Protocol

from serving.codecs.base import Buffer
from serving.codecs.plan import InputPlan
from serving.contract import Container
from serving.errors import InternalError, LoadFailed, NotReady, ServingError, encodable
from serving.runtime.cache_actions import Drop, Load, Locate, Refuse, Serve, Unload
from serving.runtime.costs import Costs
from serving.runtime.dataplane import DataPlane
from serving.runtime.eviction import policy
from serving.runtime.invocation import Head, Reply
from serving.runtime.loading import load
from serving.runtime.model import Model
from serving.runtime.model_cache import ModelCache
from serving.runtime.routing import Endpoint, Moved
from serving.runtime.target_memory import TargetMemory
from serving.runtime.target_reports import TargetReports
from serving.runtime.turns import apart
from serving.runtime.wiring import EndpointWiring, Located
from serving.settings import Settings

if TYPE_CHECKING:
    from serving.runtime.multi_model import MultiModelEndpoint

log = logging.getLogger("serving.targets")

Key = tuple[str, str]
"""An endpoint and a target."""

_LEASE_S: Final = 4.0
"""Workers tell what they want once a second, and give up what they have before others get it."""

_LOCATES: Final = 1024
"""Artifacts that are asked for at a time: the supervisor bounds what is fetched, and what is on disk is not to wait for it."""

_LOADS: Final = 2
"""Models that are loaded at a time, where there are so many cores for each worker: on one core, loads side by side are no
sooner done, and what is loaded already answers later (the median of hits beside misses is 1.6 times as long)."""

_SLOW_S: Final = 1.0
"""A load that takes longer does not hold up the next one."""

_PRELOAD_AGAIN_S: Final = 5.0
"""How soon what is to be loaded from the beginning on, and could not be, is tried again."""

_REST_S: Final = 0.001
"""What goes out of use is told to the cache once in so long: hot models do so thousands of times a second."""


class Source(Protocol):
    """Who gets artifacts onto the disk, and who is told of loads before they begin, for they may end the process."""

    async def locate(self, endpoint: str, target: str, revision: str) -> tuple[int, Located | None]:
        """A number for `release`, and the artifact; None where its revision is still `revision`. Raises `ServingError`s.

        An error's `retry_after_s` tells how long it is to be believed.
        """

    def release(self, number: int) -> None:
        """The artifact is not read any more."""

    async def target_began(self, endpoint: str, target: str) -> int:
        """Returns once it is told, with a number for `target_ended`."""

    def target_ended(self, number: int) -> None:
        """The load has ended, well or not."""


class Forwarder(Protocol):
    """Who knows the other workers."""

    def forward(self, key: Key, plane: DataPlane, head: Head, body: Buffer, reply: Reply, arrived: float) -> bool:
        """Has another worker answer, where the target is not this one's; False: it is to be loaded here."""

    def is_home(self, key: Key) -> bool:
        """Whether this is the worker where a target is to be found."""


class Waiter(Hashable, Protocol):
    """Who waits for a target."""

    def served(self, endpoint: Endpoint) -> None:
        """It is loaded, and stays so while this runs."""

    def refused(self, error: ServingError) -> None:
        """It is not."""


class Targets:
    """All targets of one worker, within what it may take of memory. Lives on one event loop.

    `beside`: bytes that this process takes for something else, as far as is known.
    """

    def __init__(
        self,
        settings: Settings,
        source: Source,
        make: Callable[[Container, EndpointWiring, Costs], Model],
        forwarder: Forwarder | None = None,
        beside: Callable[[], int] = int,
    ) -> None:
        self._settings = settings
        self._source = source
        self._make = make
        self.forwarder = forwarder
        self.cache: ModelCache[Key, Waiter, Endpoint, tuple[int, Located]] = ModelCache(
            0,
            policy(settings.model_eviction),
            lambda endpoint: endpoint.model.in_use,
            refresh_s=settings.model_refresh_s,
            wait_s=settings.model_load_wait_s,
            locates=_LOCATES,
            loads=_LOADS if len(os.sched_getaffinity(0)) >= _LOADS * settings.workers else 1,
            slow_s=_SLOW_S,
        )
        self._memory = TargetMemory(beside, self._given_back)
        self._endpoints: dict[str, MultiModelEndpoint] = {}
        self._loop = asyncio.get_running_loop()
        self._preloads: dict[Key, float] = {}
        """What is to be loaded from the beginning on and was not yet, and when that is tried again."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._pumping = False
        self._timer: asyncio.TimerHandle | None = None
        self._rested: dict[Key, Endpoint] = {}
        self._too_large = 0
        self._leased = asyncio.Event()
        self._in_vain: float = math.inf
        """Estimates for which no lease came that suffices, since the last one came."""
        self._pressed = 0
        self._told = 0
        """The last event of the cache that was counted and logged."""
        self.reports = TargetReports(self.cache, self._endpoints, settings.model_eviction)

    # ------------------------------------------------------------------ endpoints

    def add(self, endpoint: MultiModelEndpoint) -> None:
        """Loads what an endpoint has loaded from its beginning on."""
        self._endpoints[endpoint.name] = endpoint
        for target in endpoint.targets.pinned:
            if self._is_home((endpoint.name, target)):
                self.cache.pin((endpoint.name, target))
        for target in (*endpoint.targets.pinned, *endpoint.targets.prewarmed):
            if self._is_home((endpoint.name, target)):
                self._preloads[endpoint.name, target] = 0.0
        self._load_preloads(perf_counter())
        self._pump()

    def _load_preloads(self, now: float) -> None:
        """Loads what is to be there from the beginning on, again and again until it was."""
        # Before the first lease there is room for nothing.
        if not self.cache.budget.bytes:
            return
        for key, again_at in list(self._preloads.items()):
            if key[0] not in self._endpoints or self.cache.get(key) is not None:
                del self._preloads[key]
            elif now >= again_at:
                self._preloads[key] = now + _PRELOAD_AGAIN_S
                self.cache.load(key, now, keep=self._endpoints[key[0]].targets.keep)

    def _is_home(self, key: Key) -> bool:
        return self.forwarder is None or self.forwarder.is_home(key)

    def remove(self, endpoint: MultiModelEndpoint) -> None:
        """Unloads all models of an endpoint; what is in flight is answered."""
        if self._endpoints.get(endpoint.name) is endpoint:
            del self._endpoints[endpoint.name]
        for target in endpoint.targets.pinned:
            self.cache.unpin((endpoint.name, target))
        moved = Moved(f"Endpoint {endpoint.name} was deleted or updated meanwhile; try again")
        for key in list(self.cache):
            if key[0] == endpoint.name:
                self._retire(key)
        self.cache.discard_where(lambda key: key[0] == endpoint.name, "its endpoint is gone", moved, perf_counter())
        # Who waited goes on with what takes its place, which may be added after this.
        self._loop.call_soon(self._pump)

    # ------------------------------------------------------------------ callers

    def want(self, key: Key, waiter: Waiter, deadline: float, *, keep: bool = True) -> None:
        """Has the waiter served or refused, maybe before this returns."""
        try:
            found = self.cache.want(key, waiter, deadline, perf_counter(), keep=keep)
        except ServingError as error:
            waiter.refused(error)
            return
        if found is not None:
            waiter.served(found)
        self._pump()

    def leave(self, key: Key, waiter: Waiter) -> None:
        """The waiter hung up."""
        self.cache.leave(key, waiter)
        self._pump()

    def copy(self, key: Key) -> None:
        """Loads a target for which nobody waits here: others answer what is asked for it, until it is there."""
        endpoint = self._endpoints.get(key[0])
        if endpoint is not None and endpoint.targets.keep:
            self.cache.load(key, perf_counter(), keep=endpoint.targets.keep)
            self._pump()

    def pin(self, key: Key) -> None:
        """A target that is loaded is not evicted from now on."""
        if self.cache.get(key) is not None:
            self.cache.pin(key)

    def unload(self, key: Key, reason: str) -> bool:
        """Takes a target out of memory, whether or not it is pinned; False where it is not there."""
        known = self._retire(key)
        self.cache.unpin(key)
        self.cache.discard(key, reason, LoadFailed(f"model '{key[1]}' was unloaded"), perf_counter())
        self._pump()
        return known

    def _retire(self, key: Key) -> bool:
        """Sends requests that know the way to a model another one, before it is taken out; False where it is not loaded.

        A model that is always in use would never be rid of them.
        """
        endpoint = self.cache.get(key)
        if endpoint is not None:
            endpoint.model.retire()
        return endpoint is not None

    def resize(self, budget: int) -> None:
        """What all targets may take of memory from now on, in bytes."""
        if budget > self.cache.budget.bytes:
            self._in_vain = math.inf
        self.cache.resize(budget, perf_counter())
        self._load_preloads(perf_counter())
        self._leased.set()
        self._pump()

    # ------------------------------------------------------------------ the loop around the cache

    def _pump(self) -> None:
        """Carries out all that the cache decides."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while (action := self.cache.poll(perf_counter())) is not None:
                self._carry_out(action)
        finally:
            self._pumping = False
        self._count()
        self._arm()

    def _carry_out(self, action: Any) -> None:
        if isinstance(action, Serve):
            self._tell(action.waiter.served, action.handle)
        elif isinstance(action, Refuse):
            self._tell(action.waiter.refused, action.error)
        elif isinstance(action, Locate):
            self._spawn(self._locate(action.key, action.revision))
        elif isinstance(action, Load):
            self._spawn(self._load(action.key, *action.located))
        elif isinstance(action, Unload):
            self._unload(action.key, action.handle)
        elif isinstance(action, Drop):
            self._source.release(action.located[0])

    def _tell(self, tell: Callable[[Any], None], what: Any) -> None:
        """One waiter's fault costs the others nothing."""
        try:
            tell(what)
        except Exception:
            log.exception("a request that waited for its model was lost")

    async def _locate(self, key: Key, revision: str) -> None:
        try:
            number, located = await self._source.locate(*key, revision)
        except Exception as error:
            fault = self._fault(key, error)
            believe_s, fault.retry_after_s = fault.retry_after_s, None
            self.cache.failed(key, fault, believe_s, perf_counter())
        else:
            if located is None:
                self._source.release(number)
                self.cache.unchanged(key, perf_counter())
            else:
                estimate = self._memory.estimate(located.wiring.container, located.bytes)
                if self._lacks(estimate):
                    self._too_large += estimate
                    await self._lease(estimate)
                self.cache.located(key, (number, located), estimate, located.revision, perf_counter())
        self._pump()

    def _lacks(self, estimate: int) -> bool:
        """Whether a model can never fit into what is leased now."""
        return self.cache.budget.scaled(estimate) > self.cache.budget.bytes

    async def _lease(self, estimate: int) -> None:
        """Waits for a lease into which a model fits: what other workers do not use may be on its way."""
        if self._settings.workers == 1 or estimate >= self._in_vain:
            return
        try:
            async with asyncio.timeout(_LEASE_S):
                while self._lacks(estimate):
                    self._leased.clear()
                    await self._leased.wait()
        except TimeoutError:
            self._in_vain = min(estimate, self._in_vain)

    async def _load(self, key: Key, number: int, located: Located) -> None:
        wiring = located.wiring
        began = 0
        before = self._memory.taken()
        try:
            began = await self._source.target_began(*key)
            started = perf_counter()
            work = partial(load, wiring.container, Path(wiring.artifact), wiring.config, self._settings, most_rows=1)
            container, costs = await apart(work, "load")
            endpoint = self._endpoint(key, wiring, container, costs)
        except Exception as error:
            self._memory.failed(wiring.container, before)
            self.cache.failed(key, self._fault(key, error, located), None, perf_counter())
        else:
            self._memory.loaded(wiring.container, located.bytes, before)
            self._retire(key)
            self.cache.loaded(key, endpoint, perf_counter() - started, perf_counter())
            # Who waits is answered first.
            self._pump()
        finally:
            self._loop.call_soon(self._load_ended, began, number)

    def _load_ended(self, began: int, number: int) -> None:
        if began:
            self._source.target_ended(began)
        self._source.release(number)
        self._measure()
        self._pump()

    def _endpoint(self, key: Key, wiring: EndpointWiring, container: Container, costs: Costs) -> Endpoint:
        try:
            multi = self._endpoints.get(key[0])
            if multi is None:
                raise NotReady(f"endpoint {key[0]} was deleted meanwhile")
            model = self._make(container, wiring, costs)
        except BaseException:
            container.close()
            raise
        endpoint = Endpoint(
            multi.name, multi.variant, model, InputPlan(container.spec, wiring.config.name), multi.statistics, key[1]
        )
        model.rested = partial(self._rests, key, endpoint)
        return endpoint

    def _unload(self, key: Key, endpoint: Endpoint) -> None:
        def done() -> None:
            self.cache.unloaded(key, endpoint, perf_counter())
            self._pump()

        endpoint.model.rested = lambda: None
        endpoint.model.retire()
        endpoint.model.close(done)

    def _rests(self, key: Key, endpoint: Endpoint) -> None:
        """A model went out of use; told to the cache a little later, for all such models at once."""
        if not self._rested:
            self._loop.call_later(_REST_S, self._tell_rested)
        self._rested[key] = endpoint

    def _tell_rested(self) -> None:
        rested, self._rested = self._rested, {}
        now = perf_counter()
        for key, endpoint in rested.items():
            times, endpoint.model.served = endpoint.model.served, 0
            if self.cache.get(key) is endpoint:
                self.cache.used(key, times, now)
        self.cache.idle(now)
        self._pump()

    def tick(self) -> None:
        """Tells the cache of models that were used and do not rest. For a clock to call, about once a second."""
        now = perf_counter()
        for key in list(self.cache):
            endpoint = self.cache.get(key)
            if endpoint is not None and endpoint.model.served:
                times, endpoint.model.served = endpoint.model.served, 0
                self.cache.used(key, times, now)
        self._load_preloads(now)
        self._pump()

    def _arm(self) -> None:
        """Sets the timer to the next moment at which something is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.cache.wake_at
        if due is not None and due < math.inf:
            self._timer = self._loop.call_later(max(due - perf_counter(), 0.0), self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._pump()

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _fault(self, key: Key, error: BaseException, located: Located | None = None) -> ServingError:
        """Why a target is not there, as its callers are told; the log has what nobody foresaw."""
        endpoint, target = key
        if not isinstance(error, ServingError):
            log.error("model %s:%s could not be loaded", endpoint, target, exc_info=error, extra={"endpoint": endpoint})
            return InternalError(f"model '{target}' could not be loaded; the server's log has the cause")
        if located is None:
            return error
        text = error.message.replace(located.wiring.artifact, target)
        return LoadFailed(encodable(f"model '{target}' cannot be loaded: {text}"))

    def _given_back(self) -> None:
        self._measure()
        self._pump()

    def _measure(self) -> None:
        """Tells the cache what all models take, while that can be told."""
        taken = self._memory.measure(none_there=not self.cache.budget.taken)
        if taken is not None:
            # Something is always under way while models come and go, and estimates know of it.
            self.cache.measured(taken, perf_counter(), force=True)

    # ------------------------------------------------------------------ what others are told

    def _count(self) -> None:
        """Counts and logs what happened in the cache since the last time."""
        for event in self.cache.events(self._told):
            self._told = event.number
            if event.what == "unloaded":
                self._memory.freed(event.bytes)
            endpoint = self._endpoints.get(event.key[0])
            if endpoint is None:
                continue
            endpoint.counts.count(event)
            # Those refused for a failure follow it, which the line before has told.
            if (event.what, event.reason) != ("refused", "failed"):
                endpoint.log.info("model %s %s", event.key[1], event.text)

    @property
    def pressure(self) -> int:
        """Bytes that were evicted, or too many to be loaded at all, since this was asked last."""
        pressed = self.cache.stats.evicted_bytes + self._too_large
        since, self._pressed = pressed - self._pressed, pressed
        return since
