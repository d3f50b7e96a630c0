"""The table of docs/faults.md, provoked row by row on a real server."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import orjson
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from serving import errors
from serving.codecs.grpc_messages import messages
from serving.frontends.grpc.headers import trailers_of
from serving.frontends.http.faces import Faces
from serving.runtime.invocation import Face
from tests.frontends.http2 import calls, frames
from tests.frontends.rows.row import JSON, MEBIBYTE, ROW, inputs, tensor
from tests.support import many
from tests.support import server as support
from tests.support.grpc import Outcome, failure, grpc_address, outcome_of, streamed
from tests.support.notebook import ROLE
from tests.support.server import Server, wait_until
from tests.support.wire import Answer, Wire, request

TABLE = Path(__file__).parents[2] / "docs" / "faults.md"

FACES = (Face.CONTAINER, Face.RUNTIME, Face.OPEN_INFERENCE)

MANY_SPINS = 3_000_000
"""Turns of `busy` that take seconds: longer than a test needs the slot, and not for ever."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A cell of the table: status, error class, and `OriginalStatusCode` of a ModelError; and the text as a pattern."""

    status: int
    error: str
    original: int | None
    text: re.Pattern[str]


def cell(text: str, words: str) -> Expected:
    """Reads a cell, such as "424 ModelError (400)", with the text for it."""
    found = re.fullmatch(r"(\d{3})(?: (\w+))?(?: \((\d+)\))?", text)
    assert found, f"not a cell of the table: {text}"
    return Expected(int(found[1]), found[2] or "", int(found[3]) if found[3] else None, pattern(words))


def pattern(words: str) -> re.Pattern[str]:
    """A text of the table as a pattern."""
    return re.compile(".*".join(map(re.escape, words.split("…"))))


def rows() -> Iterator[tuple[str, list[str], list[str]]]:
    """Every fault with its cells and, for each of them, its text."""
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    for line in lines[1:]:
        fault, *cells, text = (part.strip() for part in line.strip("|").split("|"))
        yield fault, cells, spread(text.split(" / "))


def spread(texts: list[str]) -> list[str]:
    """A text for each column: of two, the second is gRPC's; of three, the third is also gRPC's."""
    return [*(texts[:3] if len(texts) > 2 else texts[:1] * 3), texts[-1]]


def table() -> Iterator[tuple[str, Face, Expected]]:
    """Every fault on every face of HTTP where it can happen."""
    for fault, cells, texts in rows():
        for face, content, words in zip(FACES, cells, texts, strict=False):
            if content != "-":
                yield fault, face, cell(content, words)


CASES = list(table())

GRPC_CASES = [(fault, cells[-1], pattern(texts[-1])) for fault, cells, texts in rows() if cells[-1] != "-"]
"""Every fault that can happen over gRPC, the name of its code, and its text."""


# ---------------------------------------------------------------- requests

MANY = "many"
"""The endpoint of many models, and, as a default model, the server that has it."""

COLD_MODELS = 8
COLD = (f"cold{number}.tar.gz" for number in range(COLD_MODELS))
"""Models of `many`, each of which is asked for once."""


def to_target(face: Face, target: str | None, *fields: str, endpoint: str = MANY) -> bytes:
    """An invocation of a model of an endpoint, or of the endpoint itself."""
    if face is Face.OPEN_INFERENCE:
        return request(path(face, endpoint if target is None else f"{endpoint}:{target}"), four(face), *fields)
    if face is Face.CONTAINER and target is not None:
        return request(f"/models/{target}/invoke", b"[[1,2,3,4]]", JSON, *fields)
    named = [] if target is None else [f"X-Amzn-SageMaker-Target-Model: {target}"]
    return post(face, endpoint, b"[[1,2,3,4]]", JSON, *named, *fields)


def to_load(face: Face, name: str, models: Path) -> bytes:
    """A request for which a model has to be loaded: where it is named, or, by the platform, where it is added."""
    return added(name, models) if face is Face.CONTAINER else to_target(face, f"{name}.tar.gz")


def added(name: str, models: Path) -> bytes:
    """A call that adds a model to a container."""
    return request("/models", orjson.dumps({"model_name": name, "url": str(models / name)}), JSON)


def post(face: Face, model: str, body: bytes, *fields: str, method: str = "POST", host: str = "localhost") -> bytes:
    """An invocation by a face; on `/invocations` the server's default model is meant."""
    return request(path(face, model), body, *fields, method=method, host=host)


def path(face: Face, model: str) -> str:
    """Where a face takes invocations."""
    if face is Face.CONTAINER:
        return "/invocations"
    return f"/endpoints/{model}/invocations" if face is Face.RUNTIME else f"/v2/models/{model}/infer"


def ask_for(face: Face, name: str, datatype: str, shape: list[int], values: list[Any]) -> bytes:
    """A body of one input in the words of the face; `values` are its rows."""
    if face is Face.OPEN_INFERENCE:
        flat = [number for row in values for number in (row if isinstance(row, list) else [row])]
        return orjson.dumps(inputs(tensor(name, datatype, shape, data=flat)))
    return orjson.dumps({"instances": values})


def four(face: Face) -> bytes:
    """What `linear` takes."""
    return ask_for(face, "x", "FP32", [1, 4], [[1, 2, 3, 4]])


def spins(face: Face, count: int) -> bytes:
    """What `slow` and `busy` take."""
    return ask_for(face, "spins", "INT64", [1], [count])


Ask = Callable[[Face], bytes]

REQUESTS: dict[str, tuple[str | None, Ask]] = {
    "malformed body": ("linear", lambda face: post(face, "linear", b"{", JSON)),
    "wrong shape": (
        "linear",
        lambda face: post(face, "linear", ask_for(face, "x", "FP32", [1, 3], [[1, 2, 3]]), JSON),
    ),
    "unsupported media type": ("linear", lambda face: post(face, "linear", ROW, "Content-Type: image/png")),
    "not acceptable": ("linear", lambda face: post(face, "linear", four(face), JSON, "Accept: image/png")),
    "unknown name": (None, lambda face: post(face, "other", four(face), JSON)),
    "unknown version": ("linear", lambda face: request("/v2/models/linear/versions/9/infer", four(face))),
    "unknown path": (
        "linear",
        lambda face: request(path(face, "linear").rpartition("/")[0] + "/nothing", ROW, JSON),
    ),
    "wrong method": ("linear", lambda face: post(face, "linear", b"", method="PUT")),
    "invalid header": ("linear", lambda face: post(face, "linear", four(face), JSON, "X-Serving-Timeout-Ms: soon")),
    "model of a single-model endpoint": ("linear", lambda face: to_target(face, "a.tar.gz", endpoint="linear")),
    "foreign host": ("linear", lambda face: post(face, "linear", four(face), JSON, host="evil.example")),
    "not built": (
        "linear",
        lambda face: post(face, "linear", four(face), JSON, "X-Amzn-SageMaker-Session-Id: NEW_SESSION"),
    ),
    "headers too large": ("linear", lambda face: post(face, "linear", four(face), JSON, "X: " + "y" * 40_000)),
    "too large": ("linear", lambda face: post(face, "linear", b" " * 70_000, JSON)),
    "not received in time": ("linear", lambda face: post(face, "linear", four(face), JSON)[:-1]),
    "overload": ("busy", lambda face: post(face, "busy", spins(face, 1), JSON)),
    "deadline": (
        "busy",
        lambda face: post(face, "busy", spins(face, MANY_SPINS), JSON, "X-Serving-Timeout-Ms: 20"),
    ),
    "model failure": (
        "index",
        lambda face: post(face, "index", ask_for(face, "i", "INT64", [1], [7]), JSON),
    ),
}
"""The default model of the server to ask, and the request."""

TARGETS: dict[str, Callable[[Face, Path], bytes]] = {
    "no model named": lambda face, _: to_target(face, None),
    "unknown model": lambda face, _: to_target(face, "none.tar.gz"),
    "model name too long": lambda face, _: to_target(face, "x" * 1025),
    "model outside the prefix": lambda face, _: to_target(face, "../a.tar.gz"),
    "model cannot be loaded": lambda face, models: to_load(face, "broken", models),
    "model does not fit": lambda face, models: to_load(face, "big", models),
    "model still loading": lambda face, _: to_target(face, next(COLD), "X-Serving-Timeout-Ms: 1"),
    "model loaded already": lambda _, models: added("good", models),
}
"""The requests to the server of `targets`; they know where its models are."""


FOUR = np.ones((1, 4), np.float32)
"""What `linear` and the models of `many` take."""


def message(
    model: str,
    name: str = "x",
    datatype: str = "FP32",
    values: np.ndarray[Any, Any] = FOUR,
    version: str = "",
) -> bytes:
    """A ModelInferRequest of one input."""
    pb: Any = messages()
    asked = pb.ModelInferRequest(model_name=model, model_version=version, raw_input_contents=[values.tobytes()])
    asked.inputs.add(name=name, datatype=datatype, shape=values.shape)
    encoded: bytes = asked.SerializeToString()
    return encoded


def grpc_spins(count: int) -> bytes:
    """What `busy` takes, over gRPC."""
    return message("busy", "spins", "INT64", np.array([count]))


def with_timeout(address: str, body: bytes, timeout: str) -> Outcome:
    """How a call with this `grpc-timeout` fails, by hand: a client ends its call by itself when that has passed."""
    with frames.Connection(int(address.rpartition(":")[2])) as connection:
        connection.greet()
        connection.send(calls.call(1, frames.message(body), [("grpc-timeout", timeout)]))
        return outcome_of(dict(connection.answer(1).headers))


GRPC: dict[str, Callable[[str], Outcome]] = {
    "malformed body": lambda at: failure(at, b"{"),
    "wrong shape": lambda at: failure(at, message("linear", values=np.ones((1, 3), np.float32))),
    "unknown name": lambda at: failure(at, message("other")),
    "unknown version": lambda at: failure(at, message("linear", version="9")),
    "unknown path": lambda at: failure(at, message("linear"), "Nothing"),
    "invalid header": lambda at: with_timeout(at, message("linear"), "soon"),
    "not built": lambda at: failure(at, b"", "SystemSharedMemoryStatus"),
    "headers too large": lambda at: failure(at, message("linear"), metadata=tuple((f"x{i}", "y") for i in range(100))),
    "too large": lambda at: failure(at, bytes(140_000)),
    "not received in time": lambda at: failure(at, None),
    "overload": lambda at: failure(at, grpc_spins(1)),
    "deadline": lambda at: with_timeout(at, grpc_spins(MANY_SPINS), "20m"),
    "model failure": lambda at: failure(at, message("index", "i", "INT64", np.array([7]))),
    "no model named": lambda at: failure(at, message(MANY)),
    "model of a single-model endpoint": lambda at: failure(at, message("linear:a.tar.gz")),
    "unknown model": lambda at: failure(at, message(f"{MANY}:none.tar.gz")),
    "model name too long": lambda at: failure(at, message(f"{MANY}:{'x' * 1025}")),
    "model outside the prefix": lambda at: failure(at, message(f"{MANY}:../a.tar.gz")),
    "model cannot be loaded": lambda at: failure(at, message(f"{MANY}:broken.tar.gz")),
    "model does not fit": lambda at: failure(at, message(f"{MANY}:big.tar.gz")),
    "model still loading": lambda at: failure(at, message(f"{MANY}:{next(COLD)}")),
}
"""The calls that provoke the same over gRPC, by the address of the server."""

RENDERED: dict[str, errors.ServingError] = {"not ready": errors.NotReady(), "server failure": errors.InternalError()}
"""What no request can provoke on a server that is well: rendered from the error itself."""

RETRIED = {"overload", "model still loading"}
"""Faults whose answers say when to try again."""

WITH_GRPC = ("--grpc-port", "0", "--grpc-transport", "h2corn")
"""The servers have a gRPC port, too."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of `many`, each as a folder and as an archive: `good`, `broken`, `big` and those of `COLD`."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("good", *(f"cold{number}" for number in range(COLD_MODELS))):
        (folder / name).mkdir()
        (folder / f"{name}.tar.gz").write_bytes(many.archive(folder / name, 1))
    (folder / "big").mkdir()
    (folder / "big.tar.gz").write_bytes(many.archive(folder / "big", 1, weights=28 * MEBIBYTE))
    (folder / "broken").mkdir()
    (folder / "broken" / "model.onnx").write_bytes(b"no graph")
    (folder / "broken.tar.gz").write_bytes(b"no archive")
    return folder


@pytest.fixture(scope="module")
def targets(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A multi-model container that has the model `good`, and serves the multi-model endpoint `many` beside it."""
    env = {"SERVING_MULTI_MODEL": "true", "SERVING_MODEL_CACHE_BYTES": str(16 * MEBIBYTE)}
    with serving_many(models, tmp_path_factory.mktemp("many") / "state", env) as server:
        assert ask(server, added("good", models)).status == 200
        yield server


@pytest.fixture(scope="module")
def hasty(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of `many` where nobody waits for a model, whatever their deadline: that of gRPC is the whole call's."""
    env = {"SERVING_MODEL_LOAD_WAIT_S": "0.0001"}
    with serving_many(models, tmp_path_factory.mktemp("hasty") / "state", env) as server:
        yield server


@contextmanager
def serving_many(models: Path, state_dir: Path, env: dict[str, str]) -> Iterator[Server]:
    """A server of the endpoint `many`."""
    with support.running(f"--allow-path={models}", *WITH_GRPC, state_dir=state_dir, env=env) as server:
        client = boto3_client("sagemaker", server)
        container = {"Image": "onnx", "Mode": "MultiModel", "ModelDataUrl": f"file://{models}/"}
        client.create_model(ModelName=MANY, ExecutionRoleArn=ROLE, PrimaryContainer=container)
        variant = {"VariantName": "AllTraffic", "ModelName": MANY, "InitialInstanceCount": 1}
        client.create_endpoint_config(
            EndpointConfigName=MANY, ProductionVariants=[{**variant, "InstanceType": "ml.m5.large"}]
        )
        client.create_endpoint(EndpointName=MANY, EndpointConfigName=MANY)
        client.get_waiter("endpoint_in_service").wait(EndpointName=MANY)
        yield server


@pytest.fixture(scope="module")
def server_of(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str | None], Server]]:
    """Servers with small limits, by their default model; each is started once."""
    servers: dict[str | None, Server] = {}
    env = {"SERVING_MAX_BODY_BYTES": "65536", "SERVING_BODY_TIMEOUT_S": "1"}
    with ExitStack() as stack:

        def start(default: str | None) -> Server:
            if default not in servers:
                names = ["linear", default if default is not None else "index"]
                models = [f"--model={name}={repository / name}" for name in dict.fromkeys(names)]
                state_dir = tmp_path_factory.mktemp("server") / "state"
                arguments = [*models, *WITH_GRPC, *([f"--default-model={default}"] if default else [])]
                servers[default] = stack.enter_context(support.running(*arguments, state_dir=state_dir, env=env))
            return servers[default]

        yield start


@pytest.fixture
def server(server_of: Callable[[str | None], Server], fault: str, request: pytest.FixtureRequest) -> Server:
    """The server for a fault."""
    if fault in TARGETS:
        found: Server = request.getfixturevalue("hasty" if fault == "model still loading" else "targets")
        return found
    return server_of(REQUESTS[fault][0] if fault in REQUESTS else "linear")


@pytest.fixture
def crowd(server: Server, fault: str) -> Iterator[None]:
    """For an overload: one request runs and another waits for as long as the test does."""
    if fault != "overload":
        yield
        return

    def queued() -> int:
        with Wire(server.port) as wire:
            wire.send(request("/debug/models", method="GET", length=False))
            return sum(model["queued_requests"] for model in wire.answer().json())

    wait_until(lambda: not queued(), 10, "an empty queue")
    with Wire(server.port) as running, Wire(server.port) as waiting:
        running.send(post(Face.CONTAINER, "busy", spins(Face.CONTAINER, MANY_SPINS), JSON))
        waiting.send(post(Face.CONTAINER, "busy", spins(Face.CONTAINER, 1), JSON))
        wait_until(lambda: queued() == 1, 10, "one request that waits")
        yield
    # Nothing says when the server notices that its callers left.
    wait_until(lambda: not queued(), 10, "an empty queue")


def test_every_fault_of_the_table_is_provoked_and_no_other() -> None:
    assert {fault for fault, _, _ in CASES} == {*REQUESTS, *TARGETS, *RENDERED}
    assert len(CASES) == len({(fault, face) for fault, face, _ in CASES}) >= 50
    assert sorted(fault for fault, _, _ in GRPC_CASES) == sorted([*GRPC, *RENDERED])


@pytest.mark.parametrize(
    ("fault", "face", "expected"), CASES, ids=[f"{fault} - {face.value}" for fault, face, _ in CASES]
)
def test_fault(server: Server, models: Path, crowd: None, fault: str, face: Face, expected: Expected) -> None:
    answer = render(fault, face) if fault in RENDERED else ask(server, provoking(fault, face, models))
    fields = answer.json()
    assert answer.status == expected.status, fields
    assert answer.headers["content-type"] == "application/json"
    if face is Face.CONTAINER:
        assert fields == {"code": expected.status, "type": expected.error, "message": fields["message"]}
        text = fields["message"]
    elif face is Face.OPEN_INFERENCE:
        assert list(fields) == ["error"]
        text = fields["error"]
    else:
        named = answer.headers.get("x-amzn-errortype")
        assert named == (None if expected.error.isdigit() else expected.error)
        text = fields["Message"]
        if expected.error == "ModelError":
            assert fields["OriginalStatusCode"] == expected.original
            text = fields["OriginalMessage"]
            side = "client" if 400 <= fields["OriginalStatusCode"] < 500 else "server"
            assert fields["Message"].startswith(
                f"Received {side} error ({expected.original}) from primary with message"
            )
            assert expected.original == 0 or orjson.loads(text)["code"] == expected.original
            text = text if expected.original == 0 else orjson.loads(text)["message"]
    assert expected.text.fullmatch(text), text
    assert ("retry-after" in answer.headers) == (fault in RETRIED)


@pytest.mark.parametrize(("fault", "code", "text"), GRPC_CASES, ids=[fault for fault, _, _ in GRPC_CASES])
def test_fault_over_grpc(server: Server, crowd: None, fault: str, code: str, text: re.Pattern[str]) -> None:
    told = grpc_rendered(fault) if fault in RENDERED else GRPC[fault](grpc_address(server))
    assert told.code == code, told
    assert text.fullmatch(told.text), told
    assert (told.pushback_ms is not None) == (fault in RETRIED)


def test_an_error_on_a_stream_is_an_answer_and_the_stream_goes_on(server_of: Callable[[str | None], Server]) -> None:
    pb: Any = messages()
    asked = [message("other"), message("linear")]
    refused, answered = map(pb.ModelStreamInferResponse.FromString, streamed(grpc_address(server_of("linear")), asked))
    assert refused.error_message == "Request for unknown model: 'other' is not found"
    assert not answered.error_message
    assert answered.infer_response.model_name == "linear"


def grpc_rendered(fault: str) -> Outcome:
    """What the server would say over gRPC."""
    return outcome_of({name.decode(): value.decode() for name, value in trailers_of(RENDERED[fault])})


def provoking(fault: str, face: Face, models: Path) -> bytes:
    """The request that provokes a fault."""
    return TARGETS[fault](face, models) if fault in TARGETS else REQUESTS[fault][1](face)


def ask(server: Server, sent: bytes) -> Answer:
    """The answer to one request; a connection that the server closes early is no fault."""
    with Wire(server.port) as wire:
        wire.offer((sent,))
        return wire.answer()


def render(fault: str, face: Face) -> Answer:
    """The answer that the server would write."""
    rendered = Faces("us-east-1", "123456789012").render(face, RENDERED[fault], "linear")
    fields = (line.split(": ", 1) for line in rendered.fields.decode().splitlines())
    return Answer(rendered.status, dict(fields), rendered.body)


# ---------------------------------------------------------------- as boto3 reads it

WITH_BOTO3 = [
    (fault, expected)
    for fault, face, expected in CASES
    if face is Face.RUNTIME
    and fault not in RENDERED
    and fault not in {"wrong method", "unknown path", "not received in time"}
]


@pytest.mark.parametrize(("fault", "expected"), WITH_BOTO3, ids=[fault for fault, _ in WITH_BOTO3])
def test_boto3_reads_the_fault(server: Server, models: Path, crowd: None, fault: str, expected: Expected) -> None:
    sent = provoking(fault, Face.RUNTIME, models)
    head, _, body = sent.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines if not line.startswith("Content-Length"))
    client = boto3_client("sagemaker-runtime", server)
    client.meta.events.register("before-sign", partial(add_headers, headers))
    with pytest.raises(ClientError) as caught:
        client.invoke_endpoint(EndpointName=first.split("/")[2], Body=body)
    error = caught.value.response
    assert error["ResponseMetadata"]["HTTPStatusCode"] == expected.status
    assert error["Error"]["Code"] == expected.error
    if expected.error == "ModelError":
        assert error["OriginalStatusCode"] == expected.original
        assert f"error ({expected.original}) from primary" in error["Error"]["Message"]
    else:
        assert expected.text.fullmatch(error["Error"]["Message"]), error


def boto3_client(service: str, server: Server) -> Any:
    """boto3's client of a server, which tries once."""
    return boto3.client(
        service,
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id="id",
        aws_secret_access_key="secret",
        config=Config(retries={"total_max_attempts": 1}),
    )


def add_headers(headers: dict[str, str], request: Any, **_: Any) -> None:
    """Gives boto3's request these headers, in place of its own."""
    for name, value in headers.items():
        del request.headers[name]
        request.headers[name] = value
