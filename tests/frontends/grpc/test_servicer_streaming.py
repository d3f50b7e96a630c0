"""ModelStreamInfer: every request answered once, in order, beside each other, until either side ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.service_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from serving.contract import BatchingConfig
from serving.errors import MalformedBody, ModelFailure, TooLarge, Unavailable, UnknownName
from serving.frontends.grpc.servicer import SLACK_BYTES
from serving.frontends.grpc.streaming import LAST, MORE, OUTSTANDING, answer
from tests.frontends.grpc.worker import Counting, Gated, Stream, Worker, counting, is_final, numbers, request, until
from tests.runtime.test_targets import Worker as TargetsWorker
from tests.support import many, onnx_models

THREADED = BatchingConfig(inline_below_us=0, max_queue_wait_s=1000)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


@given(size=st.integers(0, 70_000), final=st.booleans())
def test_an_answer_is_wrapped_as_the_message_would_be(size: int, final: bool) -> None:
    response = pb.ModelInferResponse(model_name="m", id="7", raw_output_contents=[bytes(size)])
    read = pb.ModelStreamInferResponse.FromString(answer(LAST if final else MORE, response.SerializeToString()))
    response.parameters["triton_final_response"].bool_param = final
    assert read == pb.ModelStreamInferResponse(infer_response=response)


def test_answers_of_slow_and_fast_models_come_in_the_order_of_the_requests(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        slow, fast = Gated(), Gated()
        worker.serve("slow", slow, batching=THREADED)
        of_fast = worker.serve("fast", fast)
        slow.gate.clear()
        stream = worker.stream()
        reading = asyncio.ensure_future(stream.next())
        stream.send(request("slow", 1, id="0"), *(request("fast", i, id=str(i)) for i in range(1, 10)))
        # The fast ones are done while the slow one runs, and nobody is told.
        await until(lambda: of_fast.invocations == 9)
        assert not reading.done()
        slow.gate.set()
        answers = [await reading, *await stream.rest()]
        assert [one.infer_response.id for one in answers] == [str(i) for i in range(10)]
        assert [numbers(one.infer_response) for one in answers] == [[2.0], *([2.0 * i] for i in range(1, 10))]
        assert all(map(is_final, answers))
        await worker.close()

    run(test())


def test_a_thousand_requests_to_several_models(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        file = onnx_models.write(
            tmp_path / "double" / "model.onnx",
            [("x", "FP32", ("N", 1))],
            [("y", "FP32", ("N", 1))],
            [helper.make_node("Add", ["x", "x"], ["y"])],
        )
        worker.serve_onnx("inline", file)
        worker.serve_onnx("threaded", file, batching=THREADED)
        worker.serve("counting", Counting())
        stream = worker.stream()
        for i in range(1000):
            if i % 10 == 7:
                stream.send(counting("counting", 1, id=str(i)))
            else:
                stream.send(request(("inline", "threaded", "nobody")[i % 3], i, id=str(i)))
        answers = await stream.rest()
        assert [one.infer_response.id for one in answers] == [str(i) for i in range(1000)]
        for i, one in enumerate(answers):
            if i % 10 == 7:
                assert numbers(one.infer_response, np.int64) == [0]
            elif i % 3 == 2:
                assert "unknown model: 'nobody'" in one.error_message
            else:
                assert numbers(one.infer_response) == [2.0 * i]
        await worker.close()

    run(test())


def test_no_more_is_read_than_may_be_outstanding(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        slow = Gated()
        worker.serve("slow", slow, batching=THREADED)
        slow.gate.clear()
        stream = worker.stream()
        reading = asyncio.ensure_future(stream.next())
        asked = request("slow")
        stream.send(*(asked for _ in range(3 * OUTSTANDING)))
        await until(lambda: stream.taken == OUTSTANDING)
        assert worker.lane.in_flight_bytes == OUTSTANDING * asked.ByteSize()
        slow.gate.set()
        await reading
        assert len(await stream.rest()) == 3 * OUTSTANDING - 1
        assert stream.taken == 3 * OUTSTANDING
        await worker.close()

    run(test())


def test_large_requests_count_for_several(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        slow = Gated()
        worker.serve("slow", slow, batching=THREADED)
        slow.gate.clear()
        stream = worker.stream()
        reading = asyncio.ensure_future(stream.next())
        large = request("slow", id="x" * (1 << 20))
        stream.send(*(large for _ in range(OUTSTANDING)))
        # Each counts for two.
        await until(lambda: stream.taken == OUTSTANDING // 2)
        assert worker.lane.in_flight_bytes == stream.taken * large.ByteSize()
        slow.gate.set()
        answers = [await reading, *await stream.rest()]
        assert [len(one.infer_response.id) for one in answers] == [1 << 20] * OUTSTANDING
        await worker.close()

    run(test())


def test_errors_are_answers_and_the_stream_goes_on(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path, max_body_bytes=1000)
        worker.serve("m", Gated())
        worker.serve("counting", Counting())
        stream = worker.stream()
        stream.send(
            request("m", 1, id="a"),
            request("nobody", id="b"),
            b"\xff",
            request("", id="c"),
            request("m", name="z", id="d"),
            request("m", 13, id="e"),
            bytes(1001 + SLACK_BYTES),
            counting("counting", 3, 2, id="f"),
            request("m:target", id="g"),
            request("m", model_version="7", id="h"),
            request("m", 2, id="i"),
        )
        answers = await stream.rest()
        said = [(one.infer_response.id, one.error_message) for one in answers]
        assert said[0] == ("a", "")
        assert said[-1] == ("i", "")
        for (identity, message), (expected, words) in zip(
            said[1:-1],
            [
                ("b", "unknown model: 'nobody' is not found"),
                ("", "cut off"),
                ("c", "names no model"),
                ("d", "'z'"),
                ("e", "model 'm' failed"),
                ("", "at most 66536 were expected"),
                ("f", ""),
                ("f", ""),
                ("f", "model 'counting' failed"),
                ("g", "not a multi-model endpoint"),
                ("h", "version 7 is not found"),
            ],
            strict=True,
        ):
            assert (identity, words in message) == (expected, True), (identity, message)
        assert [is_final(one) for one in answers] == [True] * 7 + [False] * 2 + [True] * 4
        await worker.close()

    run(test())


@pytest.mark.parametrize(
    ("bad", "error"),
    [(request("nobody"), UnknownName), (request("m", 13), ModelFailure), (counting("counting", 2, 1), ModelFailure)],
)
def test_the_first_error_ends_a_stream_that_asks_for_it(tmp_path: Path, bad: Any, error: type[Exception]) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        worker.serve("m", Gated())
        worker.serve("counting", Counting())
        stream = worker.stream(metadata={"triton_grpc_error": "true"})
        stream.send(request("m"), bad, request("m"))
        assert numbers((await stream.next()).infer_response) == [2.0]
        with pytest.raises(error):
            await stream.rest()
        assert await stream.next() is None
        await worker.close()

    run(test())


def test_a_model_that_streams_gives_an_answer_for_each_part(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        worker.serve("m", Gated())
        statistics = worker.serve("counting", Counting())
        stream = worker.stream()
        stream.send(counting("counting", 3, id="a"), request("m", id="b"), counting("counting", 2, id="c", final=True))
        stream.send(counting("counting", 0, id="d"), counting("counting", 0, id="e", final=True))
        answers = [one.infer_response for one in await stream.rest()]
        assert [one.id for one in answers] == ["a", "a", "a", "b", "c", "c", "c", "e"]
        assert [one.parameters["triton_final_response"].bool_param for one in answers] == [
            *(False, False, False, True, False, False, True, True)
        ]
        assert [numbers(one, np.int64) for one in answers[:3]] == [[0], [1], [2]]
        assert [len(one.outputs) for one in answers] == [1, 1, 1, 1, 1, 1, 0, 0]
        assert {one.model_name for one in answers} == {"m", "counting"}
        await until(lambda: statistics.streams.open == 0)
        await worker.close()

    run(test())


def test_who_leaves_cancels_what_is_outstanding(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        slow, endless = Gated(), Counting()
        of_slow = worker.serve("slow", slow, batching=BatchingConfig(inline_below_us=0, max_batch_size=1))
        of_endless = worker.serve("endless", endless)
        slow.gate.clear()
        stream = worker.stream()
        reading = asyncio.ensure_future(stream.next())
        stream.send(*(request("slow", i) for i in range(5)), counting("endless", -1))
        await until(lambda: slow.runs == 1 and endless.made > 0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await stream.leave()
        slow.gate.set()
        await until(lambda: endless.ended == 1 and of_endless.streams.open == 0)
        assert of_endless.streams.aborted == 1
        await worker.close()
        # One ran already; nobody ran the others.
        assert slow.runs == 1
        assert of_slow.invocations <= 1

    run(test())


@pytest.mark.parametrize("waiting", ["nothing", "slow", "endless", "target"])
def test_a_transport_that_loses_its_caller_cancels_what_is_outstanding(tmp_path: Path, waiting: str) -> None:
    async def test() -> None:
        plain = Worker(tmp_path)
        targets = TargetsWorker(tmp_path / "models", plain.settings)
        targets.disk.open.clear()
        worker = Worker(tmp_path, targets.plane)
        slow, endless = Gated(), Counting()
        slow.gate.clear()
        worker.serve("slow", slow, batching=BatchingConfig(inline_below_us=0, max_batch_size=1))
        of_endless = worker.serve("endless", endless)
        worker.wire([targets.endpoint])
        first = {"slow": request("slow"), "endless": counting("endless", -1), "target": request("many:three")}
        stream = worker.stream()
        if waiting in first:
            stream.send(first[waiting], request("slow"), counting("endless", -1), request("slow"))
        reading = asyncio.ensure_future(_all(stream))
        if waiting in first:
            await until(lambda: slow.runs == 1 and endless.made > 0)
        stream.breaks(LookupError("the caller left"))
        with pytest.raises(LookupError, match="the caller left"):
            await reading
        slow.gate.set()
        await until(lambda: of_endless.streams.open == 0)
        targets.disk.open.set()
        await worker.close()
        assert slow.runs <= 1

    run(test())


async def _all(stream: Stream) -> None:
    while await stream.read() is not None:
        """Only the end matters."""


def test_who_leaves_between_two_parts_ends_the_model(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        endless = Counting()
        worker.serve("endless", endless)
        stream = worker.stream()
        stream.send(counting("endless", -1))
        assert numbers((await stream.next()).infer_response, np.int64) == [0]
        await stream.leave()
        await until(lambda: endless.ended == 1)
        await worker.close()

    run(test())


def test_a_model_that_streams_is_no_further_ahead_than_its_caller_reads(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        endless = Counting()
        worker.serve("endless", endless)
        worker.serve("m", Gated())
        stream = worker.stream()
        stream.send(counting("endless", -1))
        await stream.next()
        other = worker.stream()
        other.send(*(request("m", i) for i in range(200)))
        assert len(await other.rest()) == 200
        assert endless.made < 1000
        await stream.leave()
        await until(lambda: endless.ended == 1)
        await worker.close()

    run(test())


def test_what_the_transport_cannot_read_ends_the_stream_after_the_answers(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        worker.serve("m", Gated())
        stream = worker.stream()
        stream.send(request("m"))
        stream.breaks(TooLarge("a message too large"))
        assert numbers((await stream.next()).infer_response) == [2.0]
        with pytest.raises(TooLarge, match="a message too large"):
            await stream.next()
        await worker.close()

    run(test())


def test_a_server_that_drains_answers_what_it_has_read_and_ends_the_stream(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        slow = Gated()
        worker.serve("slow", slow, batching=THREADED)
        slow.gate.clear()
        idle, busy = worker.stream(), worker.stream()
        reading = asyncio.ensure_future(busy.next())
        busy.send(request("slow"))
        await until(lambda: slow.runs == 1)
        worker.lane.draining = True
        with pytest.raises(Unavailable, match="stopping"):
            await idle.next()
        slow.gate.set()
        assert numbers((await reading).infer_response) == [2.0]
        with pytest.raises(Unavailable, match="stopping"):
            await busy.next()
        await worker.close()

    run(test())


def test_bytes_in_flight_are_bounded(tmp_path: Path) -> None:
    async def test() -> None:
        asked = request("slow")
        worker = Worker(tmp_path, max_in_flight_bytes=3 * asked.ByteSize())
        slow = Gated()
        worker.serve("slow", slow, batching=THREADED)
        slow.gate.clear()
        stream = worker.stream()
        stream.send(*(asked for _ in range(5)))
        reading = asyncio.ensure_future(stream.next())
        await until(lambda: stream.taken == 5)
        slow.gate.set()
        answers = [await reading, *await stream.rest()]
        assert [bool(one.error_message) for one in answers] == [False, False, False, True, True]
        assert "as many bytes of requests as it may" in answers[-1].error_message
        await worker.close()

    run(test())


def test_the_deadline_of_the_stream_is_that_of_its_requests(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        worker.serve("slow", slow := Gated(), batching=BatchingConfig(inline_below_us=0, max_batch_size=1))
        slow.gate.clear()
        stream = worker.stream(timeout_s=0.05)
        stream.send(request("slow"), request("slow"))
        first = asyncio.ensure_future(stream.next())
        await until(lambda: slow.runs == 1)
        loop = asyncio.get_running_loop()
        passed = loop.time() + 0.06
        await until(lambda: loop.time() > passed)
        slow.gate.set()
        answers = [await first, *await stream.rest()]
        assert "deadline" in answers[1].error_message
        await worker.close()

    run(test())


def test_targets_are_loaded_for_their_requests(tmp_path: Path) -> None:
    async def test() -> None:
        targets = TargetsWorker(tmp_path / "models", (plain := Worker(tmp_path)).settings)
        targets.disk.put("three", 3)
        worker = Worker(tmp_path, targets.plane)
        stream = worker.stream()
        for target, identity in (("many:three", "a"), ("many:none", "b"), ("many", "c"), ("many:three", "d")):
            asked = pb.ModelInferRequest(model_name=target, id=identity)
            asked.inputs.add(name="x", datatype="FP32", shape=[2, 4])
            asked.raw_input_contents.append(np.array(many.ROWS, np.float32).tobytes())
            stream.send(asked)
        answers = await stream.rest()
        assert [one.infer_response.id for one in answers] == ["a", "b", "c", "d"]
        expected = [value for row in many.answer(3) for value in row]
        assert numbers(answers[0].infer_response) == numbers(answers[3].infer_response) == expected
        assert "there is no none" in answers[1].error_message
        assert "name one of its models as many:MODEL" in answers[2].error_message
        await plain.close()
        await worker.close()

    run(test())


def test_a_stream_without_requests_ends_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        assert await worker.stream().rest() == []

    run(test())


def test_bytes_that_are_no_message_name_the_place(tmp_path: Path) -> None:
    async def test() -> None:
        worker = Worker(tmp_path)
        stream = worker.stream(metadata={"triton_grpc_error": "true"})
        stream.send(b"\xff\xff")
        with pytest.raises(MalformedBody):
            await stream.next()

    run(test())
