"""Requests in each protocol and the numbers in their answers."""

import json

import numpy as np
import pytest

from loadtests.bench.models import ENCODER, FRAUD
from loadtests.bench.protocols import INVOCATIONS, MOSEC, V2_BINARY, V2_JSON, Request, WrongAnswer

ANSWER = np.array([0.25, 0.75], np.float32)


def test_json_parses_back_to_the_same_rows() -> None:
    rows = FRAUD.rows(3)
    sent = json.loads(INVOCATIONS.build(FRAUD, rows).body)["instances"]
    assert np.array_equal(np.array(sent, np.float32), rows)


def test_v2_json_names_datatype_and_shape() -> None:
    rows = ENCODER.rows(2)
    (tensor,) = json.loads(V2_JSON.build(ENCODER, rows).body)["inputs"]
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("input_ids", "INT64", [2, 16])
    assert tensor["data"] == rows.reshape(-1).tolist()


def test_v2_binary_body_is_header_then_bytes() -> None:
    rows = FRAUD.rows(1)
    request = V2_BINARY.build(FRAUD, rows)
    length = int(request.headers["Inference-Header-Content-Length"])
    (tensor,) = json.loads(request.body[:length])["inputs"]
    assert tensor["parameters"]["binary_data_size"] == len(request.body) - length == rows.nbytes
    assert request.body[length:] == rows.tobytes()


def test_wire_form_is_one_http_request() -> None:
    wire = Request("/x", {"A": "b"}, b"body").wire("h:1")
    assert wire == b"POST /x HTTP/1.1\r\nHost: h:1\r\nContent-Length: 4\r\nA: b\r\n\r\nbody"


@pytest.mark.parametrize(
    ("protocol", "body"),
    [
        (INVOCATIONS, b'{"predictions":[[0.25,0.75]]}'),
        (INVOCATIONS, b'{"predictions": [[0.25000001, 7.5e-1]]}\n'),
        (V2_JSON, b'{"outputs":[{"name":"p","shape":[1,2],"data":[0.25,0.75],"datatype":"FP32"}],"id":"3"}'),
        (V2_BINARY, b'{"outputs":[]}' + ANSWER.tobytes()),
        (MOSEC, b"[0.25, 0.75]"),
    ],
)
def test_right_answers_pass(protocol, body) -> None:  # type: ignore[no-untyped-def]
    protocol.check(body, ANSWER)


@pytest.mark.parametrize(
    ("protocol", "body"),
    [
        (INVOCATIONS, b'{"predictions":[[0.75,0.25]]}'),
        (INVOCATIONS, b'{"predictions":[[0.25,0.7502]]}'),
        (INVOCATIONS, b'{"predictions":[[0.25,NaN]]}'),
        (INVOCATIONS, b'{"predictions":[[0.25]]}'),
        (INVOCATIONS, b'{"predictions":["a","b"]}'),
        (INVOCATIONS, b'{"error":"no such model"}'),
        (V2_JSON, b"[]"),
        (V2_BINARY, b"{}"),
        (V2_BINARY, b'{"outputs":[]}' + ANSWER[::-1].tobytes()),
    ],
)
def test_wrong_answers_do_not(protocol, body) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(WrongAnswer):
        protocol.check(body, ANSWER)
