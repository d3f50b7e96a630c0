from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import orjson
import pytest

from serving.codecs import open_inference_encoder
from serving.codecs.base import Asked, RequestedOutput, Style
from serving.contract import TensorSpec
from serving.errors import NotAcceptable
from tests.codecs.support import spec

X = TensorSpec("x", "FP32", (-1, 3))
P = TensorSpec("p", "FP32", (-1, 2), (), ("no", "yes"))
LABEL = TensorSpec("label", "BYTES", (-1,))
VALUES = np.array([[0.25, 0.75], [1, 0]], np.float32)
LABELS = np.array([b"a", b"bc"], object)


def answer(outputs: tuple[TensorSpec, ...], values: list[Any], asked: Asked | None) -> tuple[dict[str, Any], bytes]:
    """The JSON part and the binary tail."""
    header, body = open_inference_encoder.encoder(spec(X, outputs=outputs), "m", "3")(values, asked)
    if header == b"content-type: application/json\r\n":
        return orjson.loads(body), b""
    start = b"content-type: application/octet-stream\r\ninference-header-content-length: "
    assert header.startswith(start)
    assert header.endswith(b"\r\n")
    length = int(header[len(start) :])
    return orjson.loads(body[:length]), body[length:]


def asked(*outputs: RequestedOutput, **fields: Any) -> Asked:
    return Asked(Style.OPEN_INFERENCE, outputs=outputs, **fields)


P_JSON = {"name": "p", "datatype": "FP32", "shape": [2, 2], "data": [0.25, 0.75, 1, 0]}
P_BINARY = {"name": "p", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}}
LABEL_JSON = {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["a", "bc"]}
LABEL_BINARY = {"name": "label", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 11}}
LABEL_TAIL = b"\1\0\0\0a\2\0\0\0bc"


@pytest.mark.parametrize("question", [None, asked(), asked(RequestedOutput("p"))])
def test_one_output_as_json(question: Asked | None) -> None:
    for _ in range(2):
        assert answer((P,), [VALUES], question) == ({"model_name": "m", "model_version": "3", "outputs": [P_JSON]}, b"")


@pytest.mark.parametrize("question", [asked(binary_output=True), asked(RequestedOutput("p", binary=True))])
def test_one_output_as_binary(question: Asked) -> None:
    for _ in range(2):
        found, tail = answer((P,), [VALUES], question)
        assert found == {"model_name": "m", "model_version": "3", "outputs": [P_BINARY]}
        assert tail == VALUES.tobytes()


def test_the_id_comes_back() -> None:
    found, _ = answer((P,), [VALUES], asked(id='a"b'))
    assert found == {"model_name": "m", "model_version": "3", "id": 'a"b', "outputs": [P_JSON]}
    found, tail = answer((P,), [VALUES], asked(RequestedOutput("p", binary=True), id=""))
    assert found["id"] == ""
    assert tail == VALUES.tobytes()


def test_outputs_come_in_the_order_asked_and_each_in_its_form() -> None:
    question = asked(RequestedOutput("label"), RequestedOutput("p", binary=True))
    found, tail = answer((P, LABEL), [VALUES, LABELS], question)
    assert found["outputs"] == [LABEL_JSON, P_BINARY]
    assert tail == VALUES.tobytes()
    found, tail = answer((P, LABEL), [VALUES, LABELS], asked(binary_output=True))
    assert found["outputs"] == [P_BINARY, LABEL_BINARY]
    assert tail == VALUES.tobytes() + LABEL_TAIL
    assert answer((P, LABEL), [VALUES, LABELS], None)[0]["outputs"] == [P_JSON, LABEL_JSON]
    assert answer((P, LABEL), [VALUES, LABELS], asked(RequestedOutput("p")))[0]["outputs"] == [P_JSON]


def test_a_transposed_output_is_written_in_row_major_order() -> None:
    found, _ = answer((P,), [VALUES.T], None)
    assert found["outputs"][0]["data"] == [0.25, 1, 0.75, 0]
    _, tail = answer((P,), [VALUES.T], asked(binary_output=True))
    assert tail == np.array([0.25, 1, 0.75, 0], np.float32).tobytes()


def test_bf16_and_nan() -> None:
    output = TensorSpec("y", "BF16", (-1,))
    values = np.array([1.5, np.nan], ml_dtypes.bfloat16)
    assert answer((output,), [values], None)[0]["outputs"][0]["data"] == [1.5, None]
    assert answer((output,), [values], asked(binary_output=True))[1] == values.tobytes()


def test_bytes_that_are_no_text_need_the_binary_form() -> None:
    values = np.array([b"\xff", b""], object)
    with pytest.raises(NotAcceptable, match="'label' holds bytes that are not UTF-8"):
        answer((LABEL,), [values], None)
    assert answer((LABEL,), [values], asked(binary_output=True))[1] == b"\1\0\0\0\xff\0\0\0\0"


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        (1, ["0.750000:1:yes", "1.000000:0:no"]),
        (2, ["0.750000:1:yes", "0.250000:0:no", "1.000000:0:no", "0.000000:1:yes"]),
        (9, ["0.750000:1:yes", "0.250000:0:no", "1.000000:0:no", "0.000000:1:yes"]),
    ],
)
def test_classification(top: int, expected: list[str]) -> None:
    (found,) = answer((P,), [VALUES], asked(RequestedOutput("p", classification=top)))[0]["outputs"]
    assert found == {"name": "p", "datatype": "BYTES", "shape": [2, min(top, 2)], "data": expected}


def test_classification_of_whole_numbers_without_labels_and_with_ties() -> None:
    output = TensorSpec("y", "INT64", (-1, 3))
    (found,) = answer((output,), [np.array([[5, 7, 7]])], asked(RequestedOutput("y", classification=2)))[0]["outputs"]
    assert found["data"] == ["7:1", "7:2"]
