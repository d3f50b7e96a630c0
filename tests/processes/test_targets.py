"""Targets in the supervisor, with workers and a disk that are played: who is answered what, when, and what is given back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from time import monotonic
from typing import Any, TypeVar, cast

import pytest

from serving.contract import ModelConfig
from serving.control.capacity import system_free
from serving.errors import LoadFailed, MissingExtra, ServingError, TargetMissing, Unavailable
from serving.processes import target_worker
from serving.processes import targets as targets_module
from serving.processes.channel import (
    Change,
    Changed,
    Found,
    Held,
    Lease,
    Locate,
    Release,
    TargetBegan,
    TargetEnded,
)
from serving.processes.control import MULTI_MODEL
from serving.processes.faults import raised
from serving.processes.gate import PATIENCE_S
from serving.processes.handle import WorkerHandle
from serving.processes.suspects import FIRST_S
from serving.processes.target_worker import BROKEN_S, PASSING_S, WorkerEnded
from serving.processes.targets import Targets
from serving.runtime.wiring import EndpointWiring, Located, TargetsWiring, Versions
from serving.settings import Settings
from serving.telemetry.accumulators import Sample

WITHIN_S = 5.0
ENDPOINT = EndpointWiring("m", "AllTraffic", "", "", ModelConfig(name="m"), TargetsWiring("s3://bucket/models/"))

T = TypeVar("T")


class Channel:
    """What a worker was sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: Any) -> None:
        self.sent.append(message)


class Copy:
    """An artifact on the disk."""

    def __init__(self, located: Located, disk: Disk) -> None:
        self.located = located
        self._disk = disk

    def release(self) -> None:
        self._disk.held.remove(self)


class Disk:
    """Implements `Artifacts`: all targets are there in the revision "1", but for those that fail or wait."""

    def __init__(self) -> None:
        self.held: list[Copy] = []
        self.asked: list[tuple[str, str, str]] = []
        self.errors: dict[str, Exception] = {}
        self.revisions: dict[str, str] = {}
        self.gates: dict[str, asyncio.Event] = {}

    async def locate(self, wiring: EndpointWiring, target: str, revision: str = "") -> Copy | None:
        return await self.locate_path(wiring, target, "", revision)

    async def locate_path(self, wiring: EndpointWiring, target: str, path: str, revision: str = "") -> Copy | None:
        self.asked.append((wiring.name, target, path))
        if target in self.gates:
            await self.gates[target].wait()
        if target in self.errors:
            raise self.errors[target]
        now = self.revisions.get(target, "1")
        if now == revision:
            return None
        own = EndpointWiring(wiring.name, wiring.variant, "onnx", f"/disk/{target}", ModelConfig(name=target))
        copy = Copy(Located(own, now, 100), self)
        self.held.append(copy)
        return copy

    def samples(self) -> list[Sample]:
        return [Sample("serving_target_disk_copies", "gauge", (), len(self.held))]


class Played:
    """Implements `Team` over workers that tests play."""

    ready = True

    def __init__(self, workers: int = 1, endpoints: Versions = (ENDPOINT,), **settings: Any) -> None:
        self.disk = Disk()
        self.made = 0
        self.endpoints = endpoints
        self.replaced: list[str] = []
        settings = {"model_cache_bytes": 1000, "workers": workers} | settings
        self.targets = Targets(Settings(**settings), self, lambda: self.endpoints, self._artifacts)
        self.handles = [self.start(number) for number in range(workers)]
        self._calls = 0

    async def _artifacts(self) -> Disk:
        self.made += 1
        await asyncio.sleep(0)
        return self.disk

    def start(self, number: int) -> WorkerHandle:
        worker = WorkerHandle(number, cast(Any, None), cast(Any, Channel()), -1)
        worker.version = 1
        self.targets.started(worker)
        return worker

    def end(self, number: int) -> None:
        """A worker ends, and another takes its place."""
        self.targets.buried(self.handles[number])
        self.handles[number] = self.start(number)

    def workers(self) -> Sequence[WorkerHandle]:
        return self.handles

    async def complete(self, *, settled: bool) -> Sequence[WorkerHandle]:
        return self.handles

    def replace(self, worker: WorkerHandle, why: str) -> None:
        self.replaced.append(why)
        worker.leaving = True

    def lose(self, endpoint: EndpointWiring, why: str) -> None:
        raise AssertionError(why)

    # ------------------------------------------------------------------ what workers do

    def tell(self, message: Any, number: int = 0) -> None:
        self.targets.handle(self.handles[number], message)

    def locate(self, target: str, number: int = 0, revision: str = "", endpoint: str = "m") -> int:
        self._calls += 1
        self.tell(Locate(self._calls, endpoint, target, revision), number)
        return self._calls

    def sent(self, kind: type[T], number: int = 0) -> list[T]:
        return [one for one in cast(Any, self.handles[number].channel).sent if isinstance(one, kind)]

    def answers(self, call: int, number: int = 0) -> list[Found]:
        return [found for found in self.sent(Found, number) if found.call == call]

    async def found(self, call: int, number: int = 0) -> Found:
        """The answer to a `Locate`, once it is there."""
        await until(lambda: bool(self.answers(call, number)))
        (found,) = self.answers(call, number)
        return found

    async def load(self, target: str, load: int, number: int = 0) -> int:
        """Finds a target and begins to load it; gives the call."""
        call = self.locate(target, number)
        assert (await self.found(call, number)).located is not None
        self.tell(TargetBegan(load, "m", target), number)
        return call

    def loaded(self, call: int, load: int, number: int = 0) -> None:
        self.tell(TargetEnded(load), number)
        self.tell(Release(call), number)

    async def error(self, call: int) -> tuple[ServingError, float]:
        found = await self.found(call)
        assert found.located is None
        return raised(found.error, found.message), found.retry_after_s


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - what is waited for is state of others
            await asyncio.sleep(0.001)


async def settled() -> None:
    """All that can go on without the clock has gone on."""
    for _ in range(50):
        await asyncio.sleep(0)


def play(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


# ---------------------------------------------------------------------- artifacts


def test_an_artifact_is_found_and_held_until_it_is_released() -> None:
    async def test() -> None:
        played = Played()
        call = played.locate("a")
        found = await played.found(call)
        assert found.located is not None
        assert found.located.wiring.artifact == "/disk/a"
        assert len(played.disk.held) == 1
        played.tell(Release(call))
        played.tell(Release(call))
        assert played.disk.held == []

    play(test)


def test_many_that_are_asked_for_at_once_have_one_disk() -> None:
    async def test() -> None:
        played = Played()
        calls = [played.locate(str(number)) for number in range(20)]
        for call in calls:
            assert (await played.found(call)).located is not None
        assert played.made == 1

    play(test)


def test_a_revision_that_is_still_the_same_is_told_so_and_holds_nothing() -> None:
    async def test() -> None:
        played = Played()
        found = await played.found(played.locate("a", revision="1"))
        assert (found.located, found.error) == (None, "")
        assert played.disk.held == []

    play(test)


@pytest.mark.parametrize(
    ("error", "kind", "believed_s"),
    [
        (TargetMissing("no such object"), TargetMissing, PASSING_S),
        (Unavailable("the store is down"), Unavailable, PASSING_S),
        (LoadFailed("it is no archive"), LoadFailed, BROKEN_S),
        (LoadFailed("the disk is full", retry_after_s=5.0), LoadFailed, 5.0),
        (MissingExtra("obstore is not installed"), LoadFailed, BROKEN_S),
        (ValueError("/secret"), ServingError, PASSING_S),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_cannot_be_found_is_told_with_how_long_to_believe_it(
    error: Exception, kind: type[ServingError], believed_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        played = Played()
        played.disk.errors["a"] = error
        raised_, retry_after_s = await played.error(played.locate("a"))
        assert isinstance(raised_, kind)
        assert "secret" not in raised_.message
        assert retry_after_s == believed_s

    play(test)
    assert bool(caplog.records) == isinstance(error, ValueError)


def test_an_endpoint_that_is_gone_has_no_models() -> None:
    async def test() -> None:
        played = Played(endpoints=())
        error, _ = await played.error(played.locate("a"))
        assert type(error) is TargetMissing
        assert played.disk.asked == []

    play(test)


def test_a_worker_that_ends_gives_back_what_it_held_and_what_it_was_still_to_get() -> None:
    async def test() -> None:
        played = Played()
        await played.found(played.locate("a"))
        played.disk.gates["b"] = asyncio.Event()
        late = played.locate("b")
        await until(lambda: len(played.disk.asked) == 2)
        played.end(0)
        assert played.disk.held == []
        played.disk.gates["b"].set()
        await settled()
        assert played.disk.held == []
        assert played.answers(late) == []

    play(test)


def test_what_is_released_before_it_is_found_is_not_kept() -> None:
    async def test() -> None:
        played = Played()
        played.disk.gates["a"] = asyncio.Event()
        call = played.locate("a")
        await until(lambda: len(played.disk.asked) == 1)
        played.tell(Release(call))
        played.disk.gates["a"].set()
        await settled()
        assert played.disk.held == []
        assert played.answers(call) == []

    play(test)


# ---------------------------------------------------------------------- suspects


def test_what_was_loading_when_a_worker_ended_is_loaded_alone_and_the_others_wait() -> None:
    async def test() -> None:
        played = Played()
        await played.load("a", 1)
        await played.load("b", 2)
        played.end(0)
        assert played.disk.held == []
        c = await played.load("c", 1)
        a = played.locate("a")
        d = played.locate("d")
        await settled()
        assert played.answers(a) == played.answers(d) == []
        played.tell(TargetEnded(1))
        assert (await played.found(a)).located is not None
        played.tell(Release(c))
        played.tell(TargetBegan(2, "m", "a"))
        await settled()
        assert played.answers(d) == []
        played.loaded(a, 2)
        assert (await played.found(d)).located is not None
        # It is cleared: others may load beside it from now on.
        b = played.locate("b")
        await settled()
        assert played.answers(b) == []

    play(test)


def test_one_that_ends_a_worker_alone_is_refused_until_its_artifact_is_another() -> None:
    async def test() -> None:
        played = Played()
        await played.load("a", 1)
        played.end(0)
        await played.load("a", 1)
        played.end(0)
        error, believed_s = await played.error(played.locate("a"))
        assert type(error) is LoadFailed
        assert "the worker process that loaded it ended" in error.message
        assert believed_s == BROKEN_S < FIRST_S
        assert played.disk.held == []
        played.disk.revisions["a"] = "2"
        call = await played.load("a", 1)
        played.loaded(call, 1)
        assert len(played.targets.suspects) == 1

    play(test)


def test_a_suspect_need_not_wait_for_what_is_not_loaded_after_all() -> None:
    async def test() -> None:
        played = Played()
        await played.load("a", 1)
        played.end(0)
        given_up = played.locate("b")
        await played.found(given_up)
        a, c = played.locate("a"), played.locate("c")
        await settled()
        assert played.answers(a) == []
        played.tell(Release(a))  # nor others for a suspect that nobody wants any more
        assert (await played.found(c)).located is not None
        a = played.locate("a")
        played.tell(Release(given_up))
        await settled()
        assert played.answers(a) == []
        played.tell(Release(c))
        assert (await played.found(a)).located is not None

    play(test)


def test_a_worker_that_is_told_to_end_has_no_suspects() -> None:
    async def test() -> None:
        played = Played()
        await played.load("a", 1)
        played.handles[0].leaving = True
        played.end(0)
        assert len(played.targets.suspects) == 0

    play(test)


def test_a_suspect_whose_turn_does_not_come_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        played = Played()
        await played.load("a", 1)
        played.end(0)
        await played.load("b", 1)
        call = played.locate("a")
        await settled()
        later = monotonic() + PATIENCE_S + 1.0
        monkeypatch.setattr(target_worker, "monotonic", lambda: later)
        other = played.locate("c")
        error, believed_s = await played.error(call)
        assert type(error) is Unavailable
        assert believed_s == PASSING_S
        assert (await played.found(other)).located is not None
        assert len(played.disk.held) == 2

    play(test)


def test_a_load_that_does_not_end_goes_with_its_worker_and_is_refused() -> None:
    async def test() -> None:
        played = Played(model_load_limit_s=0.01)
        call = await played.load("a", 1)
        await until(lambda: bool(played.replaced))
        assert played.replaced == ["its load of the model m:a does not end"]
        # It comes to its end after all, while the worker drains: that is too late.
        played.loaded(call, 1)
        played.end(0)
        error, _ = await played.error(played.locate("a"))
        assert type(error) is LoadFailed
        assert "longer than 0.01 s (model_load_limit_s)" in error.message

    play(test)


def test_a_load_that_ends_in_time_is_left_alone() -> None:
    async def test() -> None:
        played = Played(model_load_limit_s=0.01)
        call = await played.load("a", 1)
        played.loaded(call, 1)
        await played.load("b", 2)
        await until(lambda: bool(played.replaced))
        assert played.replaced == ["its load of the model m:b does not end"]

    play(test)


# ---------------------------------------------------------------------- memory


def test_memory_moves_from_one_worker_to_another() -> None:
    async def test() -> None:
        played = Played(workers=2)
        assert [played.sent(Lease, number) for number in range(2)] == [[Lease(500)], [Lease(500)]]
        played.tell(Held(10, 0, 500), 0)
        played.tell(Held(490, 200, 500), 1)
        assert played.sent(Lease, 0)[1:] == [Lease(310)]
        assert played.sent(Lease, 1)[1:] == []
        played.tell(Held(10, 0, 310), 0)
        assert played.sent(Lease, 1)[1:] == [Lease(690)]

    play(test)


def test_the_memory_of_a_worker_that_ended_is_leased_to_the_next() -> None:
    async def test() -> None:
        played = Played()
        played.end(0)
        assert played.sent(Lease) == [Lease(1000)]

    play(test)


def test_without_a_setting_the_budget_is_half_of_what_is_free() -> None:
    free = system_free()
    assert free is not None
    assert targets_module.budget(Settings()) == pytest.approx(free / 2, rel=0.5)
    assert targets_module.budget(Settings(model_cache_bytes=7)) == 7


# ---------------------------------------------------------------------- changes


def test_a_change_is_done_or_raises_what_the_worker_says() -> None:
    async def test() -> None:
        played = Played()
        done = asyncio.ensure_future(played.targets.change(played.handles[0], "load", ("m", "a")))
        failed = asyncio.ensure_future(played.targets.change(played.handles[0], "unload", ("m", "b")))
        await settled()
        first, second = played.sent(Change)
        assert (first.what, first.endpoint, first.target) == ("load", "m", "a")
        played.tell(Changed(second.call, "LoadFailed", "it is broken"))
        played.tell(Changed(first.call))
        await done
        with pytest.raises(LoadFailed, match="it is broken"):
            await failed

    play(test)


def test_a_change_ends_with_its_worker() -> None:
    async def test() -> None:
        played = Played()
        worker = played.handles[0]
        change = asyncio.ensure_future(played.targets.change(worker, "load", ("m", "a")))
        await settled()
        played.end(0)
        with pytest.raises(WorkerEnded):
            await change
        with pytest.raises(WorkerEnded):
            await played.targets.change(worker, "load", ("m", "a"))

    play(test)


# ---------------------------------------------------------------------- the container contract's names


def test_a_name_is_looked_up_where_it_was_named() -> None:
    async def test() -> None:
        played = Played(endpoints=(MULTI_MODEL,))
        played.targets.registry.add("a", "/opt/ml/models/a/model")
        assert (await played.found(played.locate("a", endpoint="multi-model"))).located is not None
        assert played.disk.asked == [("multi-model", "a", "/opt/ml/models/a/model")]
        error, _ = await played.error(played.locate("b", endpoint="multi-model"))
        assert type(error) is TargetMissing

    play(test)


# ---------------------------------------------------------------------- metrics


def test_metrics_tell_leases_suspects_and_errors_and_nothing_where_nothing_is_multi_model() -> None:
    async def test() -> None:
        assert Played(endpoints=()).targets.samples() == []
        played = Played(workers=2)
        played.disk.errors["x"] = LoadFailed("it is broken")
        await played.found(played.locate("x"))
        await played.load("a", 1)
        played.end(0)
        samples = {(sample.name, *sample.labels): sample.value for sample in played.targets.samples()}
        assert samples["serving_target_lease_bytes", ("worker", "1")] == 500
        assert samples[("serving_target_budget_bytes",)] == 1000
        assert samples[("serving_target_suspects",)] == 1
        assert samples[("serving_target_refused",)] == 0
        assert samples["serving_target_locate_errors", ("reason", "LoadFailed")] == 1
        assert samples[("serving_target_disk_copies",)] == 0

    play(test)
