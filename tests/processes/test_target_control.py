"""The container contract and the repository API over targets, with workers that are played."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
import pytest

from serving.errors import BadRequest, InsufficientMemory, LoadFailed, ModelExists, TargetMissing, UnknownName
from serving.processes import target_control
from serving.processes.channel import Ask, Change, Changed, Held, Lease
from serving.processes.control import MULTI_MODEL
from serving.processes.handle import WorkerHandle
from serving.processes.target_control import TargetControl
from serving.processes.target_worker import WorkerEnded
from serving.runtime.placement import home
from serving.settings import Settings
from tests.processes.test_targets import ENDPOINT, Played, settled, until


class Server:
    """Played workers, and what callers ask of them."""

    def __init__(self, workers: int = 1) -> None:
        self.played = Played(workers, (MULTI_MODEL, ENDPOINT))
        self.control = TargetControl(Settings(workers=workers), self.played, self.played.targets)
        self._answered: set[tuple[WorkerHandle, int]] = set()

    async def ask(self, what: str, name: str | None = None, body: bytes = b"") -> Any:
        answer = await self.control.container(Ask(1, f"container-{what}", name, body))
        return orjson.loads(answer) if answer else None

    def asking(self, what: str, name: str | None = None, body: bytes = b"") -> asyncio.Future[Any]:
        return asyncio.ensure_future(self.ask(what, name, body))

    async def changed(self, number: int, what: str, target: str, error: str = "", message: str = "") -> None:
        """A worker that is told to change something has done so."""

        worker = self.played.handles[number]

        def told() -> list[Change]:
            sent = [one for one in self.played.sent(Change, number) if (worker, one.call) not in self._answered]
            return [one for one in sent if (one.what, one.target) == (what, target)]

        await until(lambda: bool(told()))
        call = told()[0].call
        self._answered.add((worker, call))
        self.played.tell(Changed(call, error, message), number)

    async def add(self, name: str) -> None:
        adding = self.asking("add", name, f"/models/{name}".encode())
        await self.changed(home((MULTI_MODEL.name, name), len(self.played.handles)), "load", name)
        await adding


def play(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


# ---------------------------------------------------------------------- the container contract


def test_a_model_is_added_described_listed_and_removed() -> None:
    async def test() -> None:
        server = Server()
        assert await server.ask("list") == {"models": []}
        await server.add("a")
        assert await server.ask("get", "a") == {"modelName": "a", "modelUrl": "/models/a"}
        assert await server.ask("list") == {"models": [{"modelName": "a", "modelUrl": "/models/a"}]}
        deleting = server.asking("delete", "a")
        await server.changed(0, "unload", "a")
        assert await deleting is None
        for what in ("get", "delete"):
            with pytest.raises(TargetMissing):
                await server.ask(what, "a")
        assert await server.ask("list") == {"models": []}

    play(test)


def test_a_model_that_is_there_or_on_its_way_cannot_be_added() -> None:
    async def test() -> None:
        server = Server()
        adding = server.asking("add", "a", b"/models/a")
        await settled()
        with pytest.raises(ModelExists):
            await server.ask("add", "a", b"/models/a")
        with pytest.raises(TargetMissing):
            await server.ask("delete", "a")
        await server.changed(0, "load", "a")
        await adding
        with pytest.raises(ModelExists):
            await server.ask("add", "a", b"/models/a")

    play(test)


@pytest.mark.parametrize("kind", [InsufficientMemory, LoadFailed])
def test_what_does_not_fit_or_cannot_be_loaded_is_told_and_its_name_is_free(kind: type[Exception]) -> None:
    async def test() -> None:
        server = Server()
        adding = server.asking("add", "a", b"/models/a")
        await server.changed(0, "load", "a", kind.__name__, "why")
        await server.changed(0, "unload", "a")
        with pytest.raises(kind, match="why"):
            await adding
        await server.add("a")

    play(test)


def test_pages_have_as_many_models_as_are_asked_for() -> None:
    async def test() -> None:
        server = Server()
        for name in ("b", "a", "c"):
            await server.add(name)
        first = await server.ask("list", None, b'{"limit":2,"after":""}')
        assert [model["modelName"] for model in first["models"]] == ["a", "b"]
        second = await server.ask("list", None, orjson.dumps({"limit": 2, "after": first["nextPageToken"]}))
        assert second == {"models": [{"modelName": "c", "modelUrl": "/models/c"}]}

    play(test)


def test_a_worker_that_ends_amid_a_load_is_replaced_and_the_load_tried_again() -> None:
    async def test() -> None:
        server = Server()
        adding = server.asking("add", "a", b"/models/a")
        await until(lambda: bool(server.played.sent(Change)))
        server.played.end(0)
        await server.changed(0, "load", "a")
        await adding
        assert await server.ask("get", "a")

    play(test)


def test_a_load_that_ends_a_worker_each_time_is_given_up() -> None:
    async def test() -> None:
        server = Server()
        adding = server.asking("add", "a", b"/models/a")
        for _ in range(3):
            await until(lambda: bool(server.played.sent(Change)))
            server.played.end(0)
        await server.changed(0, "unload", "a")
        with pytest.raises(WorkerEnded):
            await adding

    play(test)


def test_a_model_that_does_not_fit_waits_for_memory_that_others_can_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_control, "LEASE_S", 0.05)

    async def test() -> None:
        server = Server(workers=2)
        name = next(name for name in "abcdef" if home((MULTI_MODEL.name, name), 2) == 0)
        adding = server.asking("add", name, b"/models/a")
        await server.changed(0, "load", name, "InsufficientMemory", "it is too large")
        server.played.tell(Held(0, 0, 500), 1)
        server.played.tell(Held(0, 600, 500), 0)
        server.played.tell(Held(0, 0, 400), 1)
        assert server.played.sent(Lease, 0)[-1] == Lease(600)
        await server.changed(0, "load", name, "InsufficientMemory", "it is still too large")
        for number in range(2):
            await server.changed(number, "unload", name)
        with pytest.raises(InsufficientMemory, match="still"):
            await adding

    play(test)


def test_a_load_that_takes_long_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_control, "_AGAIN_S", 0.0)

    async def test() -> None:
        server = Server()
        adding = server.asking("add", "a", b"/models/a")
        await server.changed(0, "load", "a", "ModelLoading", "it takes long")
        await until(lambda: len(server.played.sent(Change)) == 2)
        await server.changed(0, "load", "a")
        await adding

    play(test)


def test_a_model_is_loaded_in_its_home_and_unloaded_everywhere() -> None:
    async def test() -> None:
        server = Server(workers=3)
        for name in ("a", "b", "c", "d"):
            await server.add(name)
        for number in range(3):
            loaded = {change.target for change in server.played.sent(Change, number)}
            assert loaded == {name for name in ("a", "b", "c", "d") if home((MULTI_MODEL.name, name), 3) == number}
        deleting = server.asking("delete", "a")
        await server.changed(0, "unload", "a")
        await server.changed(1, "unload", "a")
        await settled()
        assert not deleting.done()
        with pytest.raises(TargetMissing):
            await server.ask("get", "a")
        server.played.end(2)  # which unloads it too
        await deleting

    play(test)


def test_an_unload_that_fails_leaves_the_model_there() -> None:
    async def test() -> None:
        server = Server()
        await server.add("a")
        deleting = server.asking("delete", "a")
        await server.changed(0, "unload", "a", "InternalError", "it failed")
        with pytest.raises(Exception, match="it failed"):
            await deleting
        assert await server.ask("get", "a")

    play(test)


# ---------------------------------------------------------------------- the repository API


def test_targets_are_loaded_and_unloaded_by_name() -> None:
    async def test() -> None:
        server = Server()
        loading = asyncio.ensure_future(server.control.load("m:team/a:1.tar.gz", None))
        await server.changed(0, "load", "team/a:1.tar.gz")
        await loading
        assert server.played.sent(Change)[0].endpoint == "m"
        unloading = asyncio.ensure_future(server.control.unload("m:team/a:1.tar.gz"))
        await server.changed(0, "unload", "team/a:1.tar.gz")
        await unloading

    play(test)


def test_a_target_of_no_endpoint_and_one_with_settings_are_refused() -> None:
    async def test() -> None:
        server = Server()
        with pytest.raises(UnknownName, match="no multi-model endpoint 'other'"):
            await server.control.load("other:a", None)
        with pytest.raises(UnknownName):
            await server.control.unload("other:a")
        with pytest.raises(BadRequest, match="its own files"):
            await server.control.load("m:a", "{}")

    play(test)


def test_the_index_has_one_row_for_what_several_workers_tell_and_what_ended_one() -> None:
    async def test() -> None:
        server = Server()
        for _ in range(2):
            await server.played.load("bad", 1)
            server.played.end(0)
        told = [
            {"name": "m:b", "state": "UNAVAILABLE", "reason": "it is broken"},
            {"name": "m:a", "state": "UNAVAILABLE", "reason": "being loaded"},
            {"name": "m:a", "state": "READY", "reason": ""},
            {"name": "m:bad", "state": "UNAVAILABLE", "reason": "not known here"},
        ]
        rows = server.control.index(told, ready_only=False)
        assert [(row.name, row.version, row.state) for row in rows] == [
            ("m:a", "1", "READY"),
            ("m:b", "1", "UNAVAILABLE"),
            ("m:bad", "1", "UNAVAILABLE"),
        ]
        assert rows[1].reason == "it is broken"
        assert "ended" in (rows[2].reason or "")
        assert [row.name for row in server.control.index(told, ready_only=True)] == ["m:a"]

    play(test)
