"""Workers that forward to each other: whatever one answers for another is what it would have answered itself."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import os
import signal
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from serving.contract import BatchingConfig, ModelConfig
from serving.errors import (
    DeadlineExceeded,
    InvalidInput,
    MalformedBody,
    Overloaded,
    ServingError,
    TargetMissing,
    UnsupportedMediaType,
)
from serving.frontends.http.app import Pending
from serving.processes import peer_link, peer_service, peer_sockets
from serving.processes.frames import More
from serving.processes.peer_messages import Answer, Hello, Invoke, Welcome, pack, unpack
from serving.runtime import placement
from serving.runtime.invocation import Face, Head
from serving.runtime.placement import home
from tests.support import onnx_models as models
from tests.support.peer import NAME, SECRET, Node, head, process

ROWS = b"[[1.0, 2.0, 3.0, 4.0]]"


def of_home(worker: int, kind: str, workers: int = 2) -> str:
    """The name of a target that lives in that worker."""
    return next(name for n in range(1000) if home((NAME, name := f"{kind}-{n}"), workers) == worker)


ECHO = of_home(1, "echo")
SLOW = of_home(1, "slow")
WIDE = of_home(1, "wide")
MISSING = of_home(1, "missing")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("targets")
    models.checked_echo(directory / ECHO / "model.onnx")
    models.checked_echo(directory / of_home(0, "echo") / "model.onnx")
    models.slow(directory / SLOW / "model.onnx", 150, rows=1)
    models.echo(directory / WIDE / "model.onnx", "FP32")
    return directory


def run(work: Coroutine[Any, Any, None]) -> None:
    """Runs a test on the loop that workers have."""

    async def bounded() -> None:
        await asyncio.wait_for(work, 30)

    uvloop.run(bounded())


async def until(condition: Callable[[], bool], what: str) -> None:
    for _ in range(4000):
        if condition():
            return
        await asyncio.sleep(0.0025)
    raise AssertionError(f"{what} did not come")


@asynccontextmanager
async def pair(folder: Path, **options: Any) -> AsyncIterator[tuple[Node, Node]]:
    """Two workers on one loop: the one that is asked, and the home of the targets."""
    listeners = peer_sockets.listen(2)
    addresses = [listener.getsockname() for listener in listeners]
    nodes = [Node(number, listeners[number], addresses, folder, **options) for number in range(2)]
    for node in nodes:
        await node.peers.start()
    try:
        yield nodes[0], nodes[1]
    finally:
        await close(*nodes)


async def close(*nodes: Node) -> None:
    """Ends what nodes hold, whatever is under way."""
    for node in nodes:
        await node.close()
    await until(lambda: all(node.ended for node in nodes), "the end of all connections")


async def outcome(pending: Pending) -> tuple[Any, ...]:
    """All that a caller is told."""
    got = await pending.outcome
    if isinstance(got, ServingError):
        return type(got), got.message, got.retry_after_s
    invocation, fields, body = got
    return bytes(fields), bytes(body), invocation.route.variant, invocation.head.face, invocation.timings is None


# ---------------------------------------------------------------------- the same answers


def as_json(face: Face, **said: Any) -> Callable[[], Head]:
    def make() -> Head:
        return head(ECHO, face=face, **said)

    return make


ANSWERED = {
    "runtime": (as_json(Face.RUNTIME), ROWS),
    "container": (as_json(Face.CONTAINER, name=None), ROWS),
    "csv": (as_json(Face.RUNTIME, content_type="text/csv", accept="text/csv"), b"1,2,3,4\n5,6,7,8"),
    "timing": (as_json(Face.RUNTIME, timing=True), ROWS),
    "open inference": (
        as_json(Face.OPEN_INFERENCE),
        b'{"id":"7","inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]}',
    ),
    "view": (as_json(Face.RUNTIME), memoryview(ROWS)),
    "many rows": (as_json(Face.RUNTIME), json.dumps([[1.0, 2.0, 3.0, 4.0]] * 40_000).encode()),
}


@pytest.mark.parametrize("case", ANSWERED)
def test_answers_are_the_same(folder: Path, case: str) -> None:
    make, body = ANSWERED[case]

    async def work() -> None:
        async with pair(folder) as (asked, at_home):
            forwarded = await outcome(asked.invoke(make(), body))
            assert not asked.loaded(ECHO)
            assert at_home.loaded(ECHO)
            assert forwarded == await outcome(at_home.invoke(make(), body))
            # Heads come again, and so do their routes.
            repeated = make()
            for _ in range(3):
                assert await outcome(asked.invoke(repeated, body)) == forwarded
            assert at_home.source.loads == [ECHO]
            assert asked.source.loads == []
            assert at_home.endpoint.statistics.invocations == 5
            assert asked.endpoint.statistics.invocations == 0

    run(work())


REFUSED = {
    "not json": (MalformedBody, head(ECHO), b"[[1,"),
    "empty": (MalformedBody, head(ECHO), b""),
    "wrong shape": (InvalidInput, head(ECHO), b"[[1,2]]"),
    "media type": (UnsupportedMediaType, head(ECHO, content_type="text/html"), ROWS),
    "missing": (TargetMissing, head(MISSING), ROWS),
    "late": (DeadlineExceeded, head(SLOW, timeout_s=0.05), ROWS),
    "priority": (InvalidInput, head(ECHO, priority=9), ROWS),
    "large and wrong": (MalformedBody, head(ECHO), b"[" * 3_000_000),
}


@pytest.mark.parametrize("case", REFUSED)
def test_errors_are_the_same(folder: Path, case: str) -> None:
    kind, said, body = REFUSED[case]

    async def work() -> None:
        async with pair(folder) as (asked, at_home):
            if said.target_model == SLOW:
                await outcome(asked.invoke(head(SLOW), ROWS))
            said.route = None
            forwarded = await outcome(asked.invoke(said, body))
            assert asked.source.loads == []
            said.route = None
            assert forwarded == await outcome(at_home.invoke(said, body))
            assert forwarded[0] is kind
            # Counted where it ran.
            assert asked.plane.platform_errors == 0

    run(work())


def test_what_is_overloaded_says_when_to_come_again(folder: Path) -> None:
    config = ModelConfig(batching=BatchingConfig(max_queue_wait_s=0.2))

    async def work() -> None:
        async with pair(folder, config=config) as (asked, at_home):
            await outcome(asked.invoke(head(SLOW), ROWS))
            found = at_home.targets.cache.get((NAME, SLOW))
            assert found is not None
            waits = [asked.invoke(head(SLOW), ROWS)]
            await until(lambda: not found.model.batcher.free, "a run")
            waits += [asked.invoke(head(SLOW), ROWS) for _ in range(6)]
            told = [await outcome(pending) for pending in waits]
            refused = [each for each in told if each[0] is Overloaded]
            assert refused
            assert all(each[2] > 0.2 for each in refused)
            assert asked.copied == [(NAME, SLOW)]
            await until(lambda: asked.loaded(SLOW), "a copy")

    run(work())


texts = st.none() | st.text(st.characters(codec="latin-1"), max_size=30)


@given(st.data())
def test_a_head_travels_whole(data: st.DataObject) -> None:
    made = Head(data.draw(st.sampled_from(Face)))
    for slot in Head.__slots__:
        if slot in ("face", "route"):
            continue
        before = getattr(made, slot)
        if isinstance(before, bool):
            setattr(made, slot, data.draw(st.booleans()))
        elif isinstance(before, int) or slot == "json_length":
            setattr(made, slot, data.draw(st.integers(0, 2**53)))
        elif slot == "timeout_s":
            setattr(made, slot, data.draw(st.none() | st.floats(0, 1e6)))
        else:
            setattr(made, slot, data.draw(texts))
    again = unpack(pack(made))
    assert all(getattr(again, slot) == getattr(made, slot) for slot in Head.__slots__)


def test_a_model_that_was_unloaded_meanwhile_is_loaded_again(folder: Path) -> None:
    async def work() -> None:
        async with pair(folder) as (asked, at_home):
            said = head(ECHO)
            first = await outcome(asked.invoke(said, ROWS))
            at_home.targets.unload((NAME, ECHO), "a test wants it")
            assert await outcome(asked.invoke(said, ROWS)) == first
            assert at_home.source.loads == [ECHO, ECHO]

    run(work())


# ---------------------------------------------------------------------- large bodies


def npy(rows: int) -> bytes:
    import io

    file = io.BytesIO()
    np.save(file, np.arange(rows * 4, dtype=np.float32).reshape(rows, 4))
    return file.getvalue()


def test_large_bodies_come_whole_and_let_others_pass(folder: Path) -> None:
    async def work() -> None:
        async with pair(folder) as (asked, at_home):
            await outcome(asked.invoke(head(ECHO), ROWS))
            body = npy(1_500_000)
            said = head(WIDE, content_type="application/x-npy", accept="application/x-npy")
            expected = await outcome(at_home.invoke(said, body))
            said.route = None
            large = [asked.invoke(said, body) for _ in range(2)]
            small = await outcome(asked.invoke(head(ECHO), ROWS))
            assert small[0].startswith(b"content-type")
            assert not any(pending.outcome.done() for pending in large)
            for pending in large:
                assert (await outcome(pending))[1] == expected[1]
            assert len(expected[1]) > 20_000_000
            assert asked.peers._links[1].bytes == 0

    run(work())


def test_no_turn_of_the_loop_takes_long_for_a_large_body(folder: Path) -> None:
    """Relative to what a copy of it takes, so that it holds on a busy machine."""

    async def work() -> None:
        async with pair(folder) as (asked, _):
            said = head(WIDE, content_type="application/x-npy", accept="application/x-npy")
            await outcome(asked.invoke(said, npy(10)))
            pending = asked.invoke(said, npy(1_500_000))
            turns = 0
            while not pending.outcome.done():
                await asyncio.sleep(0)
                turns += 1
            # 24 MB there and back in parts of 256 KB at most.
            assert turns > 150

    run(work())


# ---------------------------------------------------------------------- callers who leave


def test_a_caller_who_hangs_up_is_cancelled_there(folder: Path) -> None:
    async def work() -> None:
        async with pair(folder) as (asked, at_home):
            await outcome(asked.invoke(head(SLOW), ROWS))
            model = at_home.targets.cache.get((NAME, SLOW))
            assert model is not None
            runs = asked.invoke(head(SLOW), ROWS)
            waits = asked.invoke(head(SLOW), ROWS)
            await until(lambda: at_home.peers.services.calls == 2, "both requests")
            waits.hang_up()
            await until(lambda: model.model.statistics.cancelled == 1, "the cancellation")
            assert at_home.peers.services.calls == 1
            assert next(iter(asked.peers._links[1].calls.values())).reply is runs
            assert (await outcome(runs))[1]
            assert not waits.outcome.done()

    run(work())


def test_a_caller_who_leaves_amid_a_large_body(folder: Path) -> None:
    async def work() -> None:
        async with pair(folder) as (asked, at_home):
            said = head(WIDE, content_type="application/x-npy", accept="application/x-npy")
            expected = await outcome(at_home.invoke(said, npy(3)))
            said.route = None
            body = npy(1_500_000)
            for turns in (0, 1, 5, 40, 90, 130, 170, 250):
                pending = asked.invoke(said, body)
                for _ in range(turns):
                    await asyncio.sleep(0)
                pending.hang_up()
                assert await outcome(asked.invoke(said, npy(3))) == expected
            link = asked.peers._links[1]
            await until(lambda: not at_home.peers.services.calls, "the end of all requests")
            assert link.bytes == 0
            assert link._frames is not None
            await until(lambda: not link._frames._coming, "the end of all answers")
            for service in at_home.peers.services.all:
                assert not service.frames._coming

    run(work())


def test_an_answer_on_its_way_to_a_caller_who_left_is_not_kept(folder: Path) -> None:
    """The other worker is played by the test, so that the answer and the cancellation pass each other."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        listeners = peer_sockets.listen(2)
        listeners[1].setblocking(False)
        node = Node(0, listeners[0], [listener.getsockname() for listener in listeners], folder)
        leaves = node.invoke(head(ECHO), ROWS)
        link = node.peers._links[1]
        there, _ = await loop.sock_accept(listeners[1])
        with there, listeners[1]:
            await send(there, Welcome())
            await until(lambda: link.state is peer_link.State.UP, "the welcome")
            leaves.hang_up()
            stays = node.invoke(head(ECHO), ROWS)
            await send(there, Answer(1, 500_000, b"", "v", None), bytes(200_000))
            await send(there, More(1), bytes(100_000))
            await send(there, Answer(2, 4, b"", "v", None), b"mine")
            assert (await outcome(stays))[1] == b"mine"
            assert link._frames is not None
            assert not link._frames._coming
            assert not leaves.outcome.done()
            await close(node)

    run(work())


def test_when_the_asking_worker_ends_its_requests_end(folder: Path) -> None:
    async def work() -> None:
        async with pair(folder) as (asked, at_home):
            await outcome(asked.invoke(head(SLOW), ROWS))
            asked.invoke(head(SLOW), ROWS)
            asked.invoke(head(SLOW), ROWS)
            await until(lambda: at_home.peers.services.calls == 2, "both requests")
            asked.peers._links[1].calls.clear()
            asked.peers._links[1].close()
            await until(lambda: at_home.peers.services.calls == 0, "their end")
            found = at_home.targets.cache.get((NAME, SLOW))
            assert found is not None
            assert found.model.statistics.cancelled == 2

    run(work())


# ---------------------------------------------------------------------- workers that end


@asynccontextmanager
async def with_process(folder: Path, **options: Any) -> AsyncIterator[tuple[Node, Any]]:
    """One worker here, and the home of the targets in a process of its own."""
    listeners = peer_sockets.listen(2)
    addresses = [listener.getsockname() for listener in listeners]
    node = Node(0, listeners[0], addresses, folder, **options)
    await node.peers.start()
    try:
        with process(1, 2, listeners[1], folder) as program:
            yield node, program
    finally:
        await close(node)
        listeners[1].close()


def test_killing_a_worker_costs_the_callers_of_another_nothing(folder: Path) -> None:
    config = ModelConfig(batching=BatchingConfig(max_queue_wait_s=30))

    async def work() -> None:
        async with with_process(folder, config=config) as (node, program):
            first = await outcome(node.invoke(head(SLOW), ROWS))
            assert not node.loaded(SLOW)
            body = json.dumps([[1.0, 2.0, 3.0, 4.0]] * 100_000).encode()
            waits = [node.invoke(head(SLOW), ROWS) for _ in range(3)]
            large = node.invoke(head(WIDE), body)
            await asyncio.sleep(0)
            program.kill()
            for pending in waits:
                assert await outcome(pending) == first
            assert json.loads((await outcome(large))[1])[7] == [1.0, 2.0, 3.0, 4.0]
            assert node.loaded(SLOW)
            # The socket goes on to listen, and nobody is there.
            assert (await outcome(node.invoke(head(ECHO), ROWS)))[1]
            assert node.loaded(ECHO)

    run(work())


def test_a_worker_that_stops_to_run_is_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_link, "WATCH_S", 0.1)

    async def work() -> None:
        async with with_process(folder) as (node, program):
            first = await outcome(node.invoke(head(SLOW), ROWS))
            os.kill(program.pid, signal.SIGSTOP)
            assert await outcome(node.invoke(head(SLOW), ROWS)) == first
            assert node.loaded(SLOW)

    run(work())


def test_a_slow_model_is_no_reason_to_give_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with with_process(folder) as (node, _):
            await outcome(node.invoke(head(SLOW), ROWS))
            await until(lambda: not node.peers._links[1]._watching, "the end of the watch")
            monkeypatch.setattr(peer_link, "WATCH_S", 0.03)
            for _ in range(3):
                await outcome(node.invoke(head(SLOW), ROWS))
            assert not node.loaded(SLOW)

    run(work())


def test_a_worker_that_is_not_there_yet_is_used_once_it_is(folder: Path) -> None:
    async def work() -> None:
        listeners = peer_sockets.listen(2)
        addresses = [listener.getsockname() for listener in listeners]
        nodes = [Node(number, listeners[number], addresses, folder) for number in range(2)]
        waits = nodes[0].invoke(head(ECHO), ROWS)
        assert (await outcome(waits))[1]
        assert nodes[0].loaded(ECHO)
        await nodes[1].peers.start()
        link = nodes[0].peers._links[1]
        await until(lambda: link.state is peer_link.State.UP, "the other worker")
        await outcome(nodes[0].invoke(head(SLOW), ROWS))
        assert nodes[1].loaded(SLOW)
        assert not nodes[0].loaded(SLOW)
        await close(*nodes)

    run(work())


def test_where_nobody_listens_it_is_loaded_here(folder: Path) -> None:
    async def work() -> None:
        (listener,) = peer_sockets.listen(1)
        node = Node(0, listener, [listener.getsockname(), b"\0there is no such socket"], folder)
        assert (await outcome(node.invoke(head(ECHO), ROWS)))[1]
        assert node.loaded(ECHO)
        listener.close()

    run(work())


def test_a_worker_that_serves_another_wiring_is_passed_over(folder: Path) -> None:
    async def work() -> None:
        async with pair(folder) as (asked, at_home):
            at_home.wire(served=False)
            assert (await outcome(asked.invoke(head(ECHO), ROWS)))[1]
            assert asked.loaded(ECHO)

    run(work())


def test_a_worker_that_leaves_answers_what_it_has(folder: Path) -> None:
    async def work() -> None:
        async with pair(folder) as (asked, at_home):
            await outcome(asked.invoke(head(SLOW), ROWS))
            last = asked.invoke(head(SLOW), ROWS)
            await until(lambda: at_home.peers.services.calls == 1, "the request")
            closing = asyncio.ensure_future(at_home.peers.close())
            link = asked.peers._links[1]
            await until(lambda: link.state is peer_link.State.LEAVING, "the news")
            assert (await outcome(asked.invoke(head(ECHO), ROWS)))[1]
            assert asked.loaded(ECHO)
            assert (await outcome(last))[1]
            await closing
            assert not asked.loaded(SLOW)

    run(work())


def test_a_large_answer_is_sent_whole_before_a_worker_leaves(folder: Path) -> None:
    async def work() -> None:
        async with pair(folder) as (asked, at_home):
            said = head(WIDE, content_type="application/x-npy", accept="application/x-npy")
            body = npy(1_000_000)
            pending = asked.invoke(said, body)
            await until(lambda: at_home.peers.services.calls == 1, "the request")
            await asyncio.wait_for(at_home.peers.close(), 10)
            # The process ends right after that.
            assert not at_home.peers.services.all
            assert len((await outcome(pending))[1]) == len(body)
            assert not asked.loaded(WIDE)

    run(work())


# ---------------------------------------------------------------------- bounds


def test_what_was_forwarded_is_never_forwarded_again(folder: Path) -> None:
    """Each takes the other for the home of everything, as two versions of a server might."""

    async def work() -> None:
        async with pair(folder) as (asked, at_home):
            at_home.peers.placement = placement.Placement(1, 2)
            at_home.peers.placement.elsewhere = lambda key, now: 0  # type: ignore[method-assign]
            assert (await outcome(asked.invoke(head(ECHO), ROWS)))[1]
            assert at_home.loaded(ECHO)
            assert not asked.loaded(ECHO)

    run(work())


def test_a_flood_is_bounded_by_count(folder: Path) -> None:
    async def work() -> None:
        async with pair(folder, max_calls=4) as (asked, _):
            await outcome(asked.invoke(head(SLOW), ROWS))
            pending = [asked.invoke(head(SLOW), ROWS) for _ in range(10)]
            refused = [each for each in pending if each.outcome.done()]
            assert len(refused) == 6
            kind, text, retry_after_s = await outcome(refused[0])
            assert kind is Overloaded
            assert "4 requests" in text
            assert retry_after_s == 1
            counted = {sample.name: sample.value for sample in asked.peers.samples()}
            assert counted == {
                "serving_forwarded_requests": 5,
                "serving_forwarded_refused": 6,
                "serving_forwarded_failovers": 0,
                "serving_forwarded_in_flight": 4,
                "serving_forwarded_in_flight_bytes": 4 * len(ROWS),
            }
            for each in pending[:4]:
                assert (await outcome(each))[1]
            assert (await outcome(asked.invoke(head(SLOW), ROWS)))[1]

    run(work())


def test_a_flood_is_bounded_by_bytes_but_one_body_always_goes(folder: Path) -> None:
    async def work() -> None:
        async with pair(folder, max_bytes=1_000_000) as (asked, _):
            await outcome(asked.invoke(head(WIDE), ROWS))
            said = head(WIDE, content_type="application/x-npy", accept="application/x-npy")
            large = [asked.invoke(said, npy(200_000)) for _ in range(3)]
            assert [each.outcome.done() for each in large] == [False, True, True]
            assert (await outcome(large[2]))[0] is Overloaded
            assert (await outcome(large[0]))[1]
            small = [asked.invoke(said, npy(10_000)) for _ in range(8)]
            assert [each.outcome.done() for each in small] == [False] * 6 + [True] * 2
            for each in small[:6]:
                assert (await outcome(each))[1]

    run(work())


def test_a_model_that_is_asked_for_all_the_time_is_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "SUSTAINED_S", 0.0)

    async def work() -> None:
        async with pair(folder) as (asked, at_home):
            await outcome(asked.invoke(head(ECHO), ROWS))
            while not asked.loaded(ECHO):
                await asyncio.gather(*(outcome(asked.invoke(head(ECHO), ROWS)) for _ in range(20)))
            before = at_home.endpoint.statistics.invocations
            assert placement.HOT_PER_S <= before < 3 * placement.HOT_PER_S
            await outcome(asked.invoke(head(ECHO), ROWS))
            assert at_home.endpoint.statistics.invocations == before
            assert asked.endpoint.statistics.invocations == 1

    run(work())


def test_where_a_copy_cannot_be_had_the_home_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "SUSTAINED_S", 0.0)

    async def work() -> None:
        async with pair(folder, copy=False) as (asked, _):
            for _ in range(25):
                told = await asyncio.gather(*(outcome(asked.invoke(head(ECHO), ROWS)) for _ in range(20)))
                assert all(each[1] == told[0][1] for each in told)
            assert asked.copied
            assert not asked.loaded(ECHO)

    run(work())


def test_who_does_not_read_is_not_read_from(folder: Path) -> None:
    async def work() -> None:
        async with pair(folder) as (_, at_home):
            with peer_sockets.connect(at_home.peers._listener.getsockname()) as asker:
                await send(asker, Hello(0, SECRET))
                assert await receive(asker, Welcome)
                said = head(WIDE, content_type="application/x-npy", accept="application/json")
                body = npy(300)
                before = at_home.endpoint.statistics.invocations
                number = stuck = 0
                frame = b""
                while stuck < 300:
                    if not frame:
                        number += 1
                        assert number < 20_000
                        frame = framed(Invoke(number, len(body), pack(said), 1e9), body)
                    try:
                        frame = frame[asker.send(frame) :]
                        stuck = 0
                    except BlockingIOError:
                        stuck += 1
                        await asyncio.sleep(0.001)
                assert at_home.endpoint.statistics.invocations - before < 2_000
            await until(lambda: not at_home.peers.services.all, "the end of the connection")
            assert at_home.peers.services.calls == 0

    run(work())


# ---------------------------------------------------------------------- strangers


def framed(message: msgspec.Struct, body: bytes = b"") -> bytes:
    packed = msgspec.msgpack.encode(message)
    return struct.pack(">II", len(packed), len(body)) + packed + body


async def send(connection: socket.socket, message: msgspec.Struct, body: bytes = b"") -> None:
    await asyncio.get_running_loop().sock_sendall(connection, framed(message, body))


async def receive(connection: socket.socket, kind: type[msgspec.Struct]) -> msgspec.Struct | None:
    """The next message; None at the end."""
    loop = asyncio.get_running_loop()
    try:
        lengths = await loop.sock_recv(connection, 8)
    except ConnectionError:
        return None
    if not lengths:
        return None
    packed = await loop.sock_recv(connection, struct.unpack(">II", lengths)[0])
    return msgspec.msgpack.decode(packed, type=kind)


async def hello_of_another(connection: socket.socket) -> None:
    await send(connection, Hello(0, b"another"))


async def no_hello(connection: socket.socket) -> None:
    await send(connection, Invoke(1, len(ROWS), pack(head(ECHO)), 0.0), ROWS)


async def large_hello(connection: socket.socket) -> None:
    await asyncio.get_running_loop().sock_sendall(connection, struct.pack(">II", 60_000_000, 0))


async def noise(connection: socket.socket) -> None:
    await asyncio.get_running_loop().sock_sendall(connection, struct.pack(">II", 5, 0) + b"\xc1\xc1\xc1\xc1\xc1")


async def nothing(connection: socket.socket) -> None:
    """Says nothing at all."""


@pytest.mark.parametrize("says", [hello_of_another, no_hello, large_hello, noise, nothing])
def test_a_stranger_is_turned_away(
    folder: Path, says: Callable[[socket.socket], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_service, "_HELLO_S", 0.2)

    async def work() -> None:
        async with pair(folder) as (asked, at_home):
            with peer_sockets.connect(at_home.peers._listener.getsockname()) as stranger:
                await says(stranger)
                assert await receive(stranger, Welcome) is None
            await until(lambda: not at_home.peers.services.all, "the end of the connection")
            assert at_home.source.loads == []
            assert (await outcome(asked.invoke(head(ECHO), ROWS)))[1]
            assert at_home.loaded(ECHO)

    run(work())


# ---------------------------------------------------------------------- through the hot lane


def test_callers_of_the_lane_cannot_tell(folder: Path) -> None:
    async def work() -> None:
        async with pair(folder) as (asked, at_home):
            ports = await asked.http(), await at_home.http()
            large = json.dumps([[1.0, 2.0, 3.0, 4.0]] * 30_000).encode()
            for body, fields in ((ROWS, {}), (large, {}), (large, {"accept-encoding": "gzip"}), (b"[[1", {})):
                told = [await asyncio.to_thread(post, port, body, fields) for port in ports]
                assert told[0] == told[1]
                assert (b"gzip" in told[0][1]) == ("accept-encoding" in fields)
            assert asked.source.loads == []

    run(work())


def test_a_caller_of_the_lane_who_hangs_up_is_cancelled_there(folder: Path) -> None:
    async def work() -> None:
        async with pair(folder) as (asked, at_home):
            port = await asked.http()
            await outcome(asked.invoke(head(SLOW), ROWS))
            first = asked.invoke(head(SLOW), ROWS)
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            fields = f"host: a\r\nx-amzn-sagemaker-target-model: {SLOW}\r\ncontent-type: application/json"
            start = f"POST /endpoints/{NAME}/invocations HTTP/1.1\r\n{fields}\r\ncontent-length: {len(ROWS)}\r\n\r\n"
            writer.write(start.encode() + ROWS)
            await until(lambda: at_home.peers.services.calls == 2, "the request")
            writer.close()
            await until(lambda: at_home.peers.services.calls == 1, "its end")
            assert (await outcome(first))[1]

    run(work())


def post(port: int, body: bytes, fields: dict[str, str]) -> tuple[int, bytes, bytes]:
    """Status, what was said of the coding, and the body, without it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    fields = {"x-amzn-sagemaker-target-model": ECHO, "content-type": "application/json"} | fields
    connection.request("POST", f"/endpoints/{NAME}/invocations", body, fields)
    answer = connection.getresponse()
    content = answer.read()
    coding = answer.headers.get("content-encoding", "").encode()
    connection.close()
    return answer.status, coding, gzip.decompress(content) if coding else content
