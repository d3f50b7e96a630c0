"""Targets of multi-model endpoints in one worker: real models, a real data plane, and a source of artifacts on this disk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from msgspec import structs

from serving.contract import BatchingConfig, ModelConfig
from serving.errors import InsufficientMemory, LoadFailed, ModelLoading, ServingError, TargetMissing
from serving.runtime import targets
from serving.runtime.caching import make_model
from serving.runtime.dataplane import DataPlane
from serving.runtime.invocation import Face, Head, Invocation
from serving.runtime.model import Pulse
from serving.runtime.multi_model import MultiModelEndpoint
from serving.runtime.response_cache import ResponseCache
from serving.runtime.routing import Snapshot
from serving.runtime.statistics import VariantStatistics
from serving.runtime.targets import Targets
from serving.runtime.wiring import EndpointWiring, Located, TargetsWiring
from serving.settings import Settings
from tests.support import many

MEBIBYTE = 1024 * 1024
WITHIN_S = 20.0


class Disk:
    """Implements `Source`: the artifacts that a test made, each found when the test lets it be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.located: list[str] = []
        self.loads: list[str] = []
        self.released = 0
        self.batching = BatchingConfig()
        self.open = asyncio.Event()
        self.open.set()

    def put(self, target: str, scale: float, *, weights: int = 0) -> None:
        """A model as the store has it from now on."""
        revision = self.folder / target / str(len(list(self.folder.glob(f"{target}/*"))))
        many.graph(revision, scale, weights=weights)

    async def locate(self, endpoint: str, target: str, revision: str) -> tuple[int, Located | None]:
        self.located.append(target)
        await self.open.wait()
        revisions = sorted((self.folder / target).glob("*"), key=lambda path: int(path.name))
        if not revisions:
            raise TargetMissing(f"there is no {target}", retry_after_s=0.05)
        newest = revisions[-1]
        if newest.name == revision:
            return len(self.located), None
        file = newest / "model.onnx"
        config = ModelConfig(name=f"{endpoint}:{target}", batching=self.batching)
        wiring = EndpointWiring(endpoint, "v1", "onnx", str(file), config)
        return len(self.located), Located(wiring, newest.name, file.stat().st_size)

    def release(self, number: int) -> None:
        self.released += 1

    async def target_began(self, endpoint: str, target: str) -> int:
        self.loads.append(target)
        return len(self.loads)

    def target_ended(self, number: int) -> None:
        """Nobody wants to know."""


class Caller:
    """Implements `Reply`."""

    def __init__(self) -> None:
        self.invocation: Invocation | None = None
        self.closed = False
        self.got: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def answer(self, invocation: Invocation, fields: bytes, body: bytes) -> None:
        self.got.set_result(orjson.loads(body))

    def fail(self, head: Head, error: ServingError) -> None:
        self.got.set_result(error)


class Worker:
    """One worker's data plane with one multi-model endpoint, `many`."""

    def __init__(self, folder: Path, settings: Settings, **wiring: Any) -> None:
        self.disk = Disk(folder)
        self.plane = DataPlane()
        pulse, cache = Pulse(), ResponseCache(settings.response_cache_bytes)
        self.targets = Targets(
            settings,
            self.disk,
            lambda container, wired, costs: make_model(cache, container, wired.config, costs, pulse),
            beside=lambda: self.beside,
        )
        self.beside = 0
        self.targets.resize(256 * MEBIBYTE)
        self._settings = settings
        self.endpoint = self.wire(**wiring)

    def endpoint_of(self, prefix: str = "s3://models/", **wiring: Any) -> MultiModelEndpoint:
        wired = EndpointWiring("many", "v1", "onnx", "", ModelConfig(), TargetsWiring(prefix, **wiring))
        return MultiModelEndpoint(wired, VariantStatistics("many", "v1"), self.targets, self._settings)

    def wire(self, **wiring: Any) -> MultiModelEndpoint:
        endpoint = self.endpoint_of(**wiring)
        self.plane.swap(Snapshot(1, [], "many", multi=[endpoint]))
        self.targets.add(endpoint)
        return endpoint

    def call(self, target: str, timeout_s: float | None = None, head: Head | None = None) -> Caller:
        caller = Caller()
        if head is None:
            head = Head(Face.RUNTIME, "many")
            head.content_type = "application/json"
            head.target_model = target
            head.timeout_s = timeout_s
        self.plane.invoke(head, orjson.dumps(many.ROWS), caller)
        return caller

    async def ask(self, target: str, timeout_s: float | None = None) -> Any:
        return await asyncio.wait_for(self.call(target, timeout_s).got, WITHIN_S)

    @property
    def loaded(self) -> int:
        return sum(view.loaded for view in self.targets.cache.entries())

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not condition():  # noqa: ASYNC110 - threads and timers change it
                await asyncio.sleep(0.002)


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


Run = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a scenario in a worker of its own."""

    def call(scenario: Callable[[Worker], Awaitable[None]], settings: Settings | None = None, **wiring: Any) -> None:
        async def main() -> None:
            worker = Worker(tmp_path / "store", settings or Settings(state_dir=tmp_path), **wiring)
            await scenario(worker)

        asyncio.run(main())

    return call


@contextmanager
def shut(disk: Disk) -> Iterator[None]:
    """Nothing is located meanwhile."""
    disk.open.clear()
    yield
    disk.open.set()


def test_a_thousand_callers_share_one_load(run: Run) -> None:
    async def scenario(worker: Worker) -> None:
        worker.disk.put("a", 2)
        with shut(worker.disk):
            callers = [worker.call("a") for _ in range(1000)]
        answers = await asyncio.gather(*(caller.got for caller in callers))
        assert answers == [many.answer(2)] * 1000
        assert worker.disk.located == worker.disk.loads == ["a"]
        assert worker.disk.released == 1
        assert worker.endpoint.counts.misses == 1000

    run(scenario)


def test_who_waits_too_long_is_told_and_the_load_goes_on(run: Run) -> None:
    async def scenario(worker: Worker) -> None:
        worker.disk.put("a", 2)
        with shut(worker.disk):
            error = await worker.ask("a", 0.05)
        assert isinstance(error, ModelLoading)
        assert worker.endpoint.statistics.errors_4xx == 1
        await worker.until(lambda: worker.targets.cache.get(("many", "a")) is not None)
        assert worker.disk.located == ["a"]

    run(scenario)


def test_who_hangs_up_is_not_answered(run: Run) -> None:
    async def scenario(worker: Worker) -> None:
        worker.disk.put("a", 2)
        with shut(worker.disk):
            gone, stays = worker.call("a"), worker.call("a")
            gone.closed = True
        assert await stays.got == many.answer(2)
        assert not gone.got.done()

    run(scenario)


def test_who_hangs_up_waits_no_longer(run: Run) -> None:
    async def scenario(worker: Worker) -> None:
        worker.disk.put("a", 2)
        with shut(worker.disk):
            gone, stays = worker.call("a"), worker.call("a")
            gone.closed = True
            assert gone.invocation is not None
            gone.invocation.route.model.cancel(gone.invocation)
            assert worker.targets.cache.waiting == 1
        assert await stays.got == many.answer(2)
        assert not gone.got.done()

    run(scenario)


def test_the_time_of_a_load_is_not_the_models_own(run: Run) -> None:
    async def scenario(worker: Worker) -> None:
        worker.disk.put("a", 2)
        worker.disk.batching = BatchingConfig(default_timeout_s=0.05)
        with shut(worker.disk):
            waits = worker.call("a")
            await asyncio.sleep(0.1)
        assert await waits.got == many.answer(2)

    run(scenario)


def test_a_head_that_is_remembered_finds_its_model_after_an_eviction(run: Run) -> None:
    async def scenario(worker: Worker) -> None:
        worker.disk.put("a", 2)
        head = Head(Face.RUNTIME, "many")
        head.content_type, head.target_model = "application/json", "a"
        assert await worker.call("a", head=head).got == many.answer(2)
        assert head.route is not None
        await worker.until(lambda: not worker.targets.cache.get(("many", "a")).model.in_use)  # type: ignore[union-attr]
        assert worker.targets.unload(("many", "a"), "tested")
        assert worker.targets.cache.get(("many", "a")) is None
        assert await worker.call("a", head=head).got == many.answer(2)
        assert worker.disk.loads == ["a", "a"]

    run(scenario)


def test_one_that_does_not_fit_waits_for_what_other_workers_can_spare(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(worker: Worker) -> None:
        worker.targets.resize(2 * MEBIBYTE)
        worker.disk.put("a", 2, weights=4 * MEBIBYTE)
        waits = worker.call("a")
        await worker.until(lambda: worker.targets.pressure > 0)
        assert not waits.got.done()
        worker.targets.resize(32 * MEBIBYTE)
        assert await waits.got == many.answer(2)

        monkeypatch.setattr(targets, "_LEASE_S", 0.05)
        worker.targets.resize(2 * MEBIBYTE)
        worker.disk.put("b", 2, weights=4 * MEBIBYTE)
        assert isinstance(await worker.ask("b"), InsufficientMemory)
        monkeypatch.setattr(targets, "_LEASE_S", 2 * WITHIN_S)
        worker.disk.put("c", 2, weights=4 * MEBIBYTE)
        assert isinstance(await worker.ask("c"), InsufficientMemory)

    run(scenario, Settings(state_dir=tmp_path, workers=2))


def test_a_broken_model_is_refused_until_it_may_be_whole(run: Run) -> None:
    async def scenario(worker: Worker) -> None:
        worker.disk.put("a", 2)
        file = next((worker.disk.folder / "a").glob("*/model.onnx"))
        file.write_bytes(b"no graph")
        error = await worker.ask("a")
        assert isinstance(error, LoadFailed)
        assert "a" in error.message
        assert str(file) not in error.message
        assert isinstance(await worker.ask("a"), LoadFailed)
        assert worker.disk.loads == ["a"]
        assert worker.targets.reports.states() == [{"name": "many:a", "state": "UNAVAILABLE", "reason": error.message}]

    run(scenario)


def test_a_missing_model_is_looked_for_again_soon(run: Run) -> None:
    async def scenario(worker: Worker) -> None:
        error = await worker.ask("late")
        assert isinstance(error, TargetMissing)
        assert error.retry_after_s is None
        worker.disk.put("late", 5)

        async def there() -> bool:
            return bool(await worker.ask("late") == many.answer(5))

        async with asyncio.timeout(WITHIN_S):
            while not await there():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    run(scenario)


def test_a_changed_model_takes_the_place_of_the_old_under_load(run: Run, tmp_path: Path) -> None:
    async def scenario(worker: Worker) -> None:
        worker.disk.put("a", 2)
        head = Head(Face.RUNTIME, "many")
        head.content_type, head.target_model = "application/json", "a"
        assert await worker.call("a", head=head).got == many.answer(2)
        worker.disk.put("a", 3)
        async with asyncio.timeout(WITHIN_S):
            while (answer := await worker.call("a", head=head).got) != many.answer(3):
                assert answer == many.answer(2)
        assert worker.disk.loads == ["a", "a"]
        await worker.until(lambda: any(event.what == "unloaded" for event in worker.targets.cache.events()))

    run(scenario, Settings(state_dir=tmp_path, model_refresh_s=0.01))


def test_a_changed_model_takes_the_place_of_one_that_never_rests(run: Run, tmp_path: Path) -> None:
    async def scenario(worker: Worker) -> None:
        worker.disk.put("a", 2)
        head = Head(Face.RUNTIME, "many")
        head.content_type, head.target_model = "application/json", "a"
        assert await worker.call("a", head=head).got == many.answer(2)
        old = worker.targets.cache.get(("many", "a"))
        assert old is not None
        old.model.hold()
        worker.disk.put("a", 3)
        async with asyncio.timeout(WITHIN_S):
            while (answer := await worker.call("a", head=head).got) != many.answer(3):
                assert answer == many.answer(2)
                worker.targets.tick()
        assert "in use" in {view.state for view in worker.targets.cache.entries()}
        old.model.release()
        await worker.until(lambda: any(event.what == "unloaded" for event in worker.targets.cache.events()))

    run(scenario, Settings(state_dir=tmp_path, model_refresh_s=0.01))


def test_a_model_that_is_not_to_be_kept_stays_until_it_was_looked_at(run: Run) -> None:
    async def scenario(worker: Worker) -> None:
        worker.disk.put("a", 2)
        head = Head(Face.OPEN_INFERENCE, "many")
        head.target_model = "a"
        found = await asyncio.wait_for(worker.plane.settled(head), WITHIN_S)
        assert found.target == "a"
        assert worker.disk.loads == ["a"]
        await worker.until(lambda: worker.targets.cache.get(("many", "a")) is None)

    run(scenario, keep=False)


def test_a_model_that_is_not_to_be_kept_goes_when_it_was_used(run: Run) -> None:
    async def scenario(worker: Worker) -> None:
        worker.disk.put("a", 2)
        assert await worker.ask("a") == many.answer(2)
        await worker.until(lambda: worker.targets.cache.get(("many", "a")) is None)
        assert await worker.ask("a") == many.answer(2)
        assert worker.disk.loads == ["a", "a"]

    run(scenario, keep=False)


def test_pinned_and_prewarmed_models_are_there_before_anybody_asks(run: Run, tmp_path: Path) -> None:
    many.graph(tmp_path / "store" / "p" / "0", 7)
    many.graph(tmp_path / "store" / "w" / "0", 8)

    async def scenario(worker: Worker) -> None:
        await worker.until(lambda: worker.loaded == 2)
        assert worker.endpoint.counts.misses == 0
        assert await worker.ask("p") == many.answer(7)
        assert worker.endpoint.counts.misses == 0
        pinned = {view.key[1]: view.pinned for view in worker.targets.cache.entries()}
        assert pinned == {"p": True, "w": False}

    run(scenario, pinned=("p",), prewarmed=("w",))


def test_an_endpoint_that_goes_takes_its_models_along(run: Run) -> None:
    async def scenario(worker: Worker) -> None:
        worker.disk.put("a", 2)
        worker.disk.put("b", 3)
        assert await worker.ask("a") == many.answer(2)
        with shut(worker.disk):
            waits = worker.call("b")
            worker.plane.swap(Snapshot(2, [], None))
            worker.targets.remove(worker.endpoint)
            assert isinstance(await waits.got, ServingError)
        await worker.until(lambda: not list(worker.targets.cache.entries()))
        assert worker.targets.reports.samples() == []

    run(scenario)


def test_who_waits_goes_on_with_the_endpoint_that_takes_the_place_of_its_own(run: Run) -> None:
    async def scenario(worker: Worker) -> None:
        worker.disk.put("a", 2)
        with shut(worker.disk):
            waits = worker.call("a")
            head = Head(Face.OPEN_INFERENCE, "many")
            head.target_model = "a"
            settles = asyncio.ensure_future(worker.plane.settled(head))
            await asyncio.sleep(0)
            before = worker.endpoint
            after = worker.endpoint_of(prewarmed=("b",))
            worker.plane.swap(Snapshot(2, [], "many", multi=[after]))
            worker.targets.remove(before)
            worker.targets.add(after)
            worker.disk.put("a", 9)
        assert await waits.got == many.answer(9)
        assert (await settles).target == "a"

    run(scenario)


def test_hits_never_fall(run: Run) -> None:
    async def scenario(worker: Worker) -> None:
        def hits() -> float:
            found = (one.value for one in worker.targets.reports.samples() if one.name == "sagemaker_model_cache_hits")
            return float(next(found))  # type: ignore[arg-type]

        seen = 0.0
        for number in range(3):
            worker.disk.put(f"m{number}", number)
            for _ in range(4):
                caller = worker.call(f"m{number}")
                assert hits() >= seen
                await caller.got
                assert hits() >= seen
                seen = hits()
        assert isinstance(await worker.ask("none"), TargetMissing)
        assert hits() == 9

    run(scenario)


def test_what_others_take_and_what_models_left_behind_is_not_the_models(run: Run) -> None:
    async def scenario(worker: Worker) -> None:
        worker.targets.resize(24 * MEBIBYTE)
        for number in range(12):
            worker.disk.put(f"m{number}", number, weights=2 * MEBIBYTE)
        for _ in range(8):
            for number in range(12):
                assert await worker.ask(f"m{number}") == many.answer(number)
        assert worker.loaded >= 5
        assert worker.targets.cache.budget.scale < 1.5
        others = np.ones(64 * MEBIBYTE, np.uint8)
        worker.beside = others.nbytes
        for number in range(12):
            assert await worker.ask(f"m{number}") == many.answer(number)
        assert worker.loaded >= 5
        assert worker.targets.cache.budget.scale < 1.5

    run(scenario)


def test_only_what_is_loaded_can_be_pinned(run: Run) -> None:
    async def scenario(worker: Worker) -> None:
        worker.disk.put("a", 2)
        assert await worker.ask("a") == many.answer(2)
        assert isinstance(await worker.ask("none"), TargetMissing)
        assert not any(view.pinned for view in worker.targets.cache.entries())
        worker.targets.pin(("many", "a"))
        worker.targets.pin(("many", "none"))
        assert [view.key[1] for view in worker.targets.cache.entries() if view.pinned] == ["a"]

    run(scenario, prefix="")


def test_an_endpoint_of_another_prefix_has_models_of_its_own(run: Run) -> None:
    async def scenario(worker: Worker) -> None:
        worker.disk.put("a", 2)
        assert await worker.ask("a") == many.answer(2)
        before = worker.endpoint
        worker.disk.put("a", 9)
        after = worker.wire(keep=True, prewarmed=())
        assert structs.replace(before.wiring) == after.wiring
        worker.targets.remove(before)
        assert await worker.ask("a") == many.answer(9)

    run(scenario)


def test_the_process_keeps_nothing_of_models_that_came_and_went(run: Run) -> None:
    async def scenario(worker: Worker) -> None:
        for number in range(8):
            worker.disk.put(f"m{number}", number, weights=MEBIBYTE)

        async def round_trip() -> None:
            for number in range(8):
                assert await worker.ask(f"m{number}") == many.answer(number)
                worker.targets.unload(("many", f"m{number}"), "tested")
            await worker.until(lambda: not list(worker.targets.cache.entries()))

        await round_trip()
        descriptors = _descriptors()
        tasks = len(asyncio.all_tasks())
        for _ in range(5):
            await round_trip()
        assert _descriptors() <= descriptors
        assert len(asyncio.all_tasks()) <= tasks + 1
        assert worker.disk.released == len(worker.disk.located)

    run(scenario)


def test_what_is_on_disk_does_not_wait_for_a_store_that_hangs(run: Run) -> None:
    async def scenario(worker: Worker) -> None:
        for number in range(60):
            worker.disk.put(f"m{number}", number)
        with shut(worker.disk):
            waiting = [worker.call(f"m{number}") for number in range(59)]
            await worker.until(lambda: len(worker.disk.located) == 59)
            worker.disk.open.set()
            assert await worker.ask("m59") == many.answer(59)
        assert await asyncio.gather(*(caller.got for caller in waiting)) == [many.answer(n) for n in range(59)]

    run(scenario)


def test_a_pinned_model_that_was_not_there_is_loaded_when_it_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.runtime.targets._PRELOAD_AGAIN_S", 0.01)

    async def scenario(worker: Worker) -> None:
        await worker.until(lambda: bool(worker.disk.located))
        worker.disk.put("late", 6)

        def there() -> bool:
            worker.targets.tick()
            return worker.targets.cache.get(("many", "late")) is not None

        await worker.until(there)

    run(scenario, pinned=("late",))
