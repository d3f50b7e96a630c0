"""The roster: all that the workers serve, of the models from the command line and of the endpoints of the control API.

Each side changes its own part; a name belongs to one of them. Changes that come while a snapshot is put in force share
the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Protocol

from serving.runtime.wiring import EndpointWiring, Versions

RESTORE_S: Final = 10.0
"""How long the server's start waits for the next endpoint of earlier; what takes longer comes when it runs."""


class Workers(Protocol):
    """The workers, as the supervisor runs them."""

    async def prepare(
        self, endpoints: Sequence[EndpointWiring], patience_s: float | None = None
    ) -> tuple[list[str], list[int]]:
        """Loads in every worker; for each endpoint why that failed, or "", and what `forget` wants. Raises `Unavailable`.

        With `patience_s`, what has not come so long after the last one counts as failed.
        """

    def forget(self, calls: Sequence[int]) -> None:
        """What was prepared and is not in force need not be kept."""

    async def put(self, endpoints: Versions, default: str | None) -> None:
        """Puts a snapshot in force in every worker; returns once it is."""


class Roster:
    """Holds both parts and puts them in force together, once `open` was called."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._models: Versions = ()
        self._default: str | None = None
        self._endpoints: dict[str, Versions] = {}
        self._lock = asyncio.Lock()
        self._changes = 0
        self._in_force = 0
        self._opened = False
        self._early: list[int] = []
        self._lost: Callable[[str, str], None] = lambda name, why: None

    async def open(self) -> None:
        """Puts the first snapshot in force. What was put before was only noted, so that callers see all of it at once."""
        self._opened = True
        await self._put()
        self._workers.forget(self._early)

    def take(self, name: str) -> str:
        """Why no model from the command line can have a name, or ""."""
        return f"an endpoint of the control API has the name '{name}'" if name in self._endpoints else ""

    # ------------------------------------------------------------------ models from the command line

    async def prepare(self, endpoints: Sequence[EndpointWiring]) -> tuple[list[str], list[int]]:
        """Loads models from the command line; see `Workers.prepare`."""
        taken = [self.take(endpoint.name) for endpoint in endpoints]
        free = [endpoint for endpoint, why in zip(endpoints, taken, strict=True) if not why]
        loaded, calls = await self._workers.prepare(free) if free else ([], [])
        whys = iter(loaded)
        return [why or next(whys) for why in taken], calls

    async def put_models(self, models: Versions, default: str | None, calls: Sequence[int]) -> None:
        """Puts the models from the command line in force, all of them, and forgets what was prepared for nothing."""
        self._models, self._default = models, default
        await self._settle(calls)

    # ------------------------------------------------------------------ endpoints of the control API (a `Fleet`)

    def names(self) -> Collection[str]:
        """Implements `Fleet`."""
        return {wiring.name for wiring in self._models}

    async def deploy(self, endpoints: Mapping[str, Versions]) -> dict[str, str]:
        """Implements `Fleet`."""
        taken = self.names()
        whys = {name: f"a model from the command line has the name '{name}'" for name in endpoints if name in taken}
        wirings = [wiring for name, versions in endpoints.items() if name not in whys for wiring in versions]
        patience_s = None if self._opened else RESTORE_S
        failures, calls = await self._workers.prepare(wirings, patience_s) if wirings else ([], [])
        for wiring, why in zip(wirings, failures, strict=True):
            if why:
                whys.setdefault(wiring.name, why)
        self._endpoints |= {name: versions for name, versions in endpoints.items() if name not in whys}
        await self._settle(calls)
        return {name: whys.get(name, "") for name in endpoints}

    def on_lost(self, lost: Callable[[str, str], None]) -> None:
        """Implements `Fleet`."""
        self._lost = lost

    def lose(self, endpoint: EndpointWiring, why: str) -> bool:
        """An endpoint cannot be served any more; False where it is none, or another model is noted for it by now."""
        if endpoint not in self._endpoints.get(endpoint.name, ()):
            return False
        del self._endpoints[endpoint.name]
        self._lost(endpoint.name, why)
        return True

    async def withdraw(self, names: Collection[str]) -> None:
        """Implements `Fleet`."""
        gone = [name for name in names if self._endpoints.pop(name, None) is not None]
        if gone:
            await self._settle(())

    # ------------------------------------------------------------------ how a change comes into force

    async def _settle(self, calls: Sequence[int]) -> None:
        if not self._opened:
            self._early += calls
            return
        try:
            await self._put()
        finally:
            self._workers.forget(calls)

    async def _put(self) -> None:
        """Returns once what is noted now is in force; whoever comes while another puts is served by the next one."""
        self._changes += 1
        mine = self._changes
        async with self._lock:
            if self._in_force >= mine:
                return
            noted = self._changes
            endpoints = (wiring for versions in self._endpoints.values() for wiring in versions)
            await self._workers.put((*self._models, *endpoints), self._default)
            self._in_force = noted
