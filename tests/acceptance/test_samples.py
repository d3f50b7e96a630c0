"""The two sample models behind a real server: their known right answers, by every way in."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import xgboost

from serving.samples import file_type, fraud
from tests.samples.test_file_type import KNOWN, LEAST_SCORE
from tests.support.clients import runtime_of
from tests.support.server import Server

Array = np.ndarray[Any, Any]
ROWS, _ = fraud.table(50, seed=5)
JSON = "application/json"


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
    """What XGBoost itself says of `ROWS`."""
    with tarfile.open(samples / "fraud" / fraud.ARCHIVE) as archive:
        booster = archive.extractfile(fraud.BOOSTER)
        assert booster is not None
        library = xgboost.Booster()
        library.load_model(bytearray(booster.read()))
    return np.asarray(library.inplace_predict(ROWS))


def scores(answer: bytes) -> Array:
    """The scores of a JSON answer."""
    return np.array([row["score"] for row in json.loads(answer)["predictions"]], np.float32)


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
    got = scores(ask(runtime, "fraud", json.dumps({"instances": fraud.ROWS}), accept=JSON))
    np.testing.assert_allclose(got, fraud.ANSWERS, atol=fraud.TOLERANCE)


def test_json_agrees_with_the_library(runtime: Any, expected: Array) -> None:
    for question in ({"instances": ROWS.tolist()}, {"inputs": ROWS.tolist()}, ROWS.tolist()):
        got = scores(ask(runtime, "fraud", json.dumps(question), accept=JSON))
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_rows_one_by_one_agree_to_the_bit(runtime: Any) -> None:
    together = scores(ask(runtime, "fraud", json.dumps(ROWS.tolist()), accept=JSON))
    alone = [scores(ask(runtime, "fraud", json.dumps([row.tolist()]), accept=JSON))[0] for row in ROWS[:10]]
    np.testing.assert_array_equal(alone, together[:10])


def test_csv_agrees_with_json(runtime: Any) -> None:
    lines = "\n".join(",".join(repr(float(value)) for value in row) for row in ROWS)
    answer = ask(runtime, "fraud", lines, "text/csv").decode()
    together = scores(ask(runtime, "fraud", json.dumps(ROWS.tolist()), accept=JSON))
    np.testing.assert_array_equal(np.array(answer.split(","), np.float32), together)
    named = f"{','.join(fraud.FEATURES)}\n{lines}\n"
    assert ask(runtime, "fraud", named, "text/csv", "text/csv").decode() == answer


def test_records_by_feature_name_in_any_order(runtime: Any, expected: Array) -> None:
    names = list(fraud.FEATURES)
    for order in (names, names[::-1]):
        records = [{name: float(row[names.index(name)]) for name in order} for row in ROWS]
        got = scores(ask(runtime, "fraud", json.dumps({"instances": records}), accept=JSON))
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_tensors_agree_too(client: triton.InferenceServerClient, expected: Array) -> None:
    np.testing.assert_allclose(infer(client, "fraud", "features", ROWS, "score"), expected, atol=1e-6)


def test_npy_is_read(runtime: Any, expected: Array) -> None:
    body = io.BytesIO()
    np.save(body, ROWS)
    got = scores(ask(runtime, "fraud", body.getvalue(), "application/x-npy", JSON))
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_the_features_are_in_the_metadata_of_the_model(client: triton.InferenceServerClient) -> None:
    metadata = client.get_model_metadata("fraud")
    assert [(each["name"], each["datatype"], each["shape"]) for each in metadata["inputs"]] == [
        ("features", "FP32", [-1, 4])
    ]
    assert [each["name"] for each in metadata["outputs"]] == ["score"]
