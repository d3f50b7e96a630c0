from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import orjson
import pytest
from hypothesis import given

from serving.codecs import jsonlines
from serving.codecs.base import Asked, Style
from serving.contract import ModelSpec, TensorSpec
from serving.errors import InvalidInput, MalformedBody, ServingError
from tests.codecs.support import RECORD, STRINGS, TWO, WHOLE, arrays, decode, one, spec

LINES = "application/jsonlines"


@pytest.mark.parametrize(
    ("model", "text", "expected"),
    [
        (one(), b"[1,2,3]", [[[1, 2, 3]]]),
        (one(), b"[1,2,3]\r\n [4, 5, 6] \r\n\r\n", [[[1, 2, 3], [4, 5, 6]]]),
        (one(), b'{"features":[1,2,3]}\n[4,5,6]\n', [[[1, 2, 3], [4, 5, 6]]]),
        (one(), b'{"x":[1,2,3]}', [[[1, 2, 3]]]),
        (one(), b'{"instances":[[1,2,3]]}\n{"instances":[{"features":[4,5,6]}]}', [[[1, 2, 3], [4, 5, 6]]]),
        (RECORD, b'{"risk":3,"amount":1,"hour":2}\n[4,5,6]', [[[1, 2, 3], [4, 5, 6]]]),
        (one("FP32", -1), b"1\n2.5\n", [[1, 2.5]]),
        (one("FP32", -1, 1), b"1\n2\n", [[[1], [2]]]),
        (one("INT64", -1, 2), b"[1,2.0]", [[[1, 2]]]),
        (one("BOOL", -1, 2), b"[true,0]", [[[1, 0]]]),
        (one("FP32", -1, -1), b"[1,2]\n[3,4]", [[[1, 2], [3, 4]]]),
        (one("FP32", -1, 1, 2), b"[[1,2]]\n[[3,4]]", [[[[1, 2]], [[3, 4]]]]),
        (STRINGS, b'"a"\n{"b64":"YmM="}', [[[b"a"], [b"bc"]]]),
        (TWO, b'{"a":[1,2],"b":3}\n{"b":6,"a":[4,5]}', [[[1, 2], [4, 5]], [[3], [6]]]),
        (WHOLE, b'{"a":[[1],[2]],"sr":8}', [[[1], [2]], 8]),
        (one("FP32", -1, 1, features=("instances",)), b'{"instances":3}', [[[3]]]),
        (one("FP32", -1, 1, features=("features",)), b'{"features":3}', [[[3]]]),
    ],
)
def test_forms(model: ModelSpec, text: bytes, expected: list[Any]) -> None:
    decoded = decode(model, text, LINES)
    assert decoded[3] is None
    for found, wanted in zip(arrays(model, decoded), expected, strict=True):
        assert found.tolist() == np.array(wanted, found.dtype).tolist()


@pytest.mark.parametrize(
    ("model", "text", "error", "words"),
    [
        (one(), b"", MalformedBody, ["empty"]),
        (one(), b"\n \n", MalformedBody, ["empty"]),
        (one(), b"[1,2,3]\n\n[4,5,6]", MalformedBody, ["line 2", "empty"]),
        (one(), b"[1,2,3]\n[4,5", MalformedBody, ["line 2", "not JSON"]),
        (one(), b"[1,2\n,3]", MalformedBody, ["line 1", "not JSON"]),
        (one(), b"[1,2,3],[4,5,6]", MalformedBody, ["line 1", "not JSON"]),
        (one(), b"\xff", MalformedBody, ["line 1", "not JSON"]),
        (one(), b"[1,2,3]\n[4,5]", InvalidInput, ["ragged", "[1] has 2", "[0] has 3"]),
        (one(), b"[1,2]\n[4,5]", InvalidInput, ["[2, 2]", "[-1, 3]"]),
        (one(), b"[1,2,true]", InvalidInput, ["[0][2] is true"]),
        (one(), b"[1,2,null]", InvalidInput, ["[0][2] is null"]),
        (one(), b"[1,2,1e39]", InvalidInput, ["out of range for FP32"]),
        (one(), b'[1,2,"3"]', InvalidInput, ["the string '3'"]),
        (one(), b'{"y":[1,2,3]}', InvalidInput, ["row 0", "'y'"]),
        (one(), b'{"features":[1,2,3],"more":1}', InvalidInput, ["'more'"]),
        (one(), b'{"instances":[[1,2,3],[4,5,6]]}', InvalidInput, ["line 1", "2 rows", "one row a line"]),
        (one(), b'[1,2,3]\n{"instances":[]}', InvalidInput, ["line 2", "0 rows"]),
        (one(), b'{"instances":5}', InvalidInput, ["line 1", "the number 5"]),
        (one(), b'{"instances":[[1,2,3]],"x":1}', InvalidInput, ["line 1", "other keys"]),
        (RECORD, b'{"amount":1,"hour":2}', InvalidInput, ["no feature 'risk'"]),
        (TWO, b"[1,2]", InvalidInput, ["row 0", "'a', 'b'"]),
        (TWO, b'{"a":[1,2]}', InvalidInput, ["no input 'b'"]),
        (WHOLE, b'{"a":[[1],[2]],"sr":8}\n{"a":[[1],[2]],"sr":8}', InvalidInput, ["2 rows", "not batched"]),
    ],
)
def test_faults(model: ModelSpec, text: bytes, error: type[ServingError], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        decode(model, text, LINES)
    assert type(caught.value) is error
    for word in words:
        assert word in caught.value.message


def encode(outputs: tuple[TensorSpec, ...], values: list[Any], *, batched: bool = True) -> bytes:
    model = spec(TensorSpec("x", "FP32", (-1, 2)), outputs=outputs, batched=batched)
    header, body = jsonlines.encoder(model)(values, Asked(Style.BARE))
    assert header == b"content-type: application/jsonlines\r\n"
    return body


@pytest.mark.parametrize(
    ("values", "batched", "text"),
    [
        ([np.array([[0.1, 2], [3, 4]], np.float32)], True, b"[0.1,2.0]\n[3.0,4.0]\n"),
        ([np.array([0.1, np.nan], np.float32)], True, b"0.1\nnull\n"),
        ([np.arange(4).reshape(2, 1, 2)], True, b"[[0,1]]\n[[2,3]]\n"),
        ([np.array([b"a", b"\xff"], object)], True, b'"a"\n{"b64":"/w=="}\n'),
        ([np.array([1, 2]), np.array([[0.5], [1.5]])], True, b'{"y0":1,"y1":[0.5]}\n{"y0":2,"y1":[1.5]}\n'),
        ([np.array([[1, 2], [3, 4]])], False, b"[[1,2],[3,4]]\n"),
        ([np.float32(1.5)[...], np.array([2])], False, b'{"y0":1.5,"y1":[2]}\n'),
    ],
)
def test_answers(values: list[Any], batched: bool, text: bytes) -> None:
    names = {"f": "FP32", "i": "INT64", "O": "BYTES"}
    outputs = tuple(TensorSpec(f"y{i}", names[value.dtype.kind], (-1,)) for i, value in enumerate(values))
    assert encode(outputs, values, batched=batched) == text


@given(
    st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=2, max_size=2), min_size=1)
)
def test_floats_round_trip(rows: list[list[float]]) -> None:
    values = np.array(rows, np.float32)
    model = one("FP32", -1, 2)
    (found,) = arrays(model, decode(model, encode((TensorSpec("y", "FP32", (-1, 2)),), [values]), LINES))
    np.testing.assert_array_equal(found, values)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_strings_round_trip(rows: list[str]) -> None:
    values = np.array([row.encode() for row in rows] + [b""], object)[:-1].reshape(-1, 1)
    found = decode(STRINGS, encode((TensorSpec("y", "BYTES", (-1, 1)),), [values]), LINES)
    assert found[1] == ([row.encode() for row in rows],)


@given(st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=3, max_size=3), min_size=1))
def test_a_line_is_read_as_its_row_in_json(rows: list[list[int]]) -> None:
    model = one("INT32")
    lines = b"\n".join(map(orjson.dumps, rows))
    assert decode(model, lines, LINES) == decode(model, orjson.dumps({"instances": rows}))
