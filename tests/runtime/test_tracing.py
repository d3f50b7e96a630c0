"""Which requests a worker traces: every so many of a setting's, as many as it wants, and none at no cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import orjson
from hypothesis import given
from hypothesis import strategies as st

from serving.codecs.plan import InputPlan
from serving.contract import ModelConfig
from serving.runtime.costs import Costs
from serving.runtime.dataplane import DataPlane
from serving.runtime.invocation import Face, Head
from serving.runtime.model import Model, Pulse
from serving.runtime.routing import Endpoint, Route, Snapshot
from serving.runtime.statistics import VariantStatistics
from serving.runtime.tracing import MOST_WAITING, TraceSetting, Tracing
from tests.runtime.test_failures import Caller, Scripted

BODY = b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[1.0]}]}'


class Traced:
    """A data plane of the models `a` and `b`, and what it traced. Nothing is sent before `sent` is called."""

    def __init__(self) -> None:
        self.models = []
        endpoints = []
        for name in ("a", "b"):
            container = Scripted(lambda x: x)
            model = Model(container, ModelConfig(name=name), Costs(), Pulse())
            plan = InputPlan(container.spec, name)
            endpoints.append(Endpoint(name, "v1", model, plan, VariantStatistics(name, "v1")))
            self.models.append(model)
        self.plane = DataPlane()
        self.plane.swap(Snapshot(1, endpoints, "a"))
        self.heads = {name: self.head(name) for name in ("a", "b")}
        self.full = False
        """Nothing more can be sent."""
        self._sent: list[tuple[str, bytes]] = []
        self._later: list[Callable[[], None]] = []

    def head(self, name: str) -> Head:
        head = Head(Face.OPEN_INFERENCE, name)
        head.content_type = "application/json"
        return head

    def trace(self, **settings: TraceSetting) -> None:
        wanted = {"" if name == "every" else name: setting for name, setting in settings.items()}
        self.plane.trace(Tracing(wanted, self._send, self._later.append))

    def _send(self, traces: list[tuple[str, bytes]]) -> bool:
        if not self.full:
            self._sent.extend(traces)
        return not self.full

    async def invoke(self, name: str, times: int) -> None:
        """Requests one after the other, with the same head each time."""
        for _ in range(times):
            caller = Caller()
            self.plane.invoke(self.heads[name], BODY, caller)
            assert isinstance(await caller.got, bytes)

    def sent(self) -> list[tuple[str, str]]:
        """The setting and the model of each trace since this was called last."""
        for send in self._later:
            send()
        found = [(setting, orjson.loads(trace)["model_name"]) for setting, trace in self._sent]
        self._later.clear()
        self._sent.clear()
        return found

    async def close(self) -> None:
        for model in self.models:
            ended = asyncio.Event()
            model.close(ended.set)
            await ended.wait()


@given(rate=st.integers(1, 5), count=st.integers(-1, 4), times=st.integers(0, 20))
def test_every_so_many_are_traced_until_enough_were(rate: int, count: int, times: int) -> None:
    async def run() -> None:
        traced = Traced()
        traced.trace(every=TraceSetting(timestamps=True, rate=rate, count=count))
        await traced.invoke("a", times)
        expected = times // rate if count < 0 else min(times // rate, count)
        assert traced.sent() == [("", "a")] * expected
        await traced.close()

    asyncio.run(run())


def test_settings_of_all_are_shared_and_a_models_own_are_not() -> None:
    async def run() -> None:
        traced = Traced()
        traced.trace(every=TraceSetting(timestamps=True, rate=2))
        for name in ("a", "b", "b", "a"):
            await traced.invoke(name, 1)
        assert traced.sent() == [("", "b"), ("", "a")]
        traced.trace(every=TraceSetting(timestamps=True, rate=2), b=TraceSetting(timestamps=True, rate=1, count=2))
        await traced.invoke("b", 3)
        await traced.invoke("a", 2)
        assert traced.sent() == [("b", "b"), ("b", "b"), ("", "a")]
        traced.trace(every=TraceSetting(timestamps=True, rate=1), b=TraceSetting())
        await traced.invoke("b", 2)
        await traced.invoke("a", 1)
        assert traced.sent() == [("", "a")]
        await traced.close()

    asyncio.run(run())


def test_each_model_is_counted_by_itself_and_all_use_up_one_count() -> None:
    async def run() -> None:
        traced = Traced()
        traced.trace(every=TraceSetting(timestamps=True, rate=3, count=3))
        for name in "aabbabaaabbb":
            await traced.invoke(name, 1)
        assert traced.sent() == [("", "a"), ("", "b"), ("", "a")]
        await traced.close()

    asyncio.run(run())


def test_what_could_not_be_sent_is_not_counted() -> None:
    async def run() -> None:
        traced = Traced()
        traced.trace(every=TraceSetting(timestamps=True, rate=1, count=2))
        traced.full = True
        await traced.invoke("a", 5)
        assert traced.sent() == []
        traced.full = False
        await traced.invoke("a", 5)
        assert traced.sent() == [("", "a")] * 2
        await traced.close()

    asyncio.run(run())


def test_what_is_not_traced_takes_the_plain_route() -> None:
    async def run() -> None:
        traced = Traced()
        head = traced.heads["a"]
        await traced.invoke("a", 1)
        plain = head.route
        assert type(plain) is Route
        traced.trace(every=TraceSetting(), a=TraceSetting(timestamps=True, count=0))
        await traced.invoke("a", 1)
        assert head.route is plain
        traced.trace(every=TraceSetting(), a=TraceSetting(timestamps=True, rate=1))
        await traced.invoke("a", 1)
        await traced.invoke("b", 1)
        assert type(head.route) is not Route
        assert type(traced.heads["b"].route) is Route
        # A new snapshot is traced too.
        traced.plane.swap(Snapshot(2, traced.plane.snapshot.endpoints.values(), "a"))
        await traced.invoke("a", 1)
        traced.trace(every=TraceSetting())
        assert traced.sent() == [("a", "a"), ("a", "a")]
        await traced.invoke("a", 1)
        assert type(head.route) is Route
        assert traced.sent() == []
        await traced.close()

    asyncio.run(run())


def test_what_waits_is_bounded_and_what_is_left_out_is_not_counted() -> None:
    async def run() -> None:
        traced = Traced()
        traced.trace(every=TraceSetting(timestamps=True, rate=1, count=MOST_WAITING + 2))
        await traced.invoke("a", MOST_WAITING + 10)
        assert len(traced.sent()) == MOST_WAITING
        await traced.invoke("a", 10)
        assert len(traced.sent()) == 2
        await traced.close()

    asyncio.run(run())
