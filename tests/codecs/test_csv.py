from __future__ import annotations

import csv as stdlib_csv
import io
from typing import Any

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given

from serving.codecs import csv
from serving.codecs.base import Decoded
from serving.codecs.csv import StrictCsv
from serving.codecs.plan import InputPlan
from serving.contract import ModelSpec, TensorSpec
from serving.datatypes import NUMPY
from serving.errors import InvalidInput, MalformedBody, ServingError
from tests.codecs.support import RECORD, arrays, decode, missing, one, spec

MISSING = missing(one("FP32"))
MISSING_INT = missing(one("INT32"))
NUMBERED = one("FP32", -1, 3, features=("0", "1", "2"))
PACKED = sorted(set(NUMPY) - {"BOOL", "BF16", "BYTES"})


@pytest.mark.parametrize(
    ("model", "text", "expected"),
    [
        (one(), "1,2,3", [[1, 2, 3]]),
        (one(), "1,2,3\n", [[1, 2, 3]]),
        (one(), "1,2,3\r\n4,5,6\r\n", [[1, 2, 3], [4, 5, 6]]),
        (one(), "1,2,3\n4,5,6\n\n", [[1, 2, 3], [4, 5, 6]]),
        (one(), " 1, 2 ,\t3 \n", [[1, 2, 3]]),
        (one(), "+1,.5,2.\n", [[1, 0.5, 2]]),
        (one(), "01,1e2,-1E-2\n", [[1, 100, np.float32(-0.01)]]),
        (one(), '"1","2",3\n', [[1, 2, 3]]),
        (one(), "nan,inf,-Infinity\n", [[np.nan, np.inf, -np.inf]]),
        (one(), "\ufeff1,2,3\n", [[1, 2, 3]]),
        (one("BF16"), "1,2,nan\n", [[1, 2, np.nan]]),
        (one("INT64"), "9223372036854775807,-9223372036854775808,3.0\n", [[2**63 - 1, -(2**63), 3]]),
        (one("BOOL"), "1,0,true\n", [[1, 0, 1]]),
        (one("BYTES"), 'a,"b,c",\n', [[b"a", b"b,c", b""]]),
        (one("FP32", -1), "1\n2\n", [1, 2]),
        (one("FP32", -1, 1), "1\n2\n", [[1], [2]]),
        (one("FP32", -1, -1), "1,2\n3,4\n", [[1, 2], [3, 4]]),
        (one("FP32", -1, batched=False), "1,2\n", [1, 2]),
        (one("FP32", 2, 2, batched=False), "1,2\n3,4\n", [[1, 2], [3, 4]]),
        (RECORD, "1,2,3\n", [[1, 2, 3]]),
        (RECORD, "amount,hour,risk\n1,2,3\n", [[1, 2, 3]]),
        (RECORD, 'risk, amount,"hour"\r\n3,1,2\r\n', [[1, 2, 3]]),
        (one("FP32", -1, 2, features=("a", " b")), "a, b\n1,2\n", [[1, 2]]),
        (one("FP32", -1, 2, features=("a", " b")), "b,a\n1,2\n", [[2, 1]]),
        (NUMBERED, "2,0,1\n5,6,7\n", [[2, 0, 1], [5, 6, 7]]),
        (NUMBERED, "2,0,1\n5,nan,7\n", [[2, 0, 1], [5, np.nan, 7]]),
        (MISSING, "1,,3\n", [[1, np.nan, 3]]),
        (MISSING, ',"",3\r\n 4 , , \n', [[np.nan, np.nan, 3], [4, np.nan, np.nan]]),
        (MISSING, ",,\n", [[np.nan, np.nan, np.nan]]),
    ],
)
def test_forms(model: ModelSpec, text: str, expected: Any) -> None:
    (found,) = arrays(model, decode(model, text.encode(), "text/csv"))
    wide = object if model.inputs[0].datatype == "BYTES" else np.float64
    np.testing.assert_array_equal(found.astype(wide), np.array(expected, found.dtype).astype(wide))


@pytest.mark.parametrize(
    ("model", "text", "error", "words"),
    [
        (one(), b"", MalformedBody, ["empty"]),
        (one(), b"\n\n", MalformedBody, ["empty"]),
        (one(), b"\xff,1,2", MalformedBody, ["UTF-8"]),
        (one(), b'1,2,"3', MalformedBody, ["not CSV"]),
        (one(), b"1,2,3\n1,2\n", InvalidInput, ["line 2 has 2 values", "line 1 has 3"]),
        (one(), b"1,2,3\n\n4,5,6\n", InvalidInput, ["line 2 has 0 values"]),
        (one(), b"\n1,2,3\n", InvalidInput, ["line 1 has 0 values"]),
        (one(), b"1,2\n", InvalidInput, ["[1, 2]", "[-1, 3]"]),
        (one(), b"1,,3\n", InvalidInput, ["line 1, value 2 is empty"]),
        (one(), b"1,2,\n", InvalidInput, ["line 1, value 3 is empty"]),
        (one(), b"1,x,3\n", InvalidInput, ["line 1, value 2 is 'x'", "a number was expected"]),
        (one(), b"1,1_000,3\n", InvalidInput, ["'1_000'"]),
        (one(), b"1,true,3\n", InvalidInput, ["'true'"]),
        (one(), b"1,[2],3\n", InvalidInput, ["'[2]'"]),
        (one(), b"1,2],[3,4,5,6\n", InvalidInput, ["'2]'"]),
        (one(), b"1,2,1e39\n", InvalidInput, ["out of range for FP32"]),
        (one(), b"1,2,1e400\n", InvalidInput, ["out of range for FP32"]),
        (one("INT32"), b"1,2,3.5\n", InvalidInput, ["3.5"]),
        (one("INT32"), b"1,2,nan\n", InvalidInput, ["'nan'"]),
        (one("INT8"), b"1,2,300\n", InvalidInput, ["300", "-128 to 127"]),
        (one("BOOL"), b"1,0,2\n", InvalidInput, ["the number 2"]),
        (one("FP32", -1), b"1,2\n3,4\n", InvalidInput, ["[2, 2]", "[-1]"]),
        (RECORD, b"amount,hour,risk\n", InvalidInput, ["no rows after the header"]),
        (RECORD, b"amount,hour,other\n1,2,3\n", InvalidInput, ["line 1", "'other'", "no feature", "no 'risk'"]),
        (RECORD, b"amount,hour,hour\n1,2,3\n", InvalidInput, ["'hour' twice", "no 'risk'"]),
        (RECORD, b"amount,hour\n1,2\n", InvalidInput, ["no 'risk'", "expected: amount, hour, risk"]),
        (RECORD, b"amount,hour,risk,more\n1,2,3,4\n", InvalidInput, ["'more', which is no feature"]),
        (RECORD, b"amount,2,risk\n1,2,3\n", InvalidInput, ["line 1, value 1 is 'amount'"]),
        (RECORD, b"risk,hour,amount\n1,2,3\n4,5\n", InvalidInput, ["line 3 has 2 values", "line 2 has 3"]),
        (MISSING, b"1,2\n", InvalidInput, ["[1, 2]", "[-1, 3]"]),
        (MISSING, b"1,x,\n", InvalidInput, ["line 1, value 2 is 'x'"]),
        (MISSING_INT, b"1,,2\n", InvalidInput, ["line 1, value 2 is empty"]),
        (RECORD, b"risk,hour,amount\n1,2\n", InvalidInput, ["line 2 has 2 values", "header has 3"]),
    ],
)
def test_faults(model: ModelSpec, text: bytes, error: type[ServingError], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        decode(model, text, "text/csv")
    assert type(caught.value) is error
    for word in words:
        assert word in caught.value.message


def _answer(run: Any) -> Decoded | type[ServingError]:
    try:
        found: Decoded = run()
    except ServingError as error:
        return type(error)
    return found


FIELDS = st.one_of(
    st.integers(-(2**66), 2**66).map(str),
    st.integers(-9, 300).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.text("0123456789+-.eE_ \tx[]\"'", max_size=6),
    st.sampled_from(["nan", "inf", "true", "null", "-0", "-0.0", "1e400", "01", "{}", "9" * 5000]),
)


@given(
    st.sampled_from(PACKED),
    st.lists(st.lists(FIELDS, min_size=2, max_size=2), min_size=1, max_size=3),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "\n", "\r\n", "\n\n"]),
)
def test_fast_path_answers_as_the_strict_one(datatype: str, rows: list[list[str]], ending: str, last: str) -> None:
    plan = InputPlan(one(datatype, -1, 2), "m")
    text = (ending.join(",".join(row) for row in rows) + last).encode()
    assert _answer(lambda: csv.decoder(plan)(text)) == _answer(lambda: StrictCsv(plan).decode(text))


P = TensorSpec("p", "FP32", (-1, 2))


def encode(outputs: tuple[TensorSpec, ...], values: list[Any], *, batched: bool = True) -> bytes:
    header, body = csv.encoder(spec(P, outputs=outputs, batched=batched))(values, None)
    assert header == b"content-type: text/csv; charset=utf-8\r\n"
    return body


@pytest.mark.parametrize(
    ("datatypes", "values", "text"),
    [
        (["FP32"], [np.array([[0.1, 2], [3, 4]], np.float32)], b"0.1,2.0\n3.0,4.0\n"),
        (["FP32"], [np.array([0.1, 2], np.float32)], b"0.1\n2.0\n"),
        (["FP32"], [np.array([[np.nan, np.inf]], np.float32)], b"nan,inf\n"),
        (["FP32"], [np.array([[1, 2], [3, 4]], np.float32).T], b"1.0,3.0\n2.0,4.0\n"),
        (["BF16"], [np.array([[1.5]], ml_dtypes.bfloat16)], b"1.5\n"),
        (["INT64"], [np.array([[2**63 - 1]])], b"9223372036854775807\n"),
        (["BOOL"], [np.array([[True, False]])], b"true,false\n"),
        (["FP32"], [np.arange(8, dtype=np.float32).reshape(2, 2, 2)], b"0.0,1.0,2.0,3.0\n4.0,5.0,6.0,7.0\n"),
        (["BYTES"], [np.array([[b"a", b"b,c"], [b'"', b""]], object)], b'a,"b,c"\n"""",\n'),
        (["INT64", "FP32"], [np.array([1, 2]), np.array([[0.5, 1], [2, 3]], np.float32)], b"1,0.5,1.0\n2,2.0,3.0\n"),
    ],
)
def test_answers(datatypes: list[str], values: list[Any], text: bytes) -> None:
    outputs = tuple(TensorSpec(f"y{i}", datatype, (-1, -1)) for i, datatype in enumerate(datatypes))
    assert encode(outputs, values) == text


def test_strings_that_are_no_text_are_written_as_they_are() -> None:
    assert encode((TensorSpec("y", "BYTES", (-1,)),), [np.array([b"\xff", b""], object)]) == b'\xff\n""\n'


def test_the_answer_of_a_model_that_is_not_batched_is_one_line() -> None:
    assert encode((P,), [np.array([1, 2], np.float32)], batched=False) == b"1.0,2.0\n"


@given(st.lists(st.lists(st.floats(width=32), min_size=2, max_size=2), min_size=1, max_size=5))
def test_floats_round_trip(rows: list[list[float]]) -> None:
    values = np.array(rows, np.float32)
    (found,) = arrays(one("FP32", -1, 2), decode(one("FP32", -1, 2), encode((P,), [values]), "text/csv"))
    np.testing.assert_array_equal(found, values)


@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=2), min_size=1, max_size=5
    )
)
def test_strings_survive_the_csv_module(rows: list[list[str]]) -> None:
    values = np.array([[text.encode() for text in row] for row in rows], object)
    text = encode((TensorSpec("y", "BYTES", (-1, 2)),), [values])
    assert list(stdlib_csv.reader(io.StringIO(text.decode(), newline=""))) == rows
