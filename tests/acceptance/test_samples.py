"""The two sample models behind a real server: their known right answers, by every way in."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tritonclient.http as triton

from serving.samples import file_type, fraud
from tests.samples.test_file_type import KNOWN, LEAST_SCORE
from tests.support.clients import runtime_of
from tests.support.server import Server

Array = np.ndarray[Any, Any]
ROWS, _ = fraud.table(50, seed=5)


@pytest.fixture
def runtime(sample_server: Server) -> Iterator[Any]:
    client = runtime_of(sample_server)
    yield client
    client.close()


@pytest.fixture
def client(sample_server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{sample_server.port}") as client:
        yield client


@pytest.fixture(scope="module")
def expected(samples: Path) -> Array:
    """What ONNX Runtime itself says of `ROWS`."""
    session = onnxruntime.InferenceSession(samples / "fraud" / "model.onnx")
    (probabilities,) = session.run(None, {"features": ROWS})
    return np.asarray(probabilities)


def ask(runtime: Any, name: str, body: bytes | str, content_type: str = "application/json", accept: str = "") -> bytes:
    extra = {"Accept": accept} if accept else {}
    answer = runtime.invoke_endpoint(EndpointName=name, ContentType=content_type, Body=body, **extra)
    read: bytes = answer["Body"].read()
    return read


def infer(client: triton.InferenceServerClient, name: str, tensor: str, value: Array, output: str) -> Array:
    datatype = {"float32": "FP32", "int32": "INT32"}[value.dtype.name]
    question = triton.InferInput(tensor, list(value.shape), datatype)
    question.set_data_from_numpy(value)
    return np.asarray(client.infer(name, [question]).as_numpy(output))


# ---------------------------------------------------------------------- file-type


def test_known_contents_together(runtime: Any, client: triton.InferenceServerClient) -> None:
    rows = np.stack([file_type.features(content) for content in KNOWN.values()])
    by_json = json.loads(ask(runtime, "file-type", json.dumps({"instances": rows.tolist()})))["predictions"]
    by_tensor = infer(client, "file-type", "bytes", rows, "target_label")
    np.testing.assert_allclose(by_json, by_tensor, atol=1e-6)
    for kind, scores in zip(KNOWN, by_tensor, strict=True):
        label, score = file_type.label(scores, file_type.labels())
        assert label == kind
        assert score >= LEAST_SCORE[kind]


@pytest.mark.parametrize("kind", KNOWN)
def test_a_known_content_alone(runtime: Any, kind: str) -> None:
    row = file_type.features(KNOWN[kind]).tolist()
    (scores,) = json.loads(ask(runtime, "file-type", json.dumps({"instances": [row]})))["predictions"]
    label, score = file_type.label(scores, file_type.labels())
    assert label == kind
    assert score >= LEAST_SCORE[kind]


# ---------------------------------------------------------------------- fraud


def test_the_promised_answers(runtime: Any) -> None:
    got = json.loads(ask(runtime, "fraud", json.dumps({"instances": fraud.ROWS})))["predictions"]
    np.testing.assert_allclose(got, fraud.ANSWERS, atol=fraud.TOLERANCE)


def test_json_agrees_with_the_runtime_to_the_bit(runtime: Any, expected: Array) -> None:
    for question, key in (({"instances": ROWS.tolist()}, "predictions"), ({"inputs": ROWS.tolist()}, "outputs")):
        got = json.loads(ask(runtime, "fraud", json.dumps(question)))[key]
        np.testing.assert_array_equal(np.array(got, np.float32), expected)


def test_rows_one_by_one_agree_too(runtime: Any, expected: Array) -> None:
    got = [json.loads(ask(runtime, "fraud", json.dumps([row.tolist()])))[0] for row in ROWS[:10]]
    np.testing.assert_array_equal(np.array(got, np.float32), expected[:10])


def test_csv_agrees_with_json(runtime: Any, expected: Array) -> None:
    lines = "\n".join(",".join(repr(float(value)) for value in row) for row in ROWS)
    answer = ask(runtime, "fraud", lines, "text/csv", "text/csv").decode()
    got = [[float(field) for field in line.split(",")] for line in answer.splitlines()]
    np.testing.assert_array_equal(np.array(got, np.float32), expected)
    named = f"{','.join(fraud.FEATURES)}\n{lines}\n"
    assert ask(runtime, "fraud", named, "text/csv", "text/csv").decode() == answer


def test_records_by_feature_name_in_any_order(runtime: Any, expected: Array) -> None:
    names = list(fraud.FEATURES)
    for order in (names, names[::-1]):
        records = [{name: float(row[names.index(name)]) for name in order} for row in ROWS]
        got = json.loads(ask(runtime, "fraud", json.dumps({"instances": records})))["predictions"]
        np.testing.assert_array_equal(np.array(got, np.float32), expected)


def test_npy_and_tensors_agree_too(runtime: Any, client: triton.InferenceServerClient, expected: Array) -> None:
    body = io.BytesIO()
    np.save(body, ROWS)
    answer = ask(runtime, "fraud", body.getvalue(), "application/x-npy", "application/x-npy")
    np.testing.assert_array_equal(np.load(io.BytesIO(answer)), expected)
    np.testing.assert_array_equal(infer(client, "fraud", "features", ROWS, "probabilities"), expected)


def test_the_features_are_in_the_metadata_of_the_model(client: triton.InferenceServerClient) -> None:
    metadata = client.get_model_metadata("fraud")
    assert [(each["name"], each["datatype"], each["shape"]) for each in metadata["inputs"]] == [
        ("features", "FP32", [-1, 4])
    ]
    assert [each["name"] for each in metadata["outputs"]] == ["probabilities"]
