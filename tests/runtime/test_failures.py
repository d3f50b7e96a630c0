"""What is logged of a model that fails: its endpoint, its variant and the exception, and no more than a few a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from serving.codecs.plan import InputPlan
from serving.contract import Array, BatchingConfig, ModelConfig, ModelSpec, TensorSpec
from serving.errors import InvalidInput, ModelFailure, ServingError
from serving.runtime.costs import Costs
from serving.runtime.dataplane import DataPlane
from serving.runtime.invocation import Face, Head, Invocation
from serving.runtime.model import Model, Pulse
from serving.runtime.routing import Endpoint, Snapshot
from serving.runtime.statistics import VariantStatistics

Execute = Callable[[Array], Any]


class Scripted:
    """A container that does what a function says."""

    def __init__(self, execute: Execute) -> None:
        x, y = TensorSpec("x", "FP32", (-1, 1)), TensorSpec("y", "FP32", (-1, 1))
        self.spec = ModelSpec((x,), (y,), platform="test", batched=True, why_not_batched="")
        self._execute = execute

    def execute(self, inputs: Sequence[Array]) -> Sequence[Array]:
        return [self._execute(inputs[0])]

    def close(self) -> None:
        """Nothing to free."""


class Caller:
    """A caller who waits for an answer or an error."""

    invocation: Invocation | None = None
    closed = False

    def __init__(self) -> None:
        self.got: asyncio.Future[bytes | ServingError] = asyncio.get_running_loop().create_future()

    def answer(self, invocation: Invocation, fields: bytes, body: bytes) -> None:
        self.got.set_result(body)

    def fail(self, head: Head, error: ServingError) -> None:
        self.got.set_result(error)


def call(execute: Execute, *values: float, **batching: Any) -> list[bytes | ServingError]:
    """The answers to as many requests at once, from the variant v1 of the endpoint fraud."""

    async def run() -> list[bytes | ServingError]:
        config = ModelConfig(name="fraud", batching=BatchingConfig(**batching))
        container = Scripted(execute)
        model = Model(container, config, Costs(), Pulse())
        endpoint = Endpoint("fraud", "v1", model, InputPlan(container.spec, "fraud"), VariantStatistics("fraud", "v1"))
        plane = DataPlane()
        plane.swap(Snapshot(1, [endpoint], "fraud"))
        callers = [Caller() for _ in values]
        for value, caller in zip(values, callers, strict=True):
            head = Head(Face.RUNTIME, "fraud")
            head.content_type = "application/json"
            plane.invoke(head, b'{"instances": [[%f]]}' % value, caller)
        answers = list(await asyncio.gather(*(caller.got for caller in callers)))
        ended = asyncio.Event()
        model.close(ended.set)
        await ended.wait()
        return answers

    return asyncio.run(run())


class Kept(logging.Handler):
    """Keeps records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """What is logged while the test runs."""
    logger, found = logging.getLogger("serving"), Kept()
    logger.addHandler(found)
    yield found.records
    logger.removeHandler(found)


def owner(record: logging.LogRecord) -> tuple[Any, Any]:
    return vars(record).get("endpoint"), vars(record).get("variant")


def test_an_exception_is_the_endpoints_with_its_text(records: list[logging.LogRecord]) -> None:
    def execute(x: Array) -> Any:
        raise ValueError("tree 7 is missing")

    (answer,) = call(execute, 1.0)
    assert isinstance(answer, ModelFailure)
    assert "tree 7" not in answer.message
    (record,) = records
    assert owner(record) == ("fraud", "v1")
    assert record.getMessage() == "model fraud version 1: model 'fraud' failed: ValueError"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "tree 7 is missing"


def test_what_the_container_says_is_told(records: list[logging.LogRecord]) -> None:
    def execute(x: Array) -> Any:
        raise ModelFailure("the session is gone")

    call(execute, 1.0)
    (record,) = records
    assert owner(record) == ("fraud", "v1")
    assert record.getMessage() == "model fraud version 1: the session is gone"


def test_a_fault_of_the_caller_is_not_logged(records: list[logging.LogRecord]) -> None:
    def execute(x: Array) -> Any:
        raise InvalidInput("no such word")

    call(execute, 1.0)
    assert records == []


def test_one_bad_request_of_a_batch_is_one_record(records: list[logging.LogRecord]) -> None:
    def execute(x: Array) -> Any:
        if 13.0 in x:
            raise ValueError("thirteen")
        return x

    answers = call(execute, *map(float, range(32)), max_batch_size=32, max_queue_delay_us=100_000)
    assert [isinstance(answer, ServingError) for answer in answers] == [number == 13 for number in range(32)]
    assert len(records) == 1


def test_a_batch_that_is_answered_apart_is_told(records: list[logging.LogRecord]) -> None:
    def execute(x: Array) -> Any:
        if len(x) > 1:
            raise MemoryError("too much at once")
        return x

    answers = call(execute, 1.0, 2.0, max_batch_size=2, max_queue_delay_us=100_000)
    assert all(isinstance(answer, bytes) for answer in answers)
    (record,) = records
    assert record.getMessage() == (
        "model fraud version 1, 2 requests at once, which it answered apart: model 'fraud' failed: MemoryError"
    )


def test_a_model_that_always_fails_floods_nothing(records: list[logging.LogRecord]) -> None:
    def execute(x: Array) -> Any:
        raise ValueError("always")

    answers = call(execute, *[1.0] * 2000, max_queue_wait_s=60.0)
    assert all(isinstance(answer, ModelFailure) for answer in answers)
    assert 10 <= len(records) < 100


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("no such word"), "a stream of model fraud: model 'fraud' failed: ValueError"),
        (ModelFailure("the session is gone"), "a stream of model fraud: the session is gone"),
        (InvalidInput("the caller's fault"), None),
    ],
)
def test_a_stream_that_fails_is_the_endpoints(
    records: list[logging.LogRecord], error: Exception, told: str | None
) -> None:
    class Streaming(Scripted):
        def stream(self, inputs: Sequence[Array]) -> Iterator[Sequence[Array]]:
            yield [inputs[0]]
            raise error

    async def run() -> None:
        container = Streaming(lambda x: x)
        container.spec = msgspec.structs.replace(
            container.spec, batched=False, why_not_batched="it streams", streams=True
        )
        model = Model(container, ModelConfig(name="fraud"), Costs(), Pulse())
        endpoint = Endpoint("fraud", "v1", model, InputPlan(container.spec, "fraud"), VariantStatistics("fraud", "v1"))
        plane = DataPlane()
        plane.swap(Snapshot(1, [endpoint], "fraud"))
        head = Head(Face.RUNTIME, "fraud")
        head.content_type, head.streamed = "application/json", True
        stream = await plane.stream(head, b'{"instances": [[1]]}', bytes)
        failure: ServingError | None = None
        try:
            while await stream.next() is not None:
                pass
        except ServingError as raised:
            failure = raised
        assert isinstance(failure, InvalidInput if told is None else ModelFailure)
        stream.leave()
        ended = asyncio.Event()
        model.close(ended.set)
        await ended.wait()

    asyncio.run(run())
    assert [(owner(record), record.getMessage()) for record in records] == ([(("fraud", "v1"), told)] if told else [])


def test_an_answer_that_cannot_be_written_is_the_endpoints(records: list[logging.LogRecord]) -> None:
    call(lambda x: np.full((len(x), 1), object(), object), 1.0)
    (record,) = records
    assert owner(record) == ("fraud", "v1")
    assert record.getMessage() == "an answer of fraud could not be encoded"
