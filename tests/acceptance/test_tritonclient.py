"""tritonclient's gRPC clients, unmodified, against a real server over each transport; its HTTP clients beside them.

`test_tritonclient_http.py` has what inference over HTTP does.
"""

from __future__ import annotations

import asyncio
import queue
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

import serving
from tests.acceptance.conftest import echo_of
from tests.acceptance.test_tritonclient_http import SAMPLES, same
from tests.conftest import StartServer
from tests.support import onnx_models, scripted
from tests.support import server as support
from tests.support.certificates import Authority, Certificate, needs_openssl
from tests.support.clients import Background, get, metric
from tests.support.grpc import TRANSPORTS, grpc_address
from tests.support.server import Server, wait_until

Array = np.ndarray[Any, Any]
Infer = Callable[..., Any]
Ask = Callable[..., Any]

# The asyncio client of HTTP leaves the connection of a refusal to the collector, whenever that comes.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

WITHIN_S = 20.0
SERVICE = "inference.GRPCInferenceService"
SLOW_MS = 500.0
FLOATS = np.ones((1, 4), np.float32)


@dataclass(frozen=True, slots=True)
class Place:
    """A server and where it serves gRPC."""

    server: Server
    address: str

    @property
    def http(self) -> str:
        """Where it serves HTTP, as Triton's client wants it."""
        return f"{self.server.host}:{self.server.port}"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models `slow` (one row at a time) and `script`, which answers in parts."""
    root = tmp_path_factory.mktemp("triton")
    slow = onnx_models.slow(root / "models" / "slow" / "model.onnx", SLOW_MS, rows=1)
    (slow.parent / "model.yaml").write_text("warmup: false\nbatching: {max_queue_wait_s: 60}\n")
    scripted.make(root / "models" / "script")
    return root


@pytest.fixture(scope="module")
def environment(models: Path) -> dict[str, str]:
    """What lets a server find the container of `script`."""
    return scripted.install(models / "site")


@pytest.fixture(scope="module", params=TRANSPORTS)
def place(
    request: pytest.FixtureRequest,
    repository: Path,
    models: Path,
    environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Place]:
    """A server of all models over one transport; tests must leave it as they found it."""
    arguments: list[str | Path] = [
        "--model-repository",
        repository,
        "--model-repository",
        models / "models",
        "--grpc-port",
        "0",
    ]
    arguments += ["--grpc-transport", request.param, "--model-control-mode", "explicit", "--load-model", "*"]
    arguments += ["--workers", "2"]
    state_dir = tmp_path_factory.mktemp("triton-server") / "state"
    with support.running(*arguments, state_dir=state_dir, env=environment) as server:
        wait_until(lambda: "\nready\n" in server.output, WITHIN_S, "both workers")
        yield Place(server, grpc_address(server))
        assert not server.unexpected()


@pytest.fixture
def client(place: Place) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(place.address) as opened:
        yield opened


def by_callback(client: triton.InferenceServerClient, *args: Any, **kwargs: Any) -> Any:
    """`async_infer`, waited for."""
    outcome: Future[Any] = Future()

    def told(result: Any, error: Exception | None) -> None:
        if error is None:
            outcome.set_result(result)
        else:
            outcome.set_exception(error)

    client.async_infer(*args, callback=told, **kwargs)
    return outcome.result(WITHIN_S)


def by_stream(client: triton.InferenceServerClient, *args: Any, **kwargs: Any) -> Any:
    """One request on a stream of its own."""
    answers: queue.Queue[tuple[Any, Exception | None]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    try:
        client.async_stream_infer(*args, **kwargs)
        result, error = answers.get(timeout=WITHIN_S)
    finally:
        client.stop_stream()
    if error is not None:
        raise error
    return result


def with_aio(address: str, call: Callable[[triton_aio.InferenceServerClient], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with triton_aio.InferenceServerClient(address) as client:
            return await call(client)

    return asyncio.run(run())


async def by_aio_stream(client: triton_aio.InferenceServerClient, *args: Any, **kwargs: Any) -> Any:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": args[0], "inputs": args[1], **kwargs}

    (answer,) = [pair async for pair in client.stream_infer(requests())]
    result, error = answer
    if error is not None:
        raise error
    return result


UNARY = ["infer", "async_infer", "aio"]


def infer_by(way: str, place: Place, client: triton.InferenceServerClient) -> Infer:
    if way == "infer":
        found: Infer = client.infer
        return found
    if way == "async_infer":
        return lambda *args, **kwargs: by_callback(client, *args, **kwargs)
    if way == "stream":
        return lambda *args, **kwargs: by_stream(client, *args, **kwargs)
    if way == "aio":
        return lambda *args, **kwargs: with_aio(place.address, lambda other: other.infer(*args, **kwargs))
    return lambda *args, **kwargs: with_aio(place.address, lambda other: by_aio_stream(other, *args, **kwargs))


@pytest.fixture(params=[*UNARY, "stream", "aio_stream"])
def infer(request: pytest.FixtureRequest, place: Place, client: triton.InferenceServerClient) -> Infer:
    """`infer` by each way that the clients have."""
    return infer_by(request.param, place, client)


@pytest.fixture(params=UNARY)
def call(request: pytest.FixtureRequest, place: Place, client: triton.InferenceServerClient) -> Infer:
    """`infer` by each way that is a call of its own, with headers, a timeout and compression."""
    return infer_by(request.param, place, client)


@pytest.fixture(params=["grpc", "grpc.aio", "http", "http.aio"])
def ask(request: pytest.FixtureRequest, place: Place) -> Ask:
    """A method of each client by its name; answers of gRPC in their JSON form."""

    def asked(name: str, *args: Any, **kwargs: Any) -> Any:
        kind, _, aio = request.param.partition(".")
        if kind == "grpc" and name.startswith(("get_", "update_")):
            kwargs["as_json"] = True
        if not aio:
            module, address = (triton, place.address) if kind == "grpc" else (triton_http, place.http)
            with module.InferenceServerClient(address) as client:
                return getattr(client, name)(*args, **kwargs)

        async def run() -> Any:
            module, address = (triton_aio, place.address) if kind == "grpc" else (triton_http_aio, place.http)
            async with module.InferenceServerClient(address) as client:
                return await getattr(client, name)(*args, **kwargs)

        return asyncio.run(run())

    return asked


def tensor(name: str, value: Array, datatype: str | None = None) -> triton.InferInput:
    made = triton.InferInput(name, list(value.shape), datatype or np_to_triton_dtype(value.dtype))
    made.set_data_from_numpy(value)
    return made


def wanted(*names: str, class_count: int = 0) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, class_count=class_count) for name in names]


def refused(words: str, ask: Callable[[], Any]) -> str | None:
    """The status of a call that fails with these words."""
    with pytest.raises(InferenceServerException, match=words) as caught:
        ask()
    status: str | None = caught.value.status()
    return status


# ---------------------------------------------------------------------- health and metadata


def test_server(ask: Ask) -> None:
    assert ask("is_server_live") is True
    assert ask("is_server_ready") is True
    metadata = ask("get_server_metadata")
    assert metadata["name"] == "serving"
    assert metadata["version"] == serving.__version__
    assert {"model_configuration", "statistics", "trace", "logging"} <= set(metadata["extensions"])


def test_model_readiness(ask: Ask) -> None:
    assert ask("is_model_ready", "arithmetic") is True
    assert ask("is_model_ready", "limited", "3") is True
    assert ask("is_model_ready", "limited", "4") is False
    assert ask("is_model_ready", "no-such") is False


def test_model_metadata(ask: Ask) -> None:
    metadata = ask("get_model_metadata", "arithmetic")
    assert metadata["name"] == "arithmetic"
    assert metadata["platform"] == "onnxruntime_onnx"
    assert [(one["name"], one["datatype"]) for one in metadata["inputs"]] == [("a", "FP32"), ("b", "INT64")]
    assert [[int(side) for side in one["shape"]] for one in metadata["outputs"]] == [[-1, 2], [-1, 2]]
    assert ask("get_model_metadata", "limited", "3")["versions"] == ["3"]
    assert refused("no-such", lambda: ask("get_model_metadata", "no-such")) in ("StatusCode.NOT_FOUND", "404")


def test_model_config(ask: Ask) -> None:
    answer = ask("get_model_config", "from_triton")
    config = answer.get("config", answer)
    assert config["name"] == "from_triton"
    assert config["platform"] == "onnxruntime_onnx"
    assert int(config["max_batch_size"]) == 8
    assert [(one["name"], one["data_type"], [int(side) for side in one["dims"]]) for one in config["input"]] == [
        ("x", "TYPE_FP32", [3])
    ]
    assert [int(size) for size in config["dynamic_batching"]["preferred_batch_size"]] == [4, 8]
    assert refused("no-such", lambda: ask("get_model_config", "no-such")) in ("StatusCode.NOT_FOUND", "404")


def test_health_service(place: Place) -> None:
    with grpc.insecure_channel(place.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=WITHIN_S)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="no-such"), timeout=WITHIN_S)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        watched = stub.Watch(health_pb2.HealthCheckRequest(service=""), timeout=WITHIN_S)
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        watched.cancel()


def test_reflection(place: Place) -> None:
    with grpc.insecure_channel(place.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert SERVICE in database.get_services()
        described = database.FindFileContainingSymbol(SERVICE)
        methods = [method.name for service in described.service for method in service.method]
        assert {"ModelInfer", "ModelStreamInfer", "ModelConfig"} <= set(methods)


# ---------------------------------------------------------------------- statistics, repository, trace, log


def test_statistics(ask: Ask, client: triton.InferenceServerClient) -> None:
    def count() -> tuple[int, int]:
        (row,) = ask("get_inference_statistics", "limited")["model_stats"]
        assert (row["name"], row["version"]) == ("limited", "3")
        return int(row["inference_count"]), int(row["inference_stats"]["success"]["count"])

    client.infer("limited", [tensor("x", FLOATS)])
    inferences, successes = count()
    client.infer("limited", [tensor("x", np.ones((5, 4), np.float32))])
    assert count() == (inferences + 5, successes + 1)
    names = {row["name"] for row in ask("get_inference_statistics")["model_stats"]}
    assert {"limited", "arithmetic", "slow"} <= names
    assert refused("no-such", lambda: ask("get_inference_statistics", "no-such")) in (
        "StatusCode.NOT_FOUND", "404", "400"
    )  # fmt: skip


def test_repository(ask: Ask, place: Place) -> None:
    def state(name: str) -> set[str]:
        answer = ask("get_model_repository_index")
        rows = answer.get("models", []) if isinstance(answer, dict) else answer
        return {row.get("state", "") for row in rows if row["name"] == name}

    assert "READY" in state("table")
    ask("unload_model", "table")
    assert ask("is_model_ready", "table") is False
    assert "READY" not in state("table")
    ask("load_model", "table")
    assert ask("is_model_ready", "table") is True
    assert "READY" in state("table")
    assert refused("no-such", lambda: ask("load_model", "no-such")) in (
        "StatusCode.NOT_FOUND",
        "404",
        "400",
        "StatusCode.INVALID_ARGUMENT",
    )
    config = '{"max_batch_size": 4, "dynamic_batching": {}}'
    ask("load_model", "from_triton", config=config)
    answer = ask("get_model_config", "from_triton")
    assert int(answer.get("config", answer)["max_batch_size"]) == 4
    ask("load_model", "from_triton")
    answer = ask("get_model_config", "from_triton")
    assert int(answer.get("config", answer)["max_batch_size"]) == 8


def levels(answer: Any) -> Any:
    """The value of `trace_level`, by HTTP or gRPC."""
    settings = answer.get("settings", answer)
    found = settings["trace_level"]
    return found["value"] if isinstance(found, dict) else found


def test_trace_settings(ask: Ask) -> None:
    assert levels(ask("get_trace_settings")) == ["OFF"]
    try:
        changed = ask("update_trace_settings", "limited", {"trace_level": ["TIMESTAMPS"], "trace_rate": "500"})
        assert levels(changed) == ["TIMESTAMPS"]
        assert levels(ask("get_trace_settings", "limited")) == ["TIMESTAMPS"]
        assert levels(ask("get_trace_settings")) == ["OFF"]
    finally:
        ask("update_trace_settings", "limited", {"trace_level": None, "trace_rate": None})
    assert levels(ask("get_trace_settings", "limited")) == ["OFF"]
    refused("no-such", lambda: ask("get_trace_settings", "no-such"))


def test_log_settings(ask: Ask) -> None:
    def verbose(answer: Any) -> int:
        found = answer.get("settings", answer)["log_verbose_level"]
        return int(found["uint32_param"] if isinstance(found, dict) else found)

    assert verbose(ask("get_log_settings")) == 0
    try:
        assert verbose(ask("update_log_settings", {"log_verbose_level": 1})) == 1
        assert verbose(ask("get_log_settings")) == 1
    finally:
        ask("update_log_settings", {"log_verbose_level": 0})
    refused("log_bogus", lambda: ask("update_log_settings", {"log_bogus": True}))


@pytest.mark.parametrize("what", ["system", "cuda"])
def test_shared_memory_is_refused_by_name(client: triton.InferenceServerClient, what: str) -> None:
    name = f"get_{what}_shared_memory_status"
    assert refused("shared memory", getattr(client, name)) == "StatusCode.UNIMPLEMENTED"


# ---------------------------------------------------------------------- tensors


@pytest.mark.parametrize("datatype", list(SAMPLES))
def test_every_datatype(infer: Infer, datatype: str) -> None:
    value = SAMPLES[datatype]
    result = infer(echo_of(datatype), [tensor("x", value, datatype)], outputs=wanted("y"))
    got = result.as_numpy("y")
    if datatype == "BYTES":
        assert got.tolist() == [[text.encode() for text in row] for row in value]
    elif datatype == "BF16":
        same(got.astype(np.float32), value.astype(np.float32))
    else:
        same(got, value)
    assert result.get_output("y").datatype == datatype
    assert result.get_response().model_name == echo_of(datatype)


def test_an_empty_batch_of_strings_and_a_long_one(infer: Infer) -> None:
    value = np.array([["", "x" * 100_000]], np.object_)
    assert infer("echo-bytes", [tensor("x", value)]).as_numpy("y").tolist() == [[b"", b"x" * 100_000]]


def test_several_tensors_in_any_order(infer: Infer) -> None:
    a, b = np.array([[1.5, 2], [3, 4]], np.float32), np.array([[2, 3], [4, 5]], np.int64)
    for inputs in ([tensor("a", a), tensor("b", b)], [tensor("b", b), tensor("a", a)]):
        result = infer("arithmetic", inputs, outputs=wanted("product", "sum"))
        same(result.as_numpy("sum"), a + b.astype(np.float32))
        same(result.as_numpy("product"), a * b.astype(np.float32))


def test_only_the_outputs_that_were_asked_for(infer: Infer) -> None:
    inputs = [tensor("a", np.ones((1, 2), np.float32)), tensor("b", np.ones((1, 2), np.int64))]
    result = infer("arithmetic", inputs, outputs=wanted("product"))
    assert [output.name for output in result.get_response().outputs] == ["product"]
    assert result.as_numpy("sum") is None


def test_big_tensors(infer: Infer) -> None:
    value = np.arange(1_500_000, dtype=np.float32).reshape(3, -1)
    np.testing.assert_array_equal(infer("echo-fp32", [tensor("x", value)]).as_numpy("y"), value)


def test_classification(infer: Infer) -> None:
    value = np.array([[0.25, 4, 0, 1], [8, 0, -1, 2]], np.float32)
    result = infer("limited", [tensor("x", value)], outputs=wanted("y", class_count=2))
    parts = [[text.decode().split(":") for text in row] for row in result.as_numpy("y").tolist()]
    assert [[(float(score), int(index), label) for score, index, label in row] for row in parts] == [
        [(4.0, 1, "east"), (1.0, 3, "west")],
        [(8.0, 0, "north"), (2.0, 3, "west")],
    ]


# ---------------------------------------------------------------------- what goes with a request


def test_the_request_id_comes_back(infer: Infer) -> None:
    result = infer("echo-fp32", [tensor("x", SAMPLES["FP32"])], request_id="order 66/\u00e4")
    assert result.get_response().id == "order 66/\u00e4"


def test_the_version(infer: Infer) -> None:
    assert infer("limited", [tensor("x", FLOATS)], model_version="3").get_response().model_version == "3"
    refused("version 4", lambda: infer("limited", [tensor("x", FLOATS)], model_version="4"))


def test_priority(infer: Infer) -> None:
    for priority in (0, 1, 3):
        same(infer("limited", [tensor("x", FLOATS)], priority=priority).as_numpy("y"), FLOATS)
    refused("priority 4 is over the 3 levels", lambda: infer("limited", [tensor("x", FLOATS)], priority=4))


def test_a_timeout_of_the_request(infer: Infer) -> None:
    same(infer("limited", [tensor("x", FLOATS)], timeout=10_000_000).as_numpy("y"), FLOATS)


def test_custom_parameters(infer: Infer) -> None:
    same(infer("limited", [tensor("x", FLOATS)], parameters={"mine": "kept"}).as_numpy("y"), FLOATS)


def test_headers(call: Infer) -> None:
    same(call("limited", [tensor("x", FLOATS)], headers={"x-custom": "1"}).as_numpy("y"), FLOATS)


def test_sequences_are_refused_by_name(infer: Infer) -> None:
    refused("sequence", lambda: infer("limited", [tensor("x", FLOATS)], sequence_id=7, sequence_start=True))


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(call: Infer, algorithm: str) -> None:
    for columns in (3, 20_000):
        value = np.arange(2 * columns, dtype=np.int32).reshape(2, columns)
        result = call("echo-int32", [tensor("x", value)], compression_algorithm=algorithm)
        same(result.as_numpy("y"), value)


def test_a_compressed_stream(client: triton.InferenceServerClient) -> None:
    answers: queue.Queue[tuple[Any, Exception | None]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)), compression_algorithm="gzip")
    value = np.arange(40_000, dtype=np.int32).reshape(2, -1)
    client.async_stream_infer("echo-int32", [tensor("x", value)])
    result, error = answers.get(timeout=WITHIN_S)
    client.stop_stream()
    assert error is None
    same(result.as_numpy("y"), value)


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("model", "name", "value", "status", "words"),
    [
        ("no-such", "x", FLOATS, "NOT_FOUND", "unknown model: 'no-such' is not found"),
        ("limited", "x", np.ones((1, 5), np.float32), "INVALID_ARGUMENT", r"input 'x'.*\[1, ?5\].*4\]"),
        ("limited", "x", np.ones(4, np.float32), "INVALID_ARGUMENT", "input 'x'.*shape"),
        ("limited", "x", np.ones((1, 4), np.float64), "INVALID_ARGUMENT", "input 'x'.*FP64.*FP32"),
        ("limited", "z", FLOATS, "INVALID_ARGUMENT", "'z'"),
        ("arithmetic", "a", np.ones((1, 2), np.float32), "INVALID_ARGUMENT", "input 'b' is missing"),
        ("table", "index", np.array([[10]], np.int64), "INTERNAL", "the model failed while it ran"),
    ],
)
def test_errors(infer: Infer, model: str, name: str, value: Array, status: str, words: str) -> None:
    # On a stream the message alone tells.
    assert refused(words, lambda: infer(model, [tensor(name, value)])) in (f"StatusCode.{status}", None)
    same(infer("limited", [tensor("x", FLOATS)]).as_numpy("y"), FLOATS)


def test_codes(call: Infer) -> None:
    assert refused("not found", lambda: call("no-such", [tensor("x", FLOATS)])) == "StatusCode.NOT_FOUND"
    assert refused("'z'", lambda: call("limited", [tensor("z", FLOATS)])) == "StatusCode.INVALID_ARGUMENT"


def test_an_unknown_output(infer: Infer) -> None:
    refused("'nothing'", lambda: infer("limited", [tensor("x", FLOATS)], outputs=wanted("nothing")))


def test_a_request_that_is_too_large(call: Infer) -> None:
    value = np.zeros((1, 8_000_000), np.float32)
    assert refused(".", lambda: call("echo-fp32", [tensor("x", value)])) == "StatusCode.RESOURCE_EXHAUSTED"


# ---------------------------------------------------------------------- time, and callers who leave


def test_a_deadline(call: Infer) -> None:
    status = refused("(?i)deadline", lambda: call("slow", [tensor("x", FLOATS)], client_timeout=0.1))
    assert status == "StatusCode.DEADLINE_EXCEEDED"
    # A deadline is of one call, however equal the next is.
    same(call("slow", [tensor("x", FLOATS)]).as_numpy("y"), FLOATS)


def test_a_timeout_that_passes(infer: Infer) -> None:
    status = refused(".", lambda: infer("slow", [tensor("x", FLOATS)], timeout=50_000))
    assert status in ("StatusCode.DEADLINE_EXCEEDED", "StatusCode.UNAVAILABLE", None)


def waiting(place: Place) -> float:
    return metric(place.server, "serving_queue_requests", model="slow")


def runs(client: triton.InferenceServerClient) -> int:
    """How often `slow` has run, once it has answered a request more."""
    same(client.infer("slow", [tensor("x", FLOATS)]).as_numpy("y"), FLOATS)
    (row,) = client.get_inference_statistics("slow").model_stats
    return int(row.execution_count)


def test_a_cancelled_call_frees_the_queue(place: Place, client: triton.InferenceServerClient) -> None:
    before = runs(client)
    calls = [client.async_infer("slow", [tensor("x", FLOATS)], callback=lambda result, error: None) for _ in range(3)]
    wait_until(lambda: waiting(place) == 2, WITHIN_S, "one that runs and two that wait")
    for one in calls:
        one.cancel()
    wait_until(lambda: waiting(place) == 0, WITHIN_S, "an empty queue")
    # The one that ran, and the one that asks.
    assert runs(client) <= before + 2


def test_a_stream_that_is_cancelled(place: Place, client: triton.InferenceServerClient) -> None:
    before = runs(client)
    client.start_stream(lambda result, error: None)
    for _ in range(3):
        client.async_stream_infer("slow", [tensor("x", FLOATS)])
    wait_until(lambda: waiting(place) == 2, WITHIN_S, "one that runs and two that wait")
    client.stop_stream(cancel_requests=True)
    wait_until(lambda: waiting(place) == 0, WITHIN_S, "an empty queue")
    assert runs(client) <= before + 2


def test_a_stream_whose_deadline_passes(client: triton.InferenceServerClient) -> None:
    answers: queue.Queue[tuple[Any, Exception | None]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)), stream_timeout=0.2)
    client.async_stream_infer("slow", [tensor("x", FLOATS)])
    _, error = answers.get(timeout=WITHIN_S)
    assert isinstance(error, InferenceServerException)
    assert "deadline" in error.message().lower()
    client.stop_stream()


# ---------------------------------------------------------------------- many at once, and streams


def values(count: int) -> Sequence[Array]:
    return [np.full((1 + number % 3, 4), number, np.float32) for number in range(count)]


def test_many_at_once(client: triton.InferenceServerClient) -> None:
    sent = values(200)
    answers: queue.Queue[tuple[Any, Exception | None]] = queue.Queue()
    for number, value in enumerate(sent):
        client.async_infer(
            "limited",
            [tensor("x", value)],
            callback=lambda result, error: answers.put((result, error)),
            request_id=str(number),
        )
    for _ in sent:
        result, error = answers.get(timeout=WITHIN_S)
        assert error is None
        same(result.as_numpy("y"), sent[int(result.get_response().id)])


def test_many_at_once_with_asyncio(place: Place) -> None:
    sent = values(200)

    async def run(client: triton_aio.InferenceServerClient) -> list[Any]:
        return await asyncio.gather(*(client.infer("limited", [tensor("x", value)]) for value in sent))

    for value, result in zip(sent, with_aio(place.address, run), strict=True):
        same(result.as_numpy("y"), value)


def test_a_stream_answers_in_order(client: triton.InferenceServerClient) -> None:
    sent = values(200)
    answers: queue.Queue[tuple[Any, Exception | None]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number, value in enumerate(sent):
        client.async_stream_infer("limited", [tensor("x", value)], request_id=str(number))
    for number, value in enumerate(sent):
        result, error = answers.get(timeout=WITHIN_S)
        assert error is None
        assert result.get_response().id == str(number)
        same(result.as_numpy("y"), value)
    client.stop_stream()


def test_an_error_does_not_end_a_stream(client: triton.InferenceServerClient) -> None:
    answers: queue.Queue[tuple[Any, Exception | None]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("no-such", [tensor("x", FLOATS)])
    client.async_stream_infer("limited", [tensor("x", FLOATS)])
    _, error = answers.get(timeout=WITHIN_S)
    assert isinstance(error, InferenceServerException)
    assert "no-such" in error.message()
    result, error = answers.get(timeout=WITHIN_S)
    assert error is None
    same(result.as_numpy("y"), FLOATS)
    client.stop_stream()


def test_an_answer_in_parts(client: triton.InferenceServerClient) -> None:
    answers: queue.Queue[tuple[Any, Exception | None]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    order = np.array([3, 2], np.int64)
    name = client.get_model_metadata("script").inputs[0].name
    client.async_stream_infer("script", [tensor(name, order)], request_id="parts", enable_empty_final_response=True)
    parts: list[Any] = []
    while True:
        result, error = answers.get(timeout=WITHIN_S)
        assert error is None
        response = result.get_response()
        assert response.id == "parts"
        if response.parameters["triton_final_response"].bool_param:
            break
        parts.append(result)
    assert len(parts) == 3
    client.stop_stream()


def test_http_and_grpc_agree(place: Place, client: triton.InferenceServerClient) -> None:
    with triton_http.InferenceServerClient(place.http) as other:
        value = np.array([[0.5, -1, 2, 3e8]], np.float32)
        asked = triton_http.InferInput("x", [1, 4], "FP32")
        asked.set_data_from_numpy(value)
        same(other.infer("limited", [asked]).as_numpy("y"), client.infer("limited", [tensor("x", value)]).as_numpy("y"))


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_http_and_grpc_share_batches(kind: str, start_server: StartServer, tmp_path: Path) -> None:
    model = onnx_models.slow(tmp_path / "shared" / "model.onnx", SLOW_MS)
    (model.parent / "model.yaml").write_text("batching: {max_queue_wait_s: 60}\n")
    server = start_server("--model", model.parent, "--grpc-port", "0", "--grpc-transport", kind)
    answers: queue.Queue[tuple[Any, Exception | None]] = queue.Queue()
    with triton.InferenceServerClient(grpc_address(server)) as client:

        def ask() -> None:
            client.async_infer(
                "shared", [tensor("x", FLOATS)], callback=lambda result, error: answers.put((result, error))
            )

        ask()
        wait_until(lambda: metric(server, "serving_grpc_calls") == 1, WITHIN_S, "one that runs")
        by_http = [Background(server, "/invocations", FLOATS.tolist()) for _ in range(3)]
        for _ in range(3):
            ask()
        assert [one.answer().json for one in by_http] == [FLOATS.tolist()] * 3
        for _ in range(4):
            result, error = answers.get(timeout=WITHIN_S)
            assert error is None
            same(result.as_numpy("y"), FLOATS)
    batches = get(server, "/debug/models/shared/batches").json
    assert max(batch["rows"] for batch in batches) > 3, batches


# ---------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("keys"))


def secured(address: str, root: Path, own: Certificate | None = None) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(
        address,
        ssl=True,
        root_certificates=str(root),
        private_key=str(own.key) if own else None,
        certificate_chain=str(own.file) if own else None,
    )


@needs_openssl
@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mutual"])
def test_tls(kind: str, mutual: bool, authority: Authority, repository: Path, tmp_path: Path) -> None:
    own = authority.sign("server")
    arguments: list[str | Path] = ["--model", repository / "limited", "--grpc-port", "0", "--grpc-transport", kind]
    arguments += ["--tls-cert", own.file, "--tls-key", own.key]
    arguments += ["--tls-client-ca", authority.file] if mutual else []
    server = support.start(*arguments, state_dir=tmp_path / "state")
    try:
        wait_until(lambda: "\nready\n" in server.output, WITHIN_S, "the line ready")
        address = grpc_address(server)
        caller = authority.sign("caller") if mutual else None
        with secured(address, authority.file, caller) as client:
            same(client.infer("limited", [tensor("x", FLOATS)]).as_numpy("y"), FLOATS)
        with triton.InferenceServerClient(address) as plain:
            refused(".", lambda: plain.is_server_live(client_timeout=WITHIN_S))
        if mutual:
            with secured(address, authority.file) as nobody:
                refused(".", lambda: nobody.is_server_live(client_timeout=WITHIN_S))
        assert not server.unexpected()
    finally:
        server.end()


def test_the_start_tells_the_port(place: Place) -> None:
    assert re.search(rf"^gRPC on {re.escape(place.address)}$", place.server.output, re.MULTILINE)
