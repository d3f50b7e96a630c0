from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import orjson
import pytest
from hypothesis import given

from serving.codecs import json, open_inference_encoder
from serving.codecs.base import Asked, Decoded, Style
from serving.codecs.json import StrictJson
from serving.codecs.plan import InputPlan
from serving.contract import ModelSpec, TensorSpec
from serving.datatypes import INTEGERS, NUMPY
from serving.errors import InvalidInput, MalformedBody, ServingError
from tests.codecs.support import RECORD, STRINGS, TWO, WHOLE, arrays, decode, one, spec

ROWS = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.5]]
COLUMNS = one("FP32", -1, 1)
SCALARS = one("INT32", -1)
IMAGE = one("UINT8", -1, 2, 2)
FREE = one("INT64", -1, -1)


@pytest.mark.parametrize(
    ("model", "body", "expected", "style"),
    [
        (one(), {"instances": ROWS}, [ROWS], None),
        (one(), {"instances": ROWS[:1]}, [ROWS[:1]], None),
        (one(), {"instances": [[1, 2, 3]]}, [[[1, 2, 3]]], None),
        (one(), {"instances": ROWS, "signature_name": "serving_default"}, [ROWS], None),
        (one(), {"instances": [{"x": row} for row in ROWS]}, [ROWS], None),
        (one(), {"instances": [{"features": row} for row in ROWS]}, [ROWS], None),
        (one(), {"features": ROWS[0]}, [ROWS[:1]], Style.BARE),
        (one(), {"inputs": ROWS}, [ROWS], Style.INPUTS),
        (one(), {"inputs": {"x": ROWS}}, [ROWS], Style.INPUTS),
        (one(), ROWS, [ROWS], Style.BARE),
        (one(), ROWS[0], [ROWS[:1]], Style.BARE),
        (one(), {"x": ROWS[0]}, [ROWS[:1]], Style.BARE),
        (COLUMNS, {"instances": [1, 2.5]}, [[[1], [2.5]]], None),
        (COLUMNS, {"instances": [[1], [2.5]]}, [[[1], [2.5]]], None),
        (COLUMNS, [1, 2.5], [[[1], [2.5]]], Style.BARE),
        (COLUMNS, {"inputs": [1, 2.5]}, [[[1], [2.5]]], Style.INPUTS),
        (SCALARS, {"instances": [1, 2, -3]}, [[1, 2, -3]], None),
        (SCALARS, {"instances": [1, 3.0]}, [[1, 3]], None),
        (SCALARS, [7], [[7]], Style.BARE),
        (IMAGE, {"instances": [[[1, 2], [3, 4]]]}, [[[[1, 2], [3, 4]]]], None),
        (IMAGE, [[1, 2], [3, 4]], [[[[1, 2], [3, 4]]]], Style.BARE),
        (FREE, {"instances": [[1, 2, 3, 4]]}, [[[1, 2, 3, 4]]], None),
        (RECORD, {"instances": [{"hour": 2, "amount": 1, "risk": 3}]}, [[[1, 2, 3]]], None),
        (RECORD, {"instances": [{"hour": 2, "amount": 1, "risk": 3}, [4, 5, 6]]}, [[[1, 2, 3], [4, 5, 6]]], None),
        (RECORD, {"amount": 1, "hour": 2, "risk": 3}, [[[1, 2, 3]]], Style.BARE),
        (RECORD, [{"amount": 1, "hour": 2, "risk": 3}], [[[1, 2, 3]]], Style.BARE),
        (TWO, {"instances": [{"a": [1, 2], "b": 3}, {"a": [4, 5], "b": [6]}][:1]}, [[[1, 2]], [[3]]], None),
        (TWO, {"inputs": {"a": [[1, 2], [4, 5]], "b": [3, 6]}}, [[[1, 2], [4, 5]], [[3], [6]]], Style.INPUTS),
        (TWO, {"a": [1, 2], "b": 3}, [[[1, 2]], [[3]]], Style.BARE),
        (TWO, [{"a": [1, 2], "b": 3}], [[[1, 2]], [[3]]], Style.BARE),
        (WHOLE, {"instances": [{"a": [[1], [2]], "sr": 16000}]}, [[[1], [2]], 16000], None),
        (WHOLE, {"inputs": {"sr": 16000, "a": [[1, 5], [2, 6]]}}, [[[1, 5], [2, 6]], 16000], Style.INPUTS),
        (one("FP32", 1, 3, batched=False), {"instances": [[1, 2, 3]]}, [[[1, 2, 3]]], None),
        (one("BOOL", -1, 2), {"instances": [[True, False], [1, 0]]}, [[[1, 0], [1, 0]]], None),
        (one("BF16", -1, 2), {"instances": [[1, 0.5]]}, [[[1, 0.5]]], None),
        (one("UINT64", -1, 1), {"instances": [[2**64 - 1]]}, [[[2**64 - 1]]], None),
        (one("INT64", -1, 1), {"instances": [[-(2**63)]]}, [[[-(2**63)]]], None),
        (STRINGS, {"instances": ["å", ["b"]][:1]}, [[["å".encode()]]], None),
        (STRINGS, {"instances": [{"b64": "/w=="}, {"b64": ""}]}, [[[b"\xff"], [b""]]], None),
        (STRINGS, {"instances": [{"x": "y"}]}, [[[b"y"]]], None),
        (
            one(),
            {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]},
            [[[1, 2, 3]]],
            Style.OPEN_INFERENCE,
        ),
    ],
)
def test_forms(model: ModelSpec, body: Any, expected: list[Any], style: Style | None) -> None:
    decoded = decode(model, orjson.dumps(body))
    for found, want in zip(arrays(model, decoded), expected, strict=True):
        np.testing.assert_array_equal(found, np.array(want, found.dtype))
    asked = decoded[3]
    assert (asked.style if asked else None) is style


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer(kind: Any) -> None:
    body = kind(orjson.dumps({"instances": ROWS}))
    np.testing.assert_array_equal(arrays(one(), decode(one(), body))[0], ROWS)


@pytest.mark.parametrize(
    ("model", "body", "error", "words"),
    [
        (one(), b"", MalformedBody, ["empty"]),
        (one(), b"{", MalformedBody, ["not JSON", "line 1"]),
        (one(), b"\xff\xfe", MalformedBody, ["not JSON"]),
        (one(), b'{"instances":[[NaN,1,2]]}', MalformedBody, ["not JSON"]),
        (one(), b'{"instances":[[1e400,1,2]]}', MalformedBody, ["infinity"]),
        (one(), b"[" * 5000 + b"]" * 5000, MalformedBody, ["depth"]),
        (one(), b"[" * 1000 + b"]" * 1000, InvalidInput, ["'x'"]),
        (one(), b"3", MalformedBody, ["the number 3", "'instances'"]),
        (one(), b'"a"', MalformedBody, ["the string 'a'"]),
        (one(), b"null", MalformedBody, ["null"]),
        (one(), b"{}", InvalidInput, ["empty object"]),
        (one(), b"[]", InvalidInput, ["at least one row"]),
        (one(), b'{"instances":[]}', InvalidInput, ["at least one row"]),
        (one(), b'{"instances":{}}', InvalidInput, ["an object", "list of rows"]),
        (one(), b'{"instances":"abc"}', InvalidInput, ["the string 'abc'"]),
        (one(), b'{"instances":null}', InvalidInput, ["null"]),
        (one(), b'{"instances":[[]]}', InvalidInput, ["[1, 0]", "[-1, 3]"]),
        (one(), b'{"instances":[[1,2]]}', InvalidInput, ["'x'", "[1, 2]", "[-1, 3]"]),
        (one(), b'{"instances":[1,2,3]}', InvalidInput, ["'x'", "[3]", "[-1, 3]"]),
        (one(), b'{"instances":[[[1,2,3]]]}', InvalidInput, ["[1, 1, 3]"]),
        (one(), b'{"instances":[[1,2,3],[1,2]]}', InvalidInput, ["ragged", "[1] has 2", "[0] has 3"]),
        (one(), b'{"instances":[[1,2,3],4]}', InvalidInput, ["ragged", "[1] is the number 4"]),
        (one(), b'{"instances":[[1,2,[3]]]}', InvalidInput, ["ragged", "[0][2] is a list"]),
        (one(), b'{"instances":[[1,2,null]]}', InvalidInput, ["[0][2] is null", "FP32 takes numbers"]),
        (one(), b'{"instances":[[1,2,true]]}', InvalidInput, ["[0][2] is true"]),
        (one(), b'{"instances":[[1,2,false]]}', InvalidInput, ["[0][2] is false"]),
        (one(), b'{"instances":[[1,2,"3"]]}', InvalidInput, ["[0][2] is the string '3'"]),
        (one(), b'{"instances":[[1,2,{}]]}', InvalidInput, ["[0][2] is an object"]),
        (one(), b'{"instances":[[1,2,1e39]]}', InvalidInput, ["[0][2]", "1e+39", "out of range for FP32"]),
        (one("FP16"), b'{"instances":[[1,2,65520]]}', InvalidInput, ["65520", "out of range for FP16"]),
        (one("BF16"), b'{"instances":[[1,2,1e39]]}', InvalidInput, ["out of range for BF16"]),
        (one("INT32"), b'{"instances":[[1,2,3.5]]}', InvalidInput, ["3.5", "INT32 takes whole numbers"]),
        (one("INT8"), b'{"instances":[[1,2,128]]}', InvalidInput, ["128", "-128 to 127"]),
        (one("UINT8"), b'{"instances":[[1,2,-1]]}', InvalidInput, ["-1", "0 to 255"]),
        (one("UINT64"), b'{"instances":[[1,2,18446744073709551616]]}', InvalidInput, ["out of range"]),
        (one("INT64"), b'{"instances":[[1,2,9223372036854775808]]}', InvalidInput, ["out of range"]),
        (one("INT64"), b'{"instances":[[1,2,true]]}', InvalidInput, ["[0][2] is true"]),
        (one("BOOL"), b'{"instances":[[1,0,2]]}', InvalidInput, ["[0][2] is the number 2", "true, false, 0 or 1"]),
        (one("BOOL"), b'{"instances":[[1,0,"a"]]}', InvalidInput, ["the string 'a'"]),
        (STRINGS, b'{"instances":[3]}', InvalidInput, ["the number 3", "BYTES takes strings"]),
        (STRINGS, b'{"instances":[{"b64":"!"}]}', InvalidInput, ["not base64"]),
        (STRINGS, b'{"instances":[{"b64":3}]}', InvalidInput, ["not base64"]),
        (STRINGS, b'{"instances":[null]}', InvalidInput, ["null"]),
        (RECORD, b'{"instances":[{"amount":1,"hour":2}]}', InvalidInput, ["row 0", "no feature 'risk'"]),
        (RECORD, b'{"instances":[{"amount":1,"hour":2,"risk":3,"y":4}]}', InvalidInput, ["unknown feature 'y'"]),
        (one(), b'{"instances":[{"amount":1}]}', InvalidInput, ["row 0", "'amount'", "'x'"]),
        (one(), b'{"y":[1,2,3]}', InvalidInput, ["'y'", "'instances'"]),
        (one(), b'{"instances":[[1,2,3]],"inputs":[]}', InvalidInput, ["both"]),
        (one(), b'{"inputs":{"y":[[1,2,3]]}}', InvalidInput, ["no input 'y'", "'x'"]),
        (one(), b'{"inputs":{}}', InvalidInput, ["'x' is missing"]),
        (one(), b'{"inputs":5}', InvalidInput, ["'x'", "[]"]),
        (TWO, b'{"instances":[[1,2,3]]}', InvalidInput, ["row 0", "'a', 'b'"]),
        (TWO, b'{"instances":[{"a":[1,2]}]}', InvalidInput, ["row 0", "no input 'b'"]),
        (TWO, b'{"instances":[{"a":[1,2],"b":1,"c":1}]}', InvalidInput, ["unknown input 'c'"]),
        (TWO, b'{"inputs":[[1,2]]}', InvalidInput, ["a list", "'a', 'b'"]),
        (TWO, b'{"inputs":{"a":[[1,2]],"b":[1,2]}}', InvalidInput, ["'b' has 2 rows", "'a' has 1"]),
        (TWO, b'{"inputs":{"a":[[1,2]]}}', InvalidInput, ["'b' is missing"]),
        (WHOLE, b'{"instances":[{"a":[[1],[2]],"sr":1},{"a":[[1],[2]],"sr":1}]}', InvalidInput, ["not batched"]),
    ],
)
def test_faults(model: ModelSpec, body: bytes, error: type[ServingError], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        decode(model, body)
    assert type(caught.value) is error
    for word in words:
        assert word in caught.value.message


def _answer(run: Any) -> Decoded | type[ServingError]:
    try:
        found: Decoded = run()
    except ServingError as error:
        return type(error)
    return found


NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.integers(-200, 300),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-9, 9),
)
VALUES = st.one_of(NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.booleans(), st.none(), st.just("1"))
PACKED = sorted(set(NUMPY) - {"BOOL", "BF16", "BYTES"})


@given(
    st.sampled_from(PACKED), st.lists(st.lists(VALUES, min_size=1, max_size=3), min_size=1, max_size=3), st.booleans()
)
def test_fast_path_answers_as_the_strict_one(datatype: str, rows: list[list[Any]], v2: bool) -> None:
    width = len(rows[0])
    model = one(datatype, -1, width)
    body: Any = {"instances": rows}
    if v2:
        flat = [value for row in rows for value in row]
        body = {"inputs": [{"name": "x", "shape": [len(rows), width], "datatype": datatype, "data": flat}]}
    try:
        text = orjson.dumps(body)
    except TypeError:  # an integer that JSON's writer here cannot write
        return
    plan = InputPlan(model, "m")
    fast = _answer(lambda: json.decoder(plan)(text))
    assert fast == _answer(lambda: StrictJson(plan).document(orjson.loads(text)))


@given(st.sampled_from(sorted(INTEGERS)), st.data())
def test_integers_round_trip(datatype: str, data: st.DataObject) -> None:
    limits = np.iinfo(NUMPY[datatype])
    values = data.draw(st.lists(st.integers(int(limits.min), int(limits.max)), min_size=1, max_size=40))
    model = spec(TensorSpec("x", datatype, (-1,)), outputs=(TensorSpec("y", datatype, (-1,)),))
    _round_trip(model, values)


@given(st.sampled_from(["FP16", "BF16", "FP32", "FP64"]), st.lists(st.floats(-6e4, 6e4), min_size=1, max_size=40))
def test_floats_round_trip(datatype: str, values: list[float]) -> None:
    model = spec(TensorSpec("x", datatype, (-1,)), outputs=(TensorSpec("y", datatype, (-1,)),))
    exact = np.array(values).astype(NUMPY[datatype])
    (array,) = arrays(model, decode(model, orjson.dumps({"instances": exact.astype(np.float64).tolist()})))
    np.testing.assert_array_equal(array, exact)
    # The text is the shortest that reads back as the same value.
    text = orjson.loads(encode(model, [array], None)[1])["predictions"]
    np.testing.assert_array_equal(np.array(text).astype(NUMPY[datatype]), exact)


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_booleans_round_trip(values: list[bool]) -> None:
    _round_trip(spec(TensorSpec("x", "BOOL", (-1,)), outputs=(TensorSpec("y", "BOOL", (-1,)),)), values)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=9))
def test_strings_round_trip(values: list[str]) -> None:
    _round_trip(spec(TensorSpec("x", "BYTES", (-1,)), outputs=(TensorSpec("y", "BYTES", (-1,)),)), values)


def _round_trip(model: ModelSpec, values: list[Any]) -> None:
    decoded = decode(model, orjson.dumps({"instances": values}))
    (array,) = arrays(model, decoded)
    _, body = encode(model, [array], None)
    assert orjson.loads(body) == {"predictions": values}


def encode(model: ModelSpec, outputs: list[Any], asked: Asked | None) -> tuple[bytes, bytes]:
    return json.encoder(model, open_inference_encoder.encoder(model, "m", "1"))(outputs, asked)


P = TensorSpec("p", "FP32", (-1, 2))
ROW_OUT = np.array([[0.25, 0.75]], np.float32)
LABEL = TensorSpec("label", "BYTES", (-1,))


@pytest.mark.parametrize(
    ("outputs", "values", "style", "body"),
    [
        ((P,), [ROW_OUT], None, {"predictions": [[0.25, 0.75]]}),
        ((P,), [ROW_OUT], Style.INSTANCES, {"predictions": [[0.25, 0.75]]}),
        ((P,), [ROW_OUT], Style.INPUTS, {"outputs": [[0.25, 0.75]]}),
        ((P,), [ROW_OUT], Style.BARE, [[0.25, 0.75]]),
        ((P, LABEL), [ROW_OUT, np.array([b"ok"], object)], None, {"predictions": [{"p": [0.25, 0.75], "label": "ok"}]}),
        ((P, LABEL), [ROW_OUT, np.array(["ok"], object)], Style.BARE, [{"p": [0.25, 0.75], "label": "ok"}]),
        (
            (P, LABEL),
            [ROW_OUT, np.array([b"\xff"], object)],
            Style.INPUTS,
            {"outputs": {"p": [[0.25, 0.75]], "label": [{"b64": "/w=="}]}},
        ),
        ((P,), [np.array([[np.nan, np.inf]], np.float32)], None, {"predictions": [[None, None]]}),
        ((P,), [np.array([[1, 2]], ml_dtypes.bfloat16)], None, {"predictions": [[1.0, 2.0]]}),
        ((P,), [np.array([[1, 2]], np.float16)], None, {"predictions": [[1.0, 2.0]]}),
        ((P,), [np.array([[1, 9], [2, 9]], np.float32).T[:1]], None, {"predictions": [[1.0, 2.0]]}),
        ((P,), [np.array([[True, False]])], None, {"predictions": [[True, False]]}),
    ],
)
def test_answers(outputs: tuple[TensorSpec, ...], values: list[Any], style: Style | None, body: Any) -> None:
    header, text = encode(spec(P, outputs=outputs), values, None if style is None else Asked(style))
    assert header == b"content-type: application/json\r\n"
    assert orjson.loads(text) == body


def test_answers_of_a_model_that_is_not_batched() -> None:
    outputs = (TensorSpec("y", "FP32", (2,)), TensorSpec("n", "INT64", ()))
    model = spec(P, outputs=outputs, batched=False)
    values = [np.array([1, 2], np.float32), np.array(3)]
    assert orjson.loads(encode(model, values, None)[1]) == {"predictions": [{"y": [1, 2], "n": 3}]}
    assert orjson.loads(encode(model, values, Asked(Style.INPUTS))[1]) == {"outputs": {"y": [1, 2], "n": 3}}


def test_float32_is_written_in_its_shortest_form() -> None:
    assert encode(spec(P), [np.array([[0.1, 1 / 3]], np.float32)], None)[1] == b'{"predictions":[[0.1,0.33333334]]}'
