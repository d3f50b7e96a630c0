"""What callers have done with targets: the multi-model container contract, and targets in the model repository's API.

A load is carried out by the worker that is the target's home, an unload by all.
Sources: SageMaker's contract for multi-model containers; Triton's model repository extension.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from time import monotonic
from typing import Any, Final

import msgspec
import orjson

from serving.contract import ModelConfig
from serving.errors import BadRequest, InsufficientMemory, ModelLoading, ServingError, Unavailable, UnknownName
from serving.processes.channel import Ask
from serving.processes.control import MULTI_MODEL, IndexRow
from serving.processes.handle import WorkerHandle
from serving.processes.loads import Team
from serving.processes.suspects import Key
from serving.processes.target_registry import PAGE, Named
from serving.processes.target_worker import WorkerEnded
from serving.processes.targets import Targets
from serving.runtime.placement import home
from serving.settings import Settings

log = logging.getLogger("serving.targets")

CHANGE_S: Final = 570.0
"""How long a load or unload may take: a little less than its caller waits."""

LEASE_S: Final = 4.0
"""How long memory of other workers may take to come: each tells once a second what it holds."""

_TRIES: Final = 3
"""A worker that ends amid a load is replaced, and the load tried again; by then it is refused."""

_AGAIN_S: Final = 0.5
"""How long after the worker said that it still loads it is asked again."""

_BEST: Final = ("READY", "LOADING", "UNLOADING", "UNAVAILABLE")
"""Of the states that a target has in several workers, the one to tell."""


class Listed(msgspec.Struct, frozen=True):
    """Which models to list: at most `limit`, those that follow the one named `after`."""

    limit: int = PAGE
    after: str = ""


class TargetControl:
    """Loads and unloads of targets for callers."""

    def __init__(self, settings: Settings, team: Team, targets: Targets) -> None:
        self._count = settings.workers
        self._team = team
        self._targets = targets
        self._registry = targets.registry

    # ------------------------------------------------------------------ the container contract

    async def container(self, ask: Ask) -> bytes:
        """Answers `container-list`, `-get`, `-add` and `-delete`. Raises `TargetMissing`, `ModelExists`, and what a load raises."""
        if ask.what == "container-list":
            return self._list(msgspec.json.decode(ask.body or b"{}", type=Listed))
        name = ask.name or ""
        if ask.what == "container-get":
            return orjson.dumps(_shown(self._registry.get(name)))
        if ask.what == "container-add":
            await self._add(name, ask.body.decode())
        else:
            await self._delete(name)
        return b""

    def _list(self, asked: Listed) -> bytes:
        page = self._registry.page(asked.after, asked.limit)
        shown: dict[str, Any] = {"models": [_shown(model) for model in page.models]}
        if page.next_token:
            shown["nextPageToken"] = page.next_token
        return orjson.dumps(shown)

    async def _add(self, name: str, url: str) -> None:
        self._registry.add(name, url)
        key = (MULTI_MODEL.name, name)
        try:
            await self._load(key)
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):
                # It may still be on its way into memory, where nothing would take it out again.
                await self._unload_quietly(key)
            self._registry.forget(name)
            raise
        self._registry.settle(name)
        log.info("model %s is loaded from %s", name, url, extra={"endpoint": MULTI_MODEL.name})

    async def _delete(self, name: str) -> None:
        self._registry.withhold(name)
        try:
            await self._unload((MULTI_MODEL.name, name))
        except BaseException:
            self._registry.settle(name)
            raise
        self._registry.forget(name)
        log.info("model %s is unloaded", name, extra={"endpoint": MULTI_MODEL.name})

    # ------------------------------------------------------------------ the repository API

    async def load(self, name: str, config: str | None) -> None:
        """Loads the target `ENDPOINT:TARGET`. Raises `BadRequest`, and what the load raises."""
        if config is not None:
            raise BadRequest(
                f"'{name}' is a model of a multi-model endpoint, which takes its settings from its own files"
            )
        await self._load(self._key(name))

    async def unload(self, name: str) -> None:
        """Takes the target `ENDPOINT:TARGET` out of memory; one that is not there is no error."""
        await self._unload(self._key(name))

    def index(self, told: Iterable[dict[str, str]], *, ready_only: bool) -> list[IndexRow]:
        """The targets that are loaded or known to be broken, from what all workers told of them, by name."""
        rows: dict[str, IndexRow] = {}
        for (endpoint, target), error in self._targets.suspects.refusals(monotonic()):
            name = f"{endpoint}:{target}"
            rows[name] = IndexRow(name, ModelConfig().version, "UNAVAILABLE", error.message)
        for one in told:
            row = IndexRow(one["name"], one.get("version") or ModelConfig().version, one["state"], one["reason"])
            known = rows.get(row.name)
            if known is None or _rank(row) < _rank(known):
                rows[row.name] = row
        return [row for _, row in sorted(rows.items()) if row.state == "READY" or not ready_only]

    def _key(self, name: str) -> Key:
        endpoint, _, target = name.partition(":")
        if not self._targets.serves(endpoint):
            raise UnknownName(f"there is no multi-model endpoint '{endpoint}', and '{name}' would be a model of it")
        return endpoint, target

    # ------------------------------------------------------------------ loads and unloads

    async def _load(self, key: Key) -> None:
        """Loads a target in its home, however long that takes, and once more where that worker ends meanwhile."""
        ends = 0
        try:
            async with asyncio.timeout(CHANGE_S):
                while True:
                    worker = await self._home(key)
                    before = self._targets.lease(worker)
                    try:
                        return await self._targets.change(worker, "load", key)
                    except InsufficientMemory:
                        # Others may have memory to spare, which comes once it is known that it is wanted.
                        if not await self._targets.grown(worker, before, LEASE_S):
                            raise
                    except ModelLoading:
                        await asyncio.sleep(_AGAIN_S)
                    except WorkerEnded:
                        ends += 1
                        if ends == _TRIES:
                            raise
        except TimeoutError as error:
            raise Unavailable(f"model '{key[1]}' was not loaded within {CHANGE_S:g} s") from error

    async def _home(self, key: Key) -> WorkerHandle:
        number = home(key, self._count)
        for worker in self._team.workers():
            if worker.number == number and worker.version > 0 and not worker.leaving:
                return worker
        workers = await self._team.complete(settled=True)
        return workers[number]

    async def _unload(self, key: Key) -> None:
        """Unloads a target in all workers; one that ends has unloaded it too."""
        workers = self._team.workers()
        changes = (self._targets.change(worker, "unload", key) for worker in workers)
        try:
            async with asyncio.timeout(CHANGE_S):
                outcomes = await asyncio.gather(*changes, return_exceptions=True)
        except TimeoutError as error:
            raise Unavailable(f"model '{key[1]}' was not unloaded within {CHANGE_S:g} s") from error
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, WorkerEnded):
                raise outcome

    async def _unload_quietly(self, key: Key) -> None:
        try:
            await self._unload(key)
        except ServingError as error:
            log.error("model %s may still be in memory: %s", key[1], error.message)


def _shown(model: Named) -> dict[str, str]:
    return {"modelName": model.name, "modelUrl": model.url}


def _rank(row: IndexRow) -> int:
    return _BEST.index(row.state) if row.state in _BEST else len(_BEST)
