"""The reconciler with a real database: what runs becomes what was asked, whatever happens on the way."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import resource
import shutil
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import func, select

from serving.control import nodes, schema
from serving.control import reconciler as reconciler_module
from serving.control.deployer import Deployer
from serving.control.deployment import Deployment
from serving.control.reconciler import Reconciler
from serving.control.store import Store, Transaction
from serving.errors import ControlFault, StoreUnavailable, Unavailable
from serving.objects.store import ObjectStore, open_store
from serving.runtime.wiring import ENDED, Versions
from serving.settings import Aws, Settings
from tests.control.caller import Caller, arn, variant
from tests.control.conftest import PLACE, Clock
from tests.control.shelf import Shelf, packed

WITHIN_S = 20.0
BROKEN = b"broken"


class Workers:
    """Workers that serve whatever holds no `BROKEN`; implements `serving.runtime.wiring.Fleet`."""

    def __init__(self) -> None:
        self.serving: dict[str, Versions] = {}
        self.calls: list[tuple[str, tuple[str, ...]]] = []
        self.gate = asyncio.Event()
        """Loading waits for it."""
        self.gate.set()
        self.loading = asyncio.Event()
        self.stopping = False
        self.deadly = False
        """Whether every load ends a worker."""

    def names(self) -> Collection[str]:
        return ()

    def on_lost(self, lost: Callable[[str, str], None]) -> None:
        self.lost = lost

    async def deploy(self, endpoints: Mapping[str, Versions]) -> dict[str, str]:
        self.calls.append(("deploy", tuple(sorted(endpoints))))
        self.loading.set()
        await self.gate.wait()
        if self.stopping:
            raise Unavailable("the server is stopping")
        whys = {name: ENDED if self.deadly else self._why(versions) for name, versions in endpoints.items()}
        self.serving |= {name: versions for name, versions in endpoints.items() if not whys[name]}
        return whys

    async def withdraw(self, names: Collection[str]) -> None:
        self.calls.append(("withdraw", tuple(sorted(names))))
        for name in names:
            self.serving.pop(name, None)

    def content(self, name: str) -> bytes | None:
        """What is served under a name."""
        versions = self.serving.get(name)
        return Path(versions[0].artifact).read_bytes() if versions else None

    @staticmethod
    def _why(versions: Versions) -> str:
        artifact = Path(versions[0].artifact)
        return f"{artifact} is not a graph" if artifact.read_bytes() == BROKEN else ""


class Node:
    """A server's part of the control plane, from its start to its end."""

    def __init__(self, store: Store, shelf: ObjectStore, state_dir: Path, name: str = "node", **settings: Any) -> None:
        self.store = store
        self.call = Caller(store)
        self.workers = Workers()
        self.settings = Settings(state_dir=state_dir, model_memory_bytes=settings.pop("memory", 1 << 40), **settings)
        self.deployer = Deployer(self.settings, shelf)
        self.reconciler = Reconciler(store, self.workers, self.deployer, name, self.settings)
        self.tasks: list[asyncio.Task[None]] = []

    @contextlib.asynccontextmanager
    async def running(self, *, restored: bool = False) -> AsyncIterator[Node]:
        if restored:
            await self.reconciler.restore()
        self.tasks = [asyncio.ensure_future(work) for work in (self.reconciler.run(), self.store.watch(0.02))]
        try:
            yield self
        finally:
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

    async def do(self, operation: str, **parameters: Any) -> Any:
        """Calls an operation as the plane does: in a transaction that tells news."""
        document = await asyncio.to_thread(self.call, operation, **parameters)
        self.store.news.tell()
        return document

    async def create(self, name: str, model: str = "m", **members: Any) -> None:
        await self.do("CreateEndpoint", EndpointName=name, EndpointConfigName=await self.config(model, **members))

    async def update(self, name: str, model: str, **members: Any) -> None:
        await self.do("UpdateEndpoint", EndpointName=name, EndpointConfigName=await self.config(model, **members))

    async def config(self, model: str, **members: Any) -> str:
        name = f"{model}-{'-'.join(members) or 'config'}"
        with contextlib.suppress(ControlFault):
            await asyncio.to_thread(self.call.config, name, ProductionVariants=[variant(model, "blue", **members)])
        return name

    async def status(self, name: str) -> tuple[str | None, str | None]:
        """Status and reason; None where there is no such endpoint."""
        row = await asyncio.to_thread(self.row, name)
        return (None, None) if row is None else (row.status, row.failure_reason)

    def row(self, name: str) -> Any:
        table = schema.endpoints
        return self.store.transact(
            lambda tx: tx.connection.execute(select(table).where(table.c.name == name)).one_or_none()
        )

    async def until(self, name: str, status: str | None) -> str | None:
        """Waits for the status, and gives the reason."""
        found: tuple[str | None, str | None] = (None, None)

        async def reached() -> bool:
            nonlocal found
            found = await self.status(name)
            return found[0] == status

        await self.until_true(reached, lambda: f"{name} is {found}, {status} was expected")
        return found[1]

    async def until_true(self, condition: Callable[[], Awaitable[bool]], message: Callable[[], str] = str) -> None:
        ends = time.monotonic() + WITHIN_S
        while True:
            seen = self.store.news.count
            if await condition():
                return
            assert time.monotonic() < ends, message()
            await self.store.news.wait(seen, 0.05)


@pytest.fixture
def shelf() -> Shelf:
    found = Shelf()
    for name in ("m", "m2", "m3"):
        found.set(f"s3://bucket/{name}.tar.gz", packed({"model.onnx": name.encode()}))
    found.set("s3://bucket/broken.tar.gz", packed({"model.onnx": BROKEN}))
    return found


@pytest.fixture
def state_dir(blank_file: Path, tmp_path: Path) -> Path:
    """A server's state directory, its database still empty."""
    shutil.copy(blank_file, tmp_path)
    return tmp_path


@pytest.fixture
def store(state_dir: Path) -> Iterator[Store]:
    store = Store.open(None, state_dir, PLACE)
    call = Caller(store)
    for name in ("m", "m2", "m3", "broken", "absent"):
        call.model(name)
    yield store
    asyncio.run(store.close())


Test = Callable[[Node], Awaitable[None]]


@pytest.fixture
def play(store: Store, shelf: Shelf, state_dir: Path) -> Callable[..., None]:
    """Runs a test on a node, from its start to its end."""

    def run(test: Test, *, restored: bool = False, **settings: Any) -> None:
        async def main() -> None:
            async with Node(store, shelf, state_dir, **settings).running(restored=restored) as node:
                await test(node)

        asyncio.run(main())

    return run


Play = Callable[..., None]

# ---------------------------------------------------------------------- an endpoint's life


def test_a_new_endpoint(play: Play, shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def test(node: Node) -> None:
        await node.create("e")
        assert await node.until("e", "InService") is None
        row = node.row("e")
        assert row.target == row.current
        revisions = msgspec.json.decode(row.current, type=Deployment).revisions
        assert revisions == {"s3://bucket/m.tar.gz": shelf.info("s3://bucket/m.tar.gz").etag}
        assert node.workers.content("e") == b"m"
        assert node.workers.calls == [("deploy", ("e",))]
        await node.until_true(_async(lambda: ("serving_endpoints", (("status", "InService"),)) in samples(node)))
        assert samples(node)["serving_endpoints", (("status", "InService"),)] == 1
        assert samples(node)["serving_deployments", (("outcome", "ok"),)] == 1

    def samples(node: Node) -> dict[Any, Any]:
        return {(sample.name, sample.labels): sample.value for sample in node.reconciler.samples()}

    play(test)
    lines = [record for record in caplog.records if getattr(record, "endpoint", None) == "e"]
    assert {getattr(record, "variant", None) for record in lines} == {"blue"}
    texts = [record.getMessage() for record in lines]
    assert texts[0].startswith("endpoint e: s3://bucket/m.tar.gz is here, 1 bytes, after ")
    assert texts[1].startswith("endpoint e: loaded in ")
    assert texts[2] == "endpoint e: in service"


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("absent", "s3://bucket/absent.tar.gz: there is no such object"),
        ("broken", "s3://bucket/broken.tar.gz/model.onnx is not a graph"),
    ],
)
def test_an_endpoint_that_cannot_be(play: Play, model: str, reason: str) -> None:
    async def test(node: Node) -> None:
        await node.create("e", model)
        assert await node.until("e", "Failed") == reason
        assert not node.workers.serving
        await node.do("DeleteEndpoint", EndpointName="e")
        await node.until("e", None)
        # The name is free, and nothing of the failure is left.
        await node.create("e")
        await node.until("e", "InService")

    play(test)


def test_an_update(play: Play) -> None:
    async def test(node: Node) -> None:
        await node.create("e")
        await node.until("e", "InService")
        node.workers.gate.clear()
        node.workers.loading.clear()
        await node.update("e", "m2")
        await node.workers.loading.wait()
        assert await node.status("e") == ("Updating", None)
        assert node.workers.content("e") == b"m"
        node.workers.gate.set()
        assert await node.until("e", "InService") is None
        assert node.workers.content("e") == b"m2"
        assert node.row("e").target == node.row("e").current

    play(test)


def test_an_update_to_the_same_bytes_loads_nothing(play: Play) -> None:
    async def test(node: Node) -> None:
        await node.create("e")
        await node.until("e", "InService")
        await node.update("e", "m", ModelDataDownloadTimeoutInSeconds=70)
        await node.until("e", "InService")
        assert node.workers.calls == [("deploy", ("e",))]
        # And one to new bytes under the same URL does.
        shelf = node.deployer._artifacts._objects
        assert isinstance(shelf, Shelf)
        shelf.set("s3://bucket/m.tar.gz", packed({"model.onnx": b"newer"}))
        await node.update("e", "m")
        await node.until("e", "InService")
        assert node.workers.content("e") == b"newer"

    play(test)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("absent", "s3://bucket/absent.tar.gz: there is no such object"),
        ("broken", "s3://bucket/broken.tar.gz/model.onnx is not a graph"),
    ],
)
def test_an_update_that_cannot_be_ends_on_what_served(play: Play, model: str, reason: str) -> None:
    async def test(node: Node) -> None:
        await node.create("e")
        await node.until("e", "InService")
        before = node.row("e")
        await node.update("e", model)
        assert await node.until("e", "InService") == reason
        row = node.row("e")
        assert row.target == row.current == before.current
        assert row.generation > before.generation
        assert node.workers.content("e") == b"m"
        await node.update("e", "m2")
        assert await node.until("e", "InService") is None
        assert node.workers.content("e") == b"m2"

    play(test)


def test_an_update_that_does_not_fit_beside_what_serves(play: Play) -> None:
    async def test(node: Node) -> None:
        await node.create("e")
        await node.until("e", "InService")
        await node.update("e", "m2")
        reason = await node.until("e", "InService")
        assert reason is not None
        assert "the model needs about 4194308 bytes (4 MiB) of memory, beside the 4194306 bytes (4 MiB)" in reason
        assert "2097150 bytes (2 MiB) of model_memory_bytes are free" in reason
        assert node.workers.content("e") == b"m"
        # What another endpoint leaves is there for the next.
        await node.create("f")
        assert "needs about" in str(await node.until("f", "Failed"))
        await node.do("DeleteEndpoint", EndpointName="e")
        await node.until("e", None)
        await node.create("g", "m2")
        await node.until("g", "InService")

    play(test, memory=6 * 1024 * 1024)


def test_deleting(play: Play, state_dir: Path) -> None:
    async def test(node: Node) -> None:
        await node.create("e")
        await node.create("f", "m2")
        await node.until("e", "InService")
        await node.until("f", "InService")
        await node.do("AddTags", ResourceArn=arn("endpoint", "e"), Tags=[{"Key": "team", "Value": "fraud"}])
        await node.do("DeleteEndpoint", EndpointName="e")
        await node.until("e", None)
        assert set(node.workers.serving) == {"f"}

        async def tidy() -> bool:
            return len(list((state_dir / "artifacts").iterdir())) == 1

        await node.until_true(tidy)
        assert _serving(node.store) == {"f"}
        assert node.store.transact(lambda tx: tx.connection.execute(select(schema.tags.c.arn)).all()) == []

    play(test)


def test_deleting_while_it_is_fetched(play: Play, shelf: Shelf) -> None:
    async def test(node: Node) -> None:
        shelf.gate.clear()
        await node.create("e")
        await node.until_true(_async(lambda: "e" in node.reconciler._jobs))
        await node.do("DeleteEndpoint", EndpointName="e")
        await node.until("e", None)
        await node.create("e", "m2")
        shelf.gate.set()
        await node.until("e", "InService")
        assert node.workers.content("e") == b"m2"
        assert node.workers.calls == [("deploy", ("e",))]

    play(test)


def test_deleting_while_it_is_loaded(play: Play) -> None:
    """The load may never end: it is called off."""

    async def test(node: Node) -> None:
        node.workers.gate.clear()
        await node.create("e")
        await node.workers.loading.wait()
        await node.do("DeleteEndpoint", EndpointName="e")
        await node.until("e", None)
        assert node.workers.calls == [("deploy", ("e",)), ("withdraw", ("e",))]
        assert node.reconciler._memory.left() == 1 << 40

    play(test)


def test_a_slow_download_holds_up_nobody(play: Play, shelf: Shelf) -> None:
    async def test(node: Node) -> None:
        shelf.before_fetch = lambda url: shelf.gate.clear() if "m2" in url else None
        await node.create("slow", "m2")
        await node.until_true(_async(lambda: not shelf.gate.is_set()))
        shelf.before_fetch = lambda url: None
        waiting, shelf.gate = shelf.gate, type(shelf.gate)()
        shelf.gate.set()
        await node.create("quick", "m")
        await node.until("quick", "InService")
        assert await node.status("slow") == ("Creating", None)
        waiting.set()
        await node.until("slow", "InService")

    play(test)


def test_a_model_that_is_not_ready_in_time(play: Play) -> None:
    async def test(node: Node) -> None:
        await node.create("e")
        await node.until("e", "InService")
        node.workers.gate.clear()
        await node.config("m2", ContainerStartupHealthCheckTimeoutInSeconds=60)
        document = schema.endpoint_configs.c.document
        shorter = schema.endpoint_configs.update().values(document=func.replace(document, ":60", ":0.05"))
        node.store.transact(lambda tx: tx.connection.execute(shorter).close())
        await node.update("e", "m2", ContainerStartupHealthCheckTimeoutInSeconds=60)
        reason = await node.until("e", "InService")
        assert reason == "the model was not ready within 0.05 s (ContainerStartupHealthCheckTimeoutInSeconds)"
        node.workers.gate.set()
        # What serves is not known for certain: it is put in force once more, in the memory that it has.
        await node.until_true(_async(lambda: len(node.workers.calls) == 3 and not node.reconciler._jobs))
        assert [what for what, _ in node.workers.calls] == ["deploy"] * 3
        assert node.workers.content("e") == b"m"
        assert (await node.status("e"))[0] == "InService"

    play(test)


def test_what_a_new_worker_cannot_load(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler_module, "LASTING_S", (0.2, 0.2))

    async def test(node: Node) -> None:
        await node.create("e")
        await node.until("e", "InService")
        before = node.reconciler._memory.left()
        artifact = node.workers.serving.pop("e")[0].artifact
        node.workers.lost("e", f"{artifact} ended its process")
        reason = await node.until("e", "OutOfService")
        assert reason == "s3://bucket/m.tar.gz/model.onnx ended its process"
        await node.until("e", "InService")
        assert node.workers.content("e") == b"m"
        assert node.reconciler._memory.left() == before
        node.workers.lost("never", "it was not there")

    play(test)


def test_what_ends_workers_is_not_tried_again(
    store: Store, shelf: Shelf, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler_module, "LASTING_S", (0.01, 0.01))

    async def main() -> None:
        async with Node(store, shelf, state_dir).running() as first:
            await first.create("e")
            await first.until("e", "InService")
        node = Node(store, shelf, state_dir)
        node.workers.deadly = True
        async with node.running(restored=True):
            assert await node.until("e", "OutOfService") == ENDED
            await node.store.news.wait(node.store.news.count, 0.3)
            assert node.workers.calls == [("deploy", ("e",))]
            node.workers.deadly = False
            await node.update("e", "m2")
            await node.until("e", "InService")

    asyncio.run(main())


# ---------------------------------------------------------------------- what may pass


def test_a_store_that_comes_back(play: Play, shelf: Shelf) -> None:
    async def test(node: Node) -> None:
        shelf.down = True
        await node.create("e")
        await node.until_true(_async(lambda: "e" in node.reconciler._failures))
        assert await node.status("e") == ("Creating", None)
        shelf.down = False
        await node.until("e", "InService")

    play(test)


def test_a_store_that_stays_away(play: Play, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler_module, "PATIENCE_S", 0.2)
    monkeypatch.setattr(reconciler_module, "PASSING_S", (0.02, 0.05))

    async def test(node: Node) -> None:
        await node.create("e")
        await node.until("e", "InService")
        shelf.down = True
        await node.create("f", "m2")
        await node.update("e", "m3")
        expected = "s3://bucket/{}.tar.gz: the object store cannot be reached"
        assert await node.until("f", "Failed") == expected.format("m2")
        assert await node.until("e", "InService") == expected.format("m3")
        assert node.workers.content("e") == b"m"

    play(test)


def test_a_database_that_goes_away(play: Play, state_dir: Path) -> None:
    async def test(node: Node) -> None:
        await node.create("e")
        await node.until("e", "InService")
        node.workers.gate.clear()
        await node.create("f", "m2")
        await node.until_true(_async(lambda: len(node.workers.calls) == 2))
        (state_dir / "control.db").rename(state_dir / "away")
        node.workers.gate.set()
        await node.until_true(_async(lambda: node.reconciler._lost > 0 and "f" in node.workers.serving))
        assert node.workers.content("e") == b"m"
        (state_dir / "away").rename(state_dir / "control.db")
        await node.until("f", "InService")

    play(test)


def test_a_bug_does_not_end_the_loop(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    async def test(node: Node) -> None:
        made = node.reconciler._made
        node.reconciler._made = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
        await node.create("e")
        await node.until_true(_async(lambda: node.reconciler._lost > 0))
        node.reconciler._made = made  # type: ignore[method-assign]
        await node.until("e", "InService")

    play(test)
    assert "endpoints could not be reconciled" in caplog.text


# ---------------------------------------------------------------------- the end, and another start


def test_a_restart_brings_all_back_at_once_and_without_the_store(store: Store, shelf: Shelf, state_dir: Path) -> None:
    async def main() -> None:
        async with Node(store, shelf, state_dir).running() as node:
            for name, model in (("a", "m"), ("b", "m2"), ("c", "m3"), ("d", "absent")):
                await node.create(name, model)
            for name in ("a", "b", "c"):
                await node.until(name, "InService")
            await node.until("d", "Failed")
        shelf.down = True
        shelf.set("s3://bucket/m.tar.gz", packed({"model.onnx": b"another"}))
        later = Node(store, shelf, state_dir)
        await later.reconciler.restore()
        assert later.workers.calls == [("deploy", ("a", "b", "c"))]
        async with later.running():
            await later.until_true(_async(lambda: _serving(store) == {"a", "b", "c"}))
        assert [(await later.status(name))[0] for name in "abcd"] == ["InService"] * 3 + ["Failed"]
        assert later.workers.content("a") == b"m"
        assert later.workers.calls == [("deploy", ("a", "b", "c"))]

    asyncio.run(main())


def test_a_restart_in_an_update_serves_the_old_until_the_new(store: Store, shelf: Shelf, state_dir: Path) -> None:
    async def main() -> None:
        async with Node(store, shelf, state_dir).running() as node:
            await node.create("e")
            await node.until("e", "InService")
            node.workers.gate.clear()
            node.workers.loading.clear()
            await node.update("e", "m2")
            await node.workers.loading.wait()
        later = Node(store, shelf, state_dir)
        await later.reconciler.restore()
        assert later.workers.content("e") == b"m"
        async with later.running():
            assert await later.until("e", "InService") is None
            assert later.workers.content("e") == b"m2"

    asyncio.run(main())


def test_stopping_is_nobodys_failure(
    store: Store, shelf: Shelf, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler_module, "PATIENCE_S", 0.0)
    monkeypatch.setattr(reconciler_module, "PASSING_S", (0.01, 0.01))

    async def main() -> None:
        async with Node(store, shelf, state_dir).running() as node:
            node.workers.stopping = True
            await node.create("e")
            await node.until_true(_async(lambda: len(node.workers.calls) > 2))
            assert await node.status("e") == ("Creating", None)
        later = Node(store, shelf, state_dir)
        async with later.running(restored=True):
            await later.until("e", "InService")

    asyncio.run(main())


def test_what_a_node_served_in_an_earlier_life_does_not_count(store: Store, shelf: Shelf, state_dir: Path) -> None:
    async def main() -> None:
        async with Node(store, shelf, state_dir).running() as node:
            await node.create("e")
            await node.until("e", "InService")
            assert _serving(store) == {"e"}
        await Node(store, shelf, state_dir).reconciler.restore()
        assert _serving(store) == set()

    asyncio.run(main())


def test_a_loop_that_starts_again_in_the_same_server(store: Store, shelf: Shelf, state_dir: Path) -> None:
    """What the fleet was told when the loop was ended may have been done, and is not forgotten."""

    async def main() -> None:
        node = Node(store, shelf, state_dir)
        async with node.running():
            await node.create("e")
            await node.create("f", "m2")
            await node.until("e", "InService")
            await node.until("f", "InService")
            node.workers.gate.clear()
            node.workers.loading.clear()
            await node.create("g", "m3")
            await node.workers.loading.wait()
            await node.do("DeleteEndpoint", EndpointName="f")
        # The workers carried it out although nobody waited.
        node.workers.serving["g"] = node.workers.serving["e"]
        await node.do("DeleteEndpoint", EndpointName="g")
        node.workers.gate.set()
        async with node.running():
            await node.until("g", None)
            await node.until("f", None)
            assert set(node.workers.serving) == {"e"}

    asyncio.run(main())


def test_an_endpoint_that_cannot_be_brought_back(
    store: Store, shelf: Shelf, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of service with the reason, tried again, and back."""
    monkeypatch.setattr(reconciler_module, "LASTING_S", (0.05, 0.1))

    async def main() -> None:
        async with Node(store, shelf, state_dir).running() as node:
            await node.create("e")
            await node.until("e", "InService")
            write = Path(node.workers.serving["e"][0].artifact).write_bytes
        write(BROKEN)
        later = Node(store, shelf, state_dir)
        async with later.running(restored=True):
            assert await later.until("e", "OutOfService") == "s3://bucket/m.tar.gz/model.onnx is not a graph"
            write(b"m")
            assert await later.until("e", "InService") is None

    asyncio.run(main())


def test_a_restart_without_room(store: Store, shelf: Shelf, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler_module, "PATIENCE_S", 0.1)
    monkeypatch.setattr(reconciler_module, "PASSING_S", (0.02, 0.05))

    async def main() -> None:
        async with Node(store, shelf, state_dir).running() as node:
            for name, model in (("a", "m"), ("b", "m2")):
                await node.create(name, model)
                await node.until(name, "InService")
        later = Node(store, shelf, state_dir, memory=6 * 1024 * 1024)
        async with later.running(restored=True):
            (served,) = later.workers.serving
            (other,) = {"a", "b"} - {served}
            assert "the model needs about" in str(await later.until(other, "OutOfService"))
            await later.do("DeleteEndpoint", EndpointName=served)
            await later.until(other, "InService")

    asyncio.run(main())


def test_a_disk_that_is_full_at_the_start(store: Store, shelf: Shelf, state_dir: Path) -> None:
    """What was served is served."""

    async def main() -> None:
        async with Node(store, shelf, state_dir).running() as first:
            await first.create("e")
            await first.until("e", "InService")
        node = Node(store, shelf, state_dir)
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, ((state_dir / "control.db-wal").stat().st_size, unlimited[1]))
        try:
            with pytest.raises(StoreUnavailable, match="full"):
                store.transact(lambda tx: nodes.hear(tx, "other"))
            await node.reconciler.restore()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        assert node.workers.content("e") == b"m"
        async with node.running():
            await node.create("f")
            await node.until("f", "InService")
            assert (await node.status("e"))[0] == "InService"
            assert node.workers.calls == [("deploy", ("e",)), ("deploy", ("f",))]

    asyncio.run(main())


def test_a_database_that_is_away_at_the_start(store: Store, shelf: Shelf, state_dir: Path) -> None:
    async def main() -> None:
        async with Node(store, shelf, state_dir).running() as node:
            await node.create("e")
            await node.until("e", "InService")
        (state_dir / "control.db").rename(state_dir / "away")
        later = Node(store, shelf, state_dir)
        await later.reconciler.restore()
        async with later.running():
            (state_dir / "away").rename(state_dir / "control.db")
            await later.until_true(_async(lambda: "e" in later.workers.serving))

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_it_comes_to_rest(store: Store, shelf: Shelf, state_dir: Path, seed: int) -> None:
    """Calls at random, servers that are killed at random moments; then all is as the last call asked."""
    chance = random.Random(seed)
    asked: dict[str, tuple[str, str] | None] = {}

    async def call(node: Node) -> None:
        name, model = chance.choice("ab"), chance.choice(("m", "m2", "m3", "broken"))
        with contextlib.suppress(ControlFault):
            match chance.randrange(4):
                case 0:
                    await node.create(name, model)
                    asked[name] = ("create", model)
                case 1:
                    await node.update(name, model)
                    asked[name] = ("update", model)
                case 2:
                    await node.do("DeleteEndpoint", EndpointName=name)
                    asked[name] = None
                case _:
                    await node.store.news.wait(node.store.news.count, chance.random() * 0.02)

    async def main() -> None:
        for life in range(6):
            node = Node(store, shelf, state_dir)
            async with node.running(restored=life > 0):
                for _ in range(chance.randrange(1, 12)):
                    await call(node)
        node = Node(store, shelf, state_dir)
        async with node.running(restored=True):
            await node.until_true(lambda: _resting(node), lambda: str([node.row(name) for name in "ab"]))
        for name, last in asked.items():
            row = node.row(name)
            if last is None:
                assert row is None
                assert name not in node.workers.serving
            elif row.status == "Failed":
                assert last == ("create", "broken")
                assert name not in node.workers.serving
            else:
                assert row.status == "InService"
                served = node.workers.content(name)
                assert served != BROKEN
                deployment = msgspec.json.decode(row.current, type=Deployment)
                assert [served] == [model.encode() for model in deployment.models]
                assert (served == last[1].encode()) == (last[1] != "broken")
                assert (row.failure_reason is None) == (last[1] != "broken")

    asyncio.run(main())


# ---------------------------------------------------------------------- two servers


@pytest.fixture
def two(blank_url: str, shelf: Shelf, tmp_path: Path, clock: Clock) -> Iterator[Callable[[str], Node]]:
    """Servers that share one PostgreSQL."""
    stores: list[Store] = []

    def make(name: str) -> Node:
        (tmp_path / name).mkdir(exist_ok=True)
        store = Store.open(blank_url, tmp_path / name, PLACE, clock=clock)
        stores.append(store)
        if len(stores) == 1:
            for model in ("m", "m2", "m3", "broken"):
                Caller(store).model(model)
        return Node(store, shelf, tmp_path / name, name)

    yield make
    for store in stores:
        asyncio.run(store.close())


def test_in_service_once_both_serve(two: Callable[[str], Node], monkeypatch: pytest.MonkeyPatch) -> None:
    # Each hears of what the other observes at once.
    monkeypatch.setattr(reconciler_module, "SAFETY_S", 600.0)

    async def main() -> None:
        one, other = two("one"), two("other")
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(one.running())
            await one.create("first")
            await one.until("first", "InService")
            # From now on it is this one that judges.
            await stack.enter_async_context(other.running())
            await other.until_true(_async(lambda: "first" in other.workers.serving))
            other.workers.calls.clear()
            await one.until_true(_async(lambda: _nodes(one.store) == {"one", "other"}))
            other.workers.gate.clear()
            await one.create("e")
            await one.until_true(_async(lambda: "e" in one.workers.serving and bool(other.workers.calls)))
            assert await one.status("e") == ("Creating", None)
            other.workers.gate.set()
            await one.until("e", "InService")
            assert other.workers.content("e") == one.workers.content("e") == b"m"
            await other.update("e", "m2")
            await one.until_true(_async(lambda: one.workers.content("e") == other.workers.content("e") == b"m2"))
            await one.until("e", "InService")
            await one.update("e", "broken")
            assert "not a graph" in str(await other.until("e", "InService"))
            assert one.workers.content("e") == other.workers.content("e") == b"m2"
            await one.do("DeleteEndpoint", EndpointName="e")
            await other.until("e", None)
            assert set(one.workers.serving) == set(other.workers.serving) == {"first"}

    asyncio.run(main())


def test_one_of_two_that_dies_is_not_waited_for(two: Callable[[str], Node], clock: Clock) -> None:
    async def main() -> None:
        one, other = two("one"), two("other")
        async with one.running():
            async with other.running():
                await one.until_true(_async(lambda: _nodes(one.store) == {"one", "other"}))
            await one.create("e")
            await one.until_true(_async(lambda: "e" in one.workers.serving and _serving(one.store) == {"e"}))
            assert await one.status("e") == ("Creating", None)
            clock.advance(60)
            one.store.news.tell()
            await one.until("e", "InService")
            # One that says goodbye is not waited for either, and one that joins serves what is there.
            third = two("third")
            async with third.running():
                await third.until_true(_async(lambda: "e" in third.workers.serving))
            await third.reconciler.leave()
            assert _nodes(one.store) == {"one", "other"}

    asyncio.run(main())


def test_both_serve_the_same_bytes(two: Callable[[str], Node], shelf: Shelf) -> None:
    """The object is replaced between the two: the second does not serve something else, but says what happened."""

    async def main() -> None:
        one, other = two("one"), two("other")
        async with one.running():
            await one.create("e")
            await one.until("e", "InService")
            shelf.set("s3://bucket/m.tar.gz", packed({"model.onnx": b"another"}))
            async with other.running():
                reason = await one.until("e", "OutOfService")
                assert "is no longer what it was when the endpoint was deployed" in str(reason)
                assert one.workers.content("e") == b"m"
                assert not other.workers.serving
                await one.update("e", "m")
                await one.until("e", "InService")
                assert one.workers.content("e") == other.workers.content("e") == b"another"

    asyncio.run(main())


# ---------------------------------------------------------------------- speed


def test_create_endpoint_to_in_service_is_quick(store: Store, state_dir: Path, tmp_path: Path) -> None:
    """With the real store of files; what is left is what the workers take to load."""
    folder = tmp_path / "models"
    folder.mkdir()
    objects = open_store(Aws(), [folder])
    call = Caller(store)
    seconds: list[float] = []

    async def main() -> None:
        async with Node(store, objects, state_dir).running() as node:
            for number in range(30):
                (folder / f"{number}.tar.gz").write_bytes(packed({"model.onnx": b"%d" % number}))
                url = (folder / f"{number}.tar.gz").as_uri()
                store.transact(lambda tx, n=number, u=url: _direct(tx, f"file{n}", u))  # type: ignore[misc]
                await asyncio.to_thread(call.config, f"c{number}", f"file{number}")
                started = time.perf_counter()
                await node.do("CreateEndpoint", EndpointName=f"e{number}", EndpointConfigName=f"c{number}")
                await node.until(f"e{number}", "InService")
                seconds.append(time.perf_counter() - started)
                assert node.workers.content(f"e{number}") == b"%d" % number

    asyncio.run(main())
    print(f"p50 {statistics.median(seconds) * 1e3:.1f} ms, longest {max(seconds) * 1e3:.1f} ms")
    assert statistics.median(seconds) < 0.3


def _direct(tx: Transaction, name: str, url: str) -> None:
    """A model whose URL AWS's own rules would not let through."""
    document = {"PrimaryContainer": {"Image": "onnx", "ModelDataUrl": url}}
    arn = tx.place.arn("model", name)
    values = {"name": name, "arn": arn, "created_at": tx.now, "document": msgspec.json.encode(document).decode()}
    tx.connection.execute(schema.models.insert().values(**values))


def _async(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return await asyncio.to_thread(condition)

    return check


async def _resting(node: Node) -> bool:
    statuses = {(await node.status(name))[0] for name in "ab"}
    return statuses <= {None, "InService", "Failed"} and not node.reconciler._jobs


def _serving(store: Store) -> set[str]:
    """The endpoints that a node says it serves."""
    table = schema.observations.c
    return set(
        store.transact(
            lambda tx: tx.connection.execute(select(table.endpoint).where(table.serving > 0)).scalars().all()
        )
    )


def _nodes(store: Store) -> set[str]:
    return set(store.transact(lambda tx: tx.connection.execute(select(schema.nodes.c.id)).scalars().all()))
