"""Turns, back-pressure, deadlines and ends of streams, with a container in this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.codecs.base import Asked, Encoded
from serving.contract import Array, ModelSpec, StreamingConfig, TensorSpec
from serving.errors import DeadlineExceeded, ModelFailure, NotReady, Overloaded, ServingError
from serving.runtime.statistics import VariantStatistics
from serving.runtime.streaming import TURN_BYTES, TURN_PARTS, PartStream, Streams

SPEC = ModelSpec(
    inputs=(TensorSpec("x", "INT64", (-1,)),),
    outputs=(TensorSpec("y", "INT64", (-1,)),),
    platform="counting",
    batched=False,
    streams=True,
)


class Counting:
    """Streams 0, 1, ... x[0] - 1 (for ever where that is negative) and keeps account of itself."""

    spec = SPEC

    def __init__(self) -> None:
        self.made = 0
        self.ended = 0
        self.running = 0
        self.most_running = 0
        self.threads: set[str] = set()
        self.before_part: Callable[[int], None] = lambda number: None
        self._lock = threading.Lock()

    def execute(self, inputs: Sequence[Array]) -> Sequence[Array]:
        raise AssertionError("a stream is no run")

    def stream(self, inputs: Sequence[Array]) -> Generator[Sequence[Array], None, None]:
        last = int(inputs[0][0])
        number = 0
        try:
            while number != last:
                with self._lock:
                    self.running += 1
                    self.most_running = max(self.most_running, self.running)
                    self.threads.add(threading.current_thread().name)
                try:
                    self.before_part(number)
                finally:
                    with self._lock:
                        self.running -= 1
                        self.made += 1
                yield [np.array([number])]
                number += 1
        finally:
            self.threads.add(threading.current_thread().name)
            self.ended += 1

    def close(self) -> None:
        """Nothing to free."""


class Bench:
    """Streams of a counting container with the statistics beside them."""

    def __init__(self, slots: int = 1, part_bytes: int = 8, **config: Any) -> None:
        self.container = Counting()
        self.statistics = VariantStatistics("endpoint", "variant")
        self.held = 0
        self._part_bytes = part_bytes
        self.streams = Streams("m", self.container, StreamingConfig(**config), slots, self._hold, self._release)

    def start(self, parts: int, timeout_s: float = 10.0) -> PartStream:
        asked: Asked | None = None
        column = np.array([parts], np.int64).tobytes()
        return self.streams.start(
            (1, (column,), ((1,),), asked), self._encode, self.statistics, perf_counter(), timeout_s
        )

    async def all_ended(self) -> None:
        await until(lambda: not self.streams.open)
        assert self.statistics.streams.open == 0
        assert self.held == 0

    def _encode(self, outputs: Sequence[Array]) -> Encoded:
        return b"content-type: x\r\n", b"%d" % int(outputs[0][0]) + bytes(self._part_bytes)

    def _hold(self) -> None:
        self.held += 1

    def _release(self) -> None:
        self.held -= 1


async def until(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - what is waited for happens on a thread
            await asyncio.sleep(0.001)


async def taken(stream: PartStream, into: list[int] | None = None) -> list[int]:
    """Every part that is to come; `into` also holds those before a fault."""
    found = [] if into is None else into
    while (parts := await stream.next()) is not None:
        assert parts
        found += [int(part.rstrip(b"\0")) for part in parts]
    stream.leave()
    return found


def test_what_broke_is_timed_apart() -> None:
    async def check() -> None:
        bench = Bench()
        await taken(bench.start(3))
        counted = bench.statistics.streams
        assert (counted.broken, counted.broken_s) == (0, 0.0)
        ended, seconds = counted.ended, counted.seconds.total
        assert ended > 0

        def fail(number: int) -> None:
            if number:
                raise ValueError

        bench.container.before_part = fail
        with pytest.raises(ModelFailure):
            await taken(bench.start(3))
        assert counted.broken == 1
        assert counted.broken_s == pytest.approx(counted.seconds.total - seconds)
        assert counted.ended > ended
        await bench.all_ended()

    run(check())


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


@given(
    counts=st.lists(st.integers(0, 200), min_size=1, max_size=6),
    slots=st.integers(1, 3),
    part_bytes=st.sampled_from([0, 10, TURN_BYTES]),
)
def test_every_stream_gets_its_own_parts_in_order(counts: list[int], slots: int, part_bytes: int) -> None:
    async def test() -> None:
        bench = Bench(slots, part_bytes)
        found = await asyncio.gather(*[taken(bench.start(count)) for count in counts])
        assert found == [list(range(count)) for count in counts]
        await bench.all_ended()
        assert bench.container.ended == len(counts)
        assert bench.container.most_running <= slots
        assert bench.statistics.streams.parts == sum(counts)
        assert bench.statistics.streams.aborted == 0
        assert bench.statistics.invocations == len(counts)
        bench.streams.close()

    run(test())


def test_the_container_runs_on_slot_threads_alone() -> None:
    async def test() -> None:
        bench = Bench(2)
        await asyncio.gather(*[taken(bench.start(50)) for _ in range(4)])
        stream = bench.start(-1)
        await stream.next()
        stream.leave()
        await bench.all_ended()
        assert bench.container.threads <= {"m-stream-slot-0", "m-stream-slot-1"}

    run(test())


def test_the_first_turn_is_one_part() -> None:
    async def test() -> None:
        bench = Bench()
        stream = bench.start(100)
        first = await stream.next()
        assert first is not None
        assert len(first) == 1
        assert stream.fields == b"content-type: x\r\n"
        stream.leave()
        await bench.all_ended()

    run(test())


@pytest.mark.parametrize(("part_bytes", "most"), [(0, 2 * TURN_PARTS), (TURN_BYTES, 2)])
def test_a_reader_that_stops_stops_the_container(part_bytes: int, most: int) -> None:
    async def test() -> None:
        bench = Bench(1, part_bytes)
        stream = bench.start(-1)
        other = bench.start(1000)
        for _ in range(5):
            await stream.next()
        begun = bench.container.made
        # A whole other stream is served by the same slot meanwhile; this one adds the turn under way and no more.
        assert await taken(other) == list(range(1000))
        await until(lambda: bench.container.ended == 1)
        assert bench.container.made - begun - 1000 <= most
        stream.leave()
        await bench.all_ended()
        assert bench.statistics.streams.aborted == 1

    run(test())


def test_streams_take_turns() -> None:
    """On one slot, one stream that never ends does not keep another waiting."""

    async def test() -> None:
        bench = Bench()
        endless = bench.start(-1)
        reading = asyncio.ensure_future(taken(endless))
        await until(lambda: bench.container.made > 100)
        assert await taken(bench.start(500)) == list(range(500))
        endless.leave()
        await reading
        await bench.all_ended()

    run(test())


def test_leaving_in_the_middle_of_a_part_ends_the_generator_after_it() -> None:
    async def test() -> None:
        bench = Bench()
        in_part, go_on = threading.Event(), threading.Event()

        def wait(number: int) -> None:
            if number == 3:
                in_part.set()
                go_on.wait(5)

        bench.container.before_part = wait
        stream = bench.start(-1)
        reading = asyncio.ensure_future(taken(stream))
        await until(in_part.is_set)
        stream.leave()
        stream.leave()
        assert await reading == [0, 1, 2]
        assert bench.held == 1
        go_on.set()
        await bench.all_ended()
        assert bench.container.made == 4
        assert bench.statistics.streams.aborted == 1

    run(test())


def test_a_first_part_that_is_late() -> None:
    async def test() -> None:
        bench = Bench()
        go_on = threading.Event()
        bench.container.before_part = lambda number: go_on.wait(5) and None  # type: ignore[func-returns-value]
        stream = bench.start(3, timeout_s=0.02)
        with pytest.raises(DeadlineExceeded, match=r"0\.020 s passed before model 'm' gave its first part"):
            await stream.next()
        go_on.set()
        await bench.all_ended()
        assert bench.statistics.errors_5xx == 1
        assert bench.statistics.streams.broken == 0

    run(test())


def test_a_stream_that_is_late() -> None:
    async def test() -> None:
        bench = Bench(timeout_s=0.05)
        stream = bench.start(-1)
        with pytest.raises(DeadlineExceeded, match=r"0\.050 s passed before model 'm' ended its stream"):
            await taken(stream)
        await bench.all_ended()
        assert bench.container.ended == 1
        assert bench.statistics.streams.broken == 1
        assert bench.statistics.invocations == 1

    run(test())


@pytest.mark.parametrize("at", [0, 1, 7])
@pytest.mark.parametrize("error", [ModelFailure("said so"), ValueError("a fault"), KeyboardInterrupt()])
def test_a_fault_comes_after_the_parts_before_it(at: int, error: BaseException) -> None:
    async def test() -> None:
        bench = Bench()

        def fail(number: int) -> None:
            if number == at:
                raise error

        bench.container.before_part = fail
        stream = bench.start(20)
        found: list[int] = []
        with pytest.raises(ServingError) as caught:
            await taken(stream, found)
        assert found == list(range(at))
        assert isinstance(caught.value, ModelFailure)
        assert (caught.value is error) is isinstance(error, ServingError)
        await bench.all_ended()
        assert bench.statistics.model_errors == (at == 0)
        assert bench.statistics.streams.broken == (at > 0)
        # The slot goes on.
        bench.container.before_part = lambda number: None
        assert await taken(bench.start(3)) == [0, 1, 2]

    run(test())


def test_too_many_and_too_late() -> None:
    async def test() -> None:
        bench = Bench(max_streams=2)
        streams = [bench.start(-1), bench.start(-1)]
        with pytest.raises(Overloaded, match=r"streaming\.max_streams"):
            bench.start(1)
        for stream in streams:
            stream.leave()
        await bench.all_ended()
        assert await taken(bench.start(1)) == [0]
        await bench.all_ended()
        bench.streams.close()
        with pytest.raises(NotReady):
            bench.start(1)

    run(test())
