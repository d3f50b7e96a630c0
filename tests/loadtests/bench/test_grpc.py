"""The gRPC load: what h2load is told and what is read from it, and the client that looks at what h2load does not see."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from loadtests.bench.grpc_calls import PATH, Client, message
from loadtests.bench.h2load import H2load, framed, parse
from loadtests.bench.load import LoadFailed
from loadtests.bench.models import FRAUD, Sample
from loadtests.bench.protocols import WrongAnswer

OUTPUT = """finished in 1.00s, 9214.00 req/s, 1.06MB/s
requests: 9230 total, 9230 started, 9214 done, 9213 succeeded, 1 failed, 2 errored, 3 timeout
status codes: 9213 2xx, 0 3xx, 4 4xx, 5 5xx
traffic: 1.06MB (1107440) total
"""
SAMPLE = Sample(FRAUD.rows(1)[0], np.array([0.25, 0.75], np.float32))


def test_reads_counts_and_latencies() -> None:
    load = parse(OUTPUT, 2.0, [100, 300, 200, 9000])
    assert (load.requests, load.requests_per_s, load.errors) == (9213, 4606.5, 15)
    assert (load.p50_ms, load.p99_ms) == (0.2, 9.0)


@pytest.mark.parametrize(("output", "latencies"), [("could not connect\n", [1]), (OUTPUT, [])])
def test_no_report_is_no_load(output: str, latencies: list[int]) -> None:
    with pytest.raises(LoadFailed, match="h2load did no work"):
        parse(output, 1.0, latencies)


def test_a_message_has_a_flag_and_its_length_in_front() -> None:
    assert framed(b"abc") == b"\0\0\0\0\x03abc"


def answer(row: list[float], name: str = FRAUD.output_name) -> bytes:
    tensor = service_pb2.ModelInferResponse.InferOutputTensor(name=name, datatype="FP32", shape=[1, len(row)])
    response = service_pb2.ModelInferResponse(
        model_name=FRAUD.name, outputs=[tensor], raw_output_contents=[np.array(row, np.float32).tobytes()]
    )
    serialized: bytes = response.SerializeToString()
    return serialized


RIGHT = answer([0.25, 0.75])


@contextlib.contextmanager
def answering(reply: Callable[[bytes, grpc.ServicerContext], bytes]) -> Iterator[int]:
    """The port of a gRPC server whose `ModelInfer` is that function of bytes."""

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: grpc.HandlerCallDetails) -> object:
            return grpc.unary_unary_rpc_method_handler(reply) if details.method == PATH else None

    server = grpc.server(ThreadPoolExecutor(4), handlers=[Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def test_the_message_asks_for_the_sample_with_raw_contents() -> None:
    request = service_pb2.ModelInferRequest.FromString(message(FRAUD, SAMPLE))
    assert (request.model_name, len(request.inputs)) == (FRAUD.name, 1)
    assert list(request.inputs[0].shape) == [1, *SAMPLE.input.shape]
    assert np.array_equal(np.frombuffer(request.raw_input_contents[0], np.float32), SAMPLE.input)


def test_a_right_answer_passes() -> None:
    with answering(lambda *_: RIGHT) as port, Client(port, FRAUD, SAMPLE) as client, client.asking():
        client.ask()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (answer([0.75, 0.25]), "answered"),
        (answer([0.25, 0.75], "other"), r"gave \[\('other'"),
        (answer([0.25]), r"\[1, 1\]"),
        (b"", r"gave \[\]"),
    ],
)
def test_wrong_tensors_are_seen(body: bytes, said: str) -> None:
    with (
        answering(lambda *_: body) as port,
        Client(port, FRAUD, SAMPLE) as client,
        pytest.raises(WrongAnswer, match=said),
    ):
        client.ask()


def test_a_status_in_the_trailers_is_seen() -> None:
    def refuse(_: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full")
        return b""

    with (
        answering(refuse) as port,
        Client(port, FRAUD, SAMPLE) as client,
        pytest.raises(WrongAnswer, match=r"RESOURCE_EXHAUSTED: the queue is full"),
    ):
        client.ask()


def test_a_wrong_answer_during_the_load_is_seen() -> None:
    with (
        answering(lambda *_: answer([1.0, 0.0])) as port,
        Client(port, FRAUD, SAMPLE) as client,
        pytest.raises(WrongAnswer),
        client.asking(),
    ):
        pass


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed")
def test_a_load_is_measured() -> None:
    seen: list[bytes] = []

    def reply(body: bytes, _: grpc.ServicerContext) -> bytes:
        seen.append(body)
        return RIGHT

    asked = message(FRAUD, SAMPLE)
    with answering(reply) as port, H2load(port, PATH, asked, 2, 1, max(os.sched_getaffinity(0))) as running:
        load = running.result()
    assert 0 < load.requests <= len(seen)
    assert set(seen) == {asked}
    assert load.errors == 0
    assert 0 < load.p50_ms <= load.p99_ms


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed")
def test_nobody_listening_is_no_load() -> None:
    with answering(lambda *_: RIGHT) as port:
        pass
    with H2load(port, PATH, b"", 1, 1, max(os.sched_getaffinity(0))) as running, pytest.raises(LoadFailed):
        running.result()
