"""POST / byte for byte: bodies of all kinds get an answer that AWS's clients can read, and strangers get none."""

from __future__ import annotations

import gzip
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from xml.etree import ElementTree

import boto3
import pytest
from botocore.config import Config

from serving.control.call import MOST_BYTES
from tests.support import server as support
from tests.support.clients import get
from tests.support.server import Server
from tests.support.wire import Answer, Wire, ask, chunked, request

JSON = "Content-Type: application/x-amz-json-1.1"
FORM = "Content-Type: application/x-www-form-urlencoded; charset=utf-8"
LIST = "X-Amz-Target: SageMaker.ListModels"
IDENTITY = b"Action=GetCallerIdentity&Version=2011-06-15"
HELD = 70
"""More than the administrative calls that a worker has at once."""


@pytest.fixture(scope="module")
def silent() -> Iterator[int]:
    """The port of an S3 that never answers: endpoints stay Creating."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        yield listening.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, silent: int) -> Iterator[Server]:
    env = {
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{silent}",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "SERVING_DESCRIBE_HOLD_S": "20",
    }
    with support.running("--workers", "1", state_dir=tmp_path_factory.mktemp("calls") / "state", env=env) as running:
        yield running


def call(server: Server, body: bytes, *fields: str, length: bool = True) -> Answer:
    return ask(server.port, request("/", body, *fields, length=length))


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"{}", ()),
        (b"null", ()),
        (gzip.compress(b"{}"), ("Content-Encoding: gzip",)),
        (chunked(b"{}"), ("Transfer-Encoding: chunked",)),
        (chunked(gzip.compress(b"{}"), 7), ("Transfer-Encoding: chunked", "Content-Encoding: gzip")),
    ],
)
def test_a_body_however_it_comes(server: Server, body: bytes, fields: tuple[str, ...]) -> None:
    answer = call(server, body, JSON, LIST, *fields, length="Transfer-Encoding: chunked" not in fields)
    assert (answer.status, answer.json()) == (200, {"Models": []})


@pytest.mark.parametrize(
    ("body", "fields", "status", "code"),
    [
        (b"", (), 400, "SerializationException"),
        (bytes(range(256)), (), 400, "SerializationException"),
        (b"xx{}", ("Content-Encoding: gzip",), 400, "SerializationException"),
        (b"{}", ("Content-Encoding: br",), 400, "SerializationException"),
        (b" " * (MOST_BYTES + 1), (), 413, "413"),
        (gzip.compress(b" " * (MOST_BYTES + 1)), ("Content-Encoding: gzip",), 413, "413"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_in_the_callers_protocol(
    server: Server, body: bytes, fields: tuple[str, ...], status: int, code: str
) -> None:
    with Wire(server.port) as wire:
        wire.offer([request("/", body, JSON, LIST, *fields)])
        answer = wire.answer()
    print(answer)
    assert answer.status == status
    assert answer.json()["__type"] == answer.headers["x-amzn-errortype"] == code
    assert answer.headers["x-amzn-requestid"]
    with Wire(server.port) as wire:
        wire.offer([request("/", body, FORM, *fields)])
        answer = wire.answer()
    if status == 413 or fields:
        assert answer.status == status
    error = ElementTree.fromstring(re.sub(r' xmlns="[^"]*"', "", answer.body.decode()))
    assert error.findtext("Error/Message")
    assert error.findtext("RequestId") == answer.headers["x-amzn-requestid"]


def test_without_a_length_there_is_no_call(server: Server) -> None:
    answer = call(server, b"", JSON, LIST, length=False)
    assert (answer.status, answer.json()["__type"]) == (411, "ValidationError")


@pytest.mark.parametrize("body", [(JSON, LIST), (FORM,)])
@pytest.mark.parametrize("field", ["Origin: http://evil.example", "Origin: null"])
def test_a_page_of_another_origin_calls_nothing(server: Server, body: tuple[str, ...], field: str) -> None:
    content = b"{}" if JSON in body else IDENTITY
    assert call(server, content, *body).status == 200
    assert call(server, content, *body, field).status == 403
    assert ask(server.port, request("/", content, *body, host="evil.example")).status == 403


def test_other_methods(server: Server) -> None:
    head = ask(server.port, request("/", method="HEAD", length=False), "HEAD")
    assert (head.status, head.body) == (200, b"")
    for method in ("PUT", "DELETE", "PATCH"):
        answer = ask(server.port, request("/", b"{}", JSON, LIST, method=method))
        assert answer.status == 405
        assert "answers GET and POST" in answer.message


def test_held_calls_leave_room_for_all_others(server: Server) -> None:
    sagemaker = boto3.client(
        "sagemaker",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id="any",
        aws_secret_access_key="any",
        config=Config(retries={"total_max_attempts": 1}),
    )
    container = {"Image": "onnx", "ModelDataUrl": "s3://bucket/model.tar.gz"}
    role = "arn:aws:iam::123456789012:role/serving"
    sagemaker.create_model(ModelName="m", PrimaryContainer=container, ExecutionRoleArn=role)
    variant = {"VariantName": "v", "ModelName": "m", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(EndpointConfigName="c", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="waits", EndpointConfigName="c")
    described = request("/", b'{"EndpointName":"waits"}', JSON, "X-Amz-Target: SageMaker.DescribeEndpoint")
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(server.port, 30)) for _ in range(HELD)]
        for wire in wires:
            wire.send(described)

        def held() -> bool:
            metrics = get(server, "/metrics")
            assert metrics.status == 200, metrics.body
            return f"serving_control_held_calls {HELD}" in metrics.body.decode()

        support.wait_until(held, 10, "the calls to be held")
        begun = time.monotonic()
        assert call(server, b"{}", JSON, LIST).status == 200
        assert get(server, "/metrics").status == 200
        assert time.monotonic() - begun < 5
        # Nor does the server's end wait for them.
        assert server.terminate(10) == 0
        assert {wire.answer().json()["EndpointStatus"] for wire in wires} == {"Creating"}
