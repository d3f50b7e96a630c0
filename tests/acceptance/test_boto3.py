"""boto3's `sagemaker-runtime` client, unmodified but for its endpoint URL, against a real server."""

from __future__ import annotations

import gzip
import io
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from botocore.exceptions import ClientError

from tests.conftest import StartServer
from tests.support import onnx_models as models
from tests.support import server as support
from tests.support.clients import metric, runtime_of
from tests.support.server import Server, wait_until

Runtime = Any
ROWS = [[1.0, 2.0, 3.0, 4.0], [0.5, -1.0, 0.0, 1e-3]]
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture
def runtime(model_server: Server) -> Iterator[Runtime]:
    client = runtime_of(model_server)
    yield client
    client.close()


def fault(runtime: Runtime, **arguments: Any) -> dict[str, Any]:
    """What the client raises for a call that must fail."""
    with pytest.raises(ClientError) as caught:
        runtime.invoke_endpoint(**arguments)
    response: dict[str, Any] = {**caught.value.response, "class": type(caught.value).__name__}
    return response


# ---------------------------------------------------------------------- answers


def test_json(runtime: Runtime) -> None:
    body = json.dumps({"instances": ROWS})
    answer = runtime.invoke_endpoint(EndpointName="limited", ContentType="application/json", Body=body)
    assert answer["ContentType"] == "application/json"
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    np.testing.assert_allclose(json.load(answer["Body"])["predictions"], ROWS)
    metadata = answer["ResponseMetadata"]
    assert metadata["HTTPStatusCode"] == 200
    assert UUID.fullmatch(metadata["RequestId"])
    assert metadata["HTTPHeaders"]["x-amzn-requestid"] == metadata["RequestId"]
    assert metadata["HTTPHeaders"]["content-type"] == "application/json"
    assert {"date", "content-length", "x-amzn-invoked-production-variant"} <= set(metadata["HTTPHeaders"])
    assert metadata["RetryAttempts"] == 0


def test_each_request_has_an_id_of_its_own(runtime: Runtime) -> None:
    ids = {
        runtime.invoke_endpoint(EndpointName="limited", Body=json.dumps(ROWS))["ResponseMetadata"]["RequestId"]
        for _ in range(5)
    }
    assert len(ids) == 5


@pytest.mark.parametrize(
    ("question", "key"), [({"instances": ROWS}, "predictions"), ({"inputs": ROWS}, "outputs"), (ROWS, None)]
)
def test_the_answer_mirrors_the_question(runtime: Runtime, question: Any, key: str | None) -> None:
    # Without a content type botocore sends none, and the server takes the body for JSON.
    answer = json.load(runtime.invoke_endpoint(EndpointName="limited", Body=json.dumps(question))["Body"])
    np.testing.assert_allclose(answer if key is None else answer[key], ROWS)


def test_open_inference_in_the_body(runtime: Runtime) -> None:
    question = {"id": "7", "inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4], "data": [*ROWS[0], *ROWS[1]]}]}
    answer = json.load(runtime.invoke_endpoint(EndpointName="limited", Body=json.dumps(question))["Body"])
    assert answer["id"] == "7"
    assert answer["outputs"][0]["shape"] == [2, 4]


def test_records_by_feature_name(runtime: Runtime) -> None:
    record = {"west": 4, "east": 2, "north": 1, "south": 3}
    answer = runtime.invoke_endpoint(EndpointName="limited", Body=json.dumps({"instances": [record]}))
    assert json.load(answer["Body"]) == {"predictions": [[1, 2, 3, 4]]}


def test_csv(runtime: Runtime) -> None:
    body = "\n".join(",".join(map(str, row)) for row in ROWS)
    as_json = runtime.invoke_endpoint(EndpointName="limited", ContentType="text/csv", Body=body)
    assert as_json["ContentType"] == "application/json"
    answer = runtime.invoke_endpoint(EndpointName="limited", ContentType="text/csv", Accept="text/csv", Body=body)
    assert answer["ContentType"].startswith("text/csv")
    lines = answer["Body"].read().decode().splitlines()
    np.testing.assert_allclose([[float(field) for field in line.split(",")] for line in lines], ROWS)


def test_npy(runtime: Runtime) -> None:
    body = io.BytesIO()
    np.save(body, np.array(ROWS, np.float32))
    answer = runtime.invoke_endpoint(
        EndpointName="limited",
        ContentType="application/x-npy",
        Accept="application/x-npy",
        Body=body.getvalue(),
    )
    assert answer["ContentType"] == "application/x-npy"
    got = np.load(io.BytesIO(answer["Body"].read()))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, np.array(ROWS, np.float32))


def test_octet_stream_and_a_file_as_body(runtime: Runtime, tmp_path: Path) -> None:
    file = tmp_path / "rows.bin"
    file.write_bytes(np.array(ROWS, np.float32).tobytes())
    with file.open("rb") as body:
        answer = runtime.invoke_endpoint(
            EndpointName="limited",
            ContentType="application/octet-stream",
            Accept="application/octet-stream",
            Body=body,
        )
    np.testing.assert_array_equal(np.frombuffer(answer["Body"].read(), np.float32), np.array(ROWS, np.float32).ravel())


def test_what_may_go_with_an_invocation(runtime: Runtime) -> None:
    answer = runtime.invoke_endpoint(
        EndpointName="limited",
        ContentType="application/json; charset=utf-8",
        Accept="application/json;q=0.9, text/csv;q=0.1",
        CustomAttributes="trace=42; origin=test",
        TargetVariant="AllTraffic",
        InferenceId="inference-1",
        Body=json.dumps(ROWS),
    )
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    np.testing.assert_allclose(json.load(answer["Body"]), ROWS)


def test_a_body_as_large_as_the_limit(runtime: Runtime) -> None:
    row = np.zeros((1, 25 * 1024 * 1024 // 8), np.int64)
    assert row.nbytes == 25 * 1024 * 1024
    answer = runtime.invoke_endpoint(
        EndpointName="echo-int64",
        ContentType="application/octet-stream",
        Accept="application/octet-stream",
        Body=row.tobytes(),
    )
    assert len(answer["Body"].read()) == row.nbytes


def test_compressed_bodies(model_server: Server) -> None:
    # boto3 compresses no body itself: its caller may, and then names the coding.
    runtime = runtime_of(model_server)
    runtime.meta.events.register(
        "before-sign.sagemaker-runtime", lambda request, **_: request.headers.add_header("Content-Encoding", "gzip")
    )
    answer = runtime.invoke_endpoint(EndpointName="limited", Body=gzip.compress(json.dumps(ROWS).encode()))
    np.testing.assert_allclose(json.load(answer["Body"]), ROWS)
    runtime.close()


# ---------------------------------------------------------------------- errors


def test_an_unknown_endpoint(runtime: Runtime) -> None:
    got = fault(runtime, EndpointName="no-such", Body=b"{}")
    assert got["Error"] == {"Code": "ValidationError", "Message": "Endpoint no-such of account 123456789012 not found."}
    assert got["class"] == "ValidationError"
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert UUID.fullmatch(got["ResponseMetadata"]["RequestId"])


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (
            {"TargetModel": "other.tar.gz"},
            "Endpoint limited is not a multi-model endpoint and does not support target model header.",
        ),
        ({"TargetVariant": "blue"}, "Variant blue of endpoint limited not found; it has AllTraffic"),
        ({"TargetContainerHostname": "second"}, "Endpoint limited is not a multi-container endpoint"),
        ({"CustomAttributes": "x" * 1025}, "at most 1024"),
        ({"InferenceId": "x" * 65}, "at most 64"),
    ],
)
def test_what_a_plain_endpoint_refuses(runtime: Runtime, extra: dict[str, str], words: str) -> None:
    got = fault(runtime, EndpointName="limited", Body=json.dumps(ROWS), **extra)
    assert got["Error"]["Code"] == "ValidationError"
    assert words in got["Error"]["Message"]
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 400


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ({"EndpointName": "limited", "Body": b"{"}, 400, "JSON"),
        ({"EndpointName": "limited", "Body": b'{"instances": [[1, 2]]}'}, 400, "input 'x'"),
        ({"EndpointName": "limited", "Body": b"1", "ContentType": "image/png"}, 415, "image/png"),
        ({"EndpointName": "limited", "Body": b"[[1, 2, 3, 4]]", "Accept": "image/png"}, 406, "image/png"),
        ({"EndpointName": "table", "Body": b"[[10]]"}, 500, "the model failed while it ran"),
    ],
)
def test_what_the_model_or_its_container_refuses(
    runtime: Runtime, arguments: dict[str, Any], status: int, words: str
) -> None:
    got = fault(runtime, **arguments)
    assert got["class"] == "ModelError"
    assert got["Error"]["Code"] == "ModelError"
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert got["OriginalStatusCode"] == status
    assert words in got["OriginalMessage"]
    side = "server" if status >= 500 else "client"
    assert got["Error"]["Message"].startswith(f'Received {side} error ({status}) from primary with message "')
    assert got["LogStreamArn"] == (
        f"arn:aws:logs:us-east-1:123456789012:log-group:/aws/sagemaker/Endpoints/{arguments['EndpointName']}"
    )


def test_a_body_over_the_limit(runtime: Runtime) -> None:
    got = fault(runtime, EndpointName="echo-int64", Body=bytes(25 * 1024 * 1024 + 1))
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 413
    assert got["Error"]["Code"] == "413"
    assert "HTTP content length exceeded 26214400 bytes." in got["Error"]["Message"]
    # The connection is gone, the client is not.
    runtime.invoke_endpoint(EndpointName="limited", Body=json.dumps(ROWS))


# ---------------------------------------------------------------------- retries


def test_a_model_error_is_not_retried(model_server: Server) -> None:
    runtime = runtime_of(model_server, attempts=4)
    before = metric(model_server, "sagemaker_invocations_total", endpoint_name="table")
    got = fault(runtime, EndpointName="table", Body=b"[[10]]")
    assert got["ResponseMetadata"]["RetryAttempts"] == 0
    assert metric(model_server, "sagemaker_invocations_total", endpoint_name="table") == before + 1
    runtime.close()


@pytest.fixture
def busy_server(start_server: StartServer, tmp_path: Path) -> Iterator[Server]:
    """A server whose only model runs and has another request queued, and takes no more; it is free after a second."""
    models.slow(tmp_path / "busy" / "model.onnx", 500, rows=1)
    (tmp_path / "busy" / "model.yaml").write_text("batching: {max_queue_wait_s: 0.05}\n")
    server = start_server("--model", tmp_path / "busy")
    # The cost that the bound needs is learned from a first request, where the warm-up had no time for it.
    clients = [runtime_of(server) for _ in range(2)]
    body = json.dumps([[1, 2, 3, 4]])
    clients[0].invoke_endpoint(EndpointName="busy", Body=body)
    threads = [
        threading.Thread(target=client.invoke_endpoint, kwargs={"EndpointName": "busy", "Body": body})
        for client in clients
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: metric(server, "serving_queue_requests", model="busy") == 1, 5, "a queued request")
    yield server
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()


def test_overload_without_retries(busy_server: Server) -> None:
    runtime = runtime_of(busy_server)
    got = fault(runtime, EndpointName="busy", Body=json.dumps([[1, 2, 3, 4]]))
    assert got["Error"]["Code"] == "ThrottlingException"
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 429
    assert int(got["ResponseMetadata"]["HTTPHeaders"]["retry-after"]) >= 1
    assert got["ResponseMetadata"]["RetryAttempts"] == 0
    runtime.close()


def test_overload_with_retries(busy_server: Server) -> None:
    runtime = runtime_of(busy_server, attempts=20)
    answer = runtime.invoke_endpoint(EndpointName="busy", Body=json.dumps([[1, 2, 3, 4]]))
    assert json.load(answer["Body"]) == [[1, 2, 3, 4]]
    assert answer["ResponseMetadata"]["RetryAttempts"] >= 1
    runtime.close()


def test_the_account_and_region_of_the_settings(repository: Path, tmp_path: Path) -> None:
    environment = {"SERVING_REGION": "eu-central-1", "SERVING_ACCOUNT_ID": "000000000001"}
    arguments = ("--model", repository / "table")
    with support.running(*arguments, state_dir=tmp_path / "state", env=environment) as server:
        runtime = runtime_of(server)
        assert "of account 000000000001 not" in fault(runtime, EndpointName="no-such", Body=b"{}")["Error"]["Message"]
        got = fault(runtime, EndpointName="table", Body=b"[[10]]")
        assert got["LogStreamArn"] == "arn:aws:logs:eu-central-1:000000000001:log-group:/aws/sagemaker/Endpoints/table"
        runtime.close()
