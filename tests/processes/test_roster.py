"""The roster: both parts in one snapshot, a name has one owner, changes share snapshots, nothing prepared is kept for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from serving.contract import ModelConfig
from serving.processes.roster import Roster
from serving.runtime.wiring import EndpointWiring, Versions


def wiring(name: str, artifact: str = "a") -> EndpointWiring:
    return EndpointWiring(name, "AllTraffic", "onnx", artifact, ModelConfig(name=name))


class Recorded:
    """Workers that load everything but what is named `broken`, and note what they are told."""

    def __init__(self) -> None:
        self.snapshots: list[list[str]] = []
        self.defaults: list[str | None] = []
        self.kept: set[int] = set()
        self.puts_wait = asyncio.Event()
        self.puts_wait.set()
        self.loads_wait = asyncio.Event()
        self.loads_wait.set()
        self._calls = 0

    async def prepare(
        self, endpoints: Sequence[EndpointWiring], patience_s: float | None = None
    ) -> tuple[list[str], list[int]]:
        self._calls += 1
        call = self._calls
        self.kept.add(call)
        await self.loads_wait.wait()
        return ["it is broken" if endpoint.artifact == "broken" else "" for endpoint in endpoints], [call]

    def forget(self, calls: Sequence[int]) -> None:
        self.kept -= set(calls)

    async def put(self, endpoints: Versions, default: str | None) -> None:
        names = [f"{endpoint.name}={endpoint.artifact}" for endpoint in endpoints]
        await self.puts_wait.wait()
        self.snapshots.append(names)
        self.defaults.append(default)


async def opened() -> tuple[Roster, Recorded]:
    workers = Recorded()
    roster = Roster(workers)
    await roster.open()
    workers.snapshots.clear()
    workers.defaults.clear()
    return roster, workers


async def models(roster: Roster, *names: str) -> list[str]:
    wirings = tuple(wiring(name) for name in names)
    whys, calls = await roster.prepare(wirings)
    good = tuple(one for one, why in zip(wirings, whys, strict=True) if not why)
    await roster.put_models(good, None, calls)
    return whys


def test_models_and_endpoints_are_in_one_snapshot() -> None:
    async def run() -> None:
        roster, workers = await opened()
        await models(roster, "fraud")
        assert await roster.deploy({"a": (wiring("a"),), "b": (wiring("b"),)}) == {"a": "", "b": ""}
        assert workers.snapshots[-1] == ["fraud=a", "a=a", "b=a"]
        await roster.withdraw(["a", "never"])
        assert workers.snapshots[-1] == ["fraud=a", "b=a"]
        assert workers.kept == set()

    asyncio.run(run())


def test_nothing_is_in_force_before_it_is_opened_and_then_all_at_once() -> None:
    async def run() -> None:
        workers = Recorded()
        roster = Roster(workers)
        await models(roster, "fraud")
        await roster.deploy({"a": (wiring("a"),)})
        assert workers.snapshots == []
        assert len(workers.kept) == 2
        await roster.open()
        assert workers.snapshots == [["fraud=a", "a=a"]]
        assert workers.kept == set()

    asyncio.run(run())


def test_a_name_has_one_owner() -> None:
    async def run() -> None:
        roster, workers = await opened()
        await models(roster, "fraud")
        await roster.deploy({"a": (wiring("a"),)})
        assert roster.names() == {"fraud"}
        assert "command line" in (await roster.deploy({"fraud": (wiring("fraud"),)}))["fraud"]
        assert await models(roster, "fraud", "a") == ["", "an endpoint of the control API has the name 'a'"]
        assert workers.snapshots[-1] == ["fraud=a", "a=a"]

    asyncio.run(run())


def test_what_cannot_be_loaded_leaves_what_was_there() -> None:
    async def run() -> None:
        roster, workers = await opened()
        await roster.deploy({"a": (wiring("a", "old"),)})
        assert await roster.deploy({"a": (wiring("a", "broken"),), "b": (wiring("b"),)}) == {
            "a": "it is broken",
            "b": "",
        }
        assert workers.snapshots[-1] == ["a=old", "b=a"]
        assert workers.kept == set()

    asyncio.run(run())


def test_changes_that_come_while_one_is_put_share_the_next() -> None:
    async def run() -> None:
        roster, workers = await opened()
        workers.puts_wait.clear()
        deploys = [asyncio.create_task(roster.deploy({f"e{number}": (wiring(f"e{number}"),)})) for number in range(20)]
        for _ in range(10):
            await asyncio.sleep(0)
        workers.puts_wait.set()
        await asyncio.gather(*deploys)
        assert len(workers.snapshots) <= 2
        assert len(workers.snapshots[-1]) == 20

    asyncio.run(run())


def test_a_deployment_that_is_given_up_is_not_in_force_later() -> None:
    async def run() -> None:
        roster, workers = await opened()
        workers.loads_wait.clear()
        deploy = asyncio.create_task(roster.deploy({"a": (wiring("a"),)}))
        await asyncio.sleep(0)
        deploy.cancel()
        await asyncio.gather(deploy, return_exceptions=True)
        workers.loads_wait.set()
        await roster.deploy({"b": (wiring("b"),)})
        assert workers.snapshots[-1] == ["b=a"]

    asyncio.run(run())


def test_an_endpoint_is_lost_once_and_only_as_it_was() -> None:
    async def run() -> None:
        roster, workers = await opened()
        lost: list[tuple[str, str]] = []
        roster.on_lost(lambda name, why: lost.append((name, why)))
        await models(roster, "fraud")
        await roster.deploy({"a": (wiring("a"),), "b": (wiring("b"),)})
        assert not roster.lose(wiring("fraud"), "it is broken")
        assert not roster.lose(wiring("a", "older"), "it is broken")
        assert roster.lose(wiring("a"), "it is broken")
        assert not roster.lose(wiring("a"), "it is broken")
        assert lost == [("a", "it is broken")]
        await roster.deploy({"c": (wiring("c"),)})
        assert workers.snapshots[-1] == ["fraud=a", "b=a", "c=a"]

    asyncio.run(run())
