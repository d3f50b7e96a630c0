"""One worker's targets, as the supervisor sees them: the artifacts that it asked for, what it loads, what it is to change."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final, Protocol

from serving.errors import ArtifactError, ConfigurationError, LoadFailed, ServingError, TargetMissing, Unavailable
from serving.processes.channel import Change, Changed, Found, Locate, Release, TargetBegan, TargetEnded
from serving.processes.faults import raised, told
from serving.processes.gate import Gate
from serving.processes.handle import WorkerHandle
from serving.processes.suspects import Key, Suspects
from serving.runtime.wiring import Located

log = logging.getLogger("serving.targets")

PASSING_S: Final = 1.0
"""How long a worker is to believe in an error that may be none a moment later: no such object, no answer of the store."""

BROKEN_S: Final = 30.0
"""How long in one that stays while the artifact does."""


class HeldArtifact(Protocol):
    """An artifact on the disk, which stays there until it is released."""

    @property
    def located(self) -> Located:
        """Where it is."""

    def release(self) -> None:
        """It is not read any more."""


class WorkerEnded(Unavailable):
    """The worker process ended meanwhile; try again."""


@dataclass(slots=True)
class _Call:
    """A `Locate`: the artifact that it holds, once there is one, and whether the worker was told."""

    key: Key
    held: HeldArtifact | None = None
    told: bool = False

    @property
    def revision(self) -> str:
        return self.held.located.revision if self.held is not None else ""


@dataclass(slots=True)
class _Load:
    key: Key
    revision: str
    limit: asyncio.TimerHandle
    endless: bool = False


class TargetWorker:
    """What one worker asked for, loads, and was asked, from its start to its end.

    `suspects` and `errors`, which counts what it could not be given, are shared by all. A load may take `limit_s`; then
    `replace` is called.
    """

    def __init__(
        self,
        handle: WorkerHandle,
        suspects: Suspects,
        errors: Counter[str],
        limit_s: float,
        replace: Callable[[WorkerHandle, str], None],
    ) -> None:
        self.handle = handle
        self._suspects = suspects
        self._errors = errors
        self._limit_s = limit_s
        self._replace = replace
        self._gate = Gate()
        self._calls: dict[int, _Call] = {}
        self._loads: dict[int, _Load] = {}
        self._changes: dict[int, asyncio.Future[None]] = {}
        self._last_change = 0
        self._wake: asyncio.TimerHandle | None = None
        self._ended = False

    def end(self) -> None:
        """It has ended: what it loaded is suspected of it, unless it was told to end."""
        self._ended = True
        if not self.handle.leaving:
            self._suspects.ended([(load.key, load.revision) for load in self._loads.values()], monotonic())
        for timer in (self._wake, *(load.limit for load in self._loads.values())):
            if timer is not None:
                timer.cancel()
        for number in list(self._calls):
            self._drop(number)
        for change in self._changes.values():
            if not change.done():
                change.set_exception(WorkerEnded())

    # ------------------------------------------------------------------ artifacts

    def wants(self, asked: Locate) -> None:
        """It asks for an artifact; `find` is to follow."""
        self._calls[asked.call] = _Call((asked.endpoint, asked.target))

    async def find(self, asked: Locate, fetch: Callable[[Locate], Awaitable[HeldArtifact | None]]) -> None:
        """Gives it the artifact, once it may load it, or the reason why not."""
        try:
            held = await fetch(asked)
        except Exception as error:
            self._fail(asked.call, _fault(asked, error))
            return
        call = self._calls.get(asked.call)
        if held is None:
            if self._calls.pop(asked.call, None) is not None:
                self.handle.channel.send(Found(asked.call))
        elif call is None:
            held.release()
        else:
            call.held = held
            now = monotonic()
            refused = self._suspects.refused(call.key, call.revision, now)
            if refused is not None:
                self._fail(asked.call, refused)
                return
            alone = self._suspects.alone(call.key, call.revision)
            self._gate.found(asked.call, call.key, now, alone=alone)
            self._admit()

    def released(self, message: Release) -> None:
        """It does not read an artifact any more."""
        self._drop(message.call)
        self._admit()

    def _fail(self, number: int, error: ServingError) -> None:
        """The answer to a `Locate` is an error."""
        if number not in self._calls:
            return
        self._drop(number)
        name, message = told(error)
        self._errors[name] += 1
        self.handle.channel.send(Found(number, None, name, message, believed_s(error)))

    def _admit(self) -> None:
        """Tells it what it may load now."""
        now = monotonic()
        for number, let_in in self._gate.admit(now):
            call = self._calls[number]
            if let_in:
                assert call.held is not None
                call.told = True
                self.handle.channel.send(Found(number, call.held.located))
            else:
                text = f"model '{call.key[1]}' is loaded alone, since a worker process ended while it was loaded; try again"
                self._fail(number, Unavailable(text))
        if self._wake is not None:
            self._wake.cancel()
        due = self._gate.wake_at(now)
        later = asyncio.get_running_loop().call_later
        self._wake = None if due is None else later(max(due - now, 0.0), self._admit)

    def _drop(self, number: int) -> None:
        """A `Locate` is done with."""
        call = self._calls.pop(number, None)
        self._gate.left(number)
        if call is not None and call.held is not None:
            call.held.release()

    # ------------------------------------------------------------------ loads

    def began(self, message: TargetBegan) -> None:
        """It loads a target."""
        key = (message.endpoint, message.target)
        revision = next((call.revision for call in self._calls.values() if call.key == key and call.told), "")
        limit = asyncio.get_running_loop().call_later(self._limit_s, self._endless, message.load)
        self._loads[message.load] = _Load(key, revision, limit)
        self._gate.began(key)

    def ended(self, message: TargetEnded) -> None:
        """A load has ended, well or not."""
        load = self._loads.pop(message.load, None)
        if load is None:
            return
        load.limit.cancel()
        if not load.endless:
            self._suspects.cleared(load.key, load.revision)
        self._gate.ended(load.key)
        self._admit()

    def _endless(self, number: int) -> None:
        """A load has not come to its end, and no thread can be ended: its process is replaced."""
        load = self._loads[number]
        load.endless = True
        self._suspects.endless(load.key, load.revision, self._limit_s, monotonic())
        if not self.handle.leaving:
            endpoint, target = load.key
            self._replace(self.handle, f"its load of the model {endpoint}:{target} does not end")

    # ------------------------------------------------------------------ changes

    async def change(self, what: str, key: Key) -> None:
        """Has it `load` or `unload` a target. Raises what it answers, and `WorkerEnded`."""
        if self._ended:
            raise WorkerEnded
        self._last_change += 1
        number = self._last_change
        change = self._changes[number] = asyncio.get_running_loop().create_future()
        self.handle.channel.send(Change(number, what, *key))
        try:
            await change
        finally:
            self._changes.pop(number, None)

    def changed(self, message: Changed) -> None:
        """It has done so, or not."""
        change = self._changes.pop(message.call, None)
        if change is None or change.done():
            return
        if message.error:
            change.set_exception(raised(message.error, message.message))
        else:
            change.set_result(None)


def believed_s(error: ServingError) -> float:
    """How long a worker is to believe in an error."""
    most = PASSING_S if isinstance(error, TargetMissing | Unavailable) else BROKEN_S
    return most if error.retry_after_s is None else min(error.retry_after_s, most)


def _fault(asked: Locate, error: Exception) -> ServingError:
    """Why a target is not there, in the words of a caller that wants to run it."""
    if isinstance(error, ArtifactError | ConfigurationError):
        return LoadFailed(f"model '{asked.target}' cannot be loaded: {error.message}")
    if isinstance(error, ServingError):
        return error
    log.error("model %s:%s could not be fetched", asked.endpoint, asked.target, exc_info=error)
    return raised(*told(error), PASSING_S)
