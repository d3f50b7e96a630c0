"""simdjson's way answers as the ordinary one does wherever it answers at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import numpy as np
import orjson
import pytest
from hypothesis import given

from serving.codecs import csv, json, numbers, open_inference
from serving.codecs.base import Decoded
from serving.codecs.csv import StrictCsv
from serving.codecs.json import StrictJson
from serving.codecs.plan import InputPlan
from serving.contract import ModelSpec
from serving.errors import ServingError
from tests.codecs.support import TWO, one, spec

FLOATS = ["FP16", "FP32", "FP64"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """It pays from the first byte, and pieces are of a few bytes."""
    with monkeypatch.context() as patch:
        patch.setattr(numbers, "PAYS", 0)
        patch.setattr(numbers, "PIECE", 5)
        yield


def _answer(run: Any) -> Decoded | type[ServingError]:
    try:
        found: Decoded = run()
    except ServingError as error:
        return type(error)
    return found


def _same_json(model: ModelSpec, body: bytes) -> None:
    plan = InputPlan(model, "m")
    strict = StrictJson(plan)
    assert _answer(lambda: json.decoder(plan)(body)) == _answer(lambda: strict.document(open_inference.parse(body)))


def _same_csv(model: ModelSpec, body: bytes) -> None:
    plan = InputPlan(model, "m")
    assert _answer(lambda: csv.decoder(plan)(body)) == _answer(lambda: StrictCsv(plan).decode(body))


@pytest.mark.parametrize("datatype", FLOATS)
@pytest.mark.parametrize("rows", [1, 2, 100])
@pytest.mark.parametrize("option", [None, orjson.OPT_INDENT_2])
def test_rows(datatype: str, rows: int, option: int | None) -> None:
    values = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float16)
    row_type = numbers.row_type(InputPlan(one(datatype), "m"))
    assert row_type is not None
    packed = values.astype(row_type[1]).tobytes()
    for document, bare in (({"instances": values.tolist()}, False), (values.tolist(), True)):
        body = orjson.dumps(document, option=option)
        assert numbers.json_rows(body, *row_type) == (rows, packed, bare)
        _same_json(one(datatype), body)
    text = b"\n".join(orjson.dumps(row)[1:-1] for row in values.tolist())
    assert numbers.csv_rows(text, *row_type) == (rows, packed)


@pytest.mark.parametrize(
    "model", [one("INT32"), one("BF16"), one("FP32", -1, 3, 2), one("FP32", -1), one("FP32", -1, -1), TWO, spec()]
)
def test_models_of_no_plain_rows(model: ModelSpec) -> None:
    assert numbers.row_type(InputPlan(model, "m")) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances":[[[1],2,3]]}',
        b'{"instances":[[1,2,3],[[4],5,6]]}',
        b'{"instances":[[1,2,3],[4,5]]}',
        b'{"instances":[[1,2,3,4],[5,6]]}',
        b'{"instances":[[1,2,3],[4,5,6],[]]}',
        b'{"instances":[[1,2,3],"abc"]}',
        b'{"instances":[[1,2,3],{"a":1,"b":2,"c":3}]}',
        b'{"instances":[[1,2,true]]}',
        b'{"instances":[[1,2,null]]}',
        b'{"instances":[[1,2,"3"]]}',
        b'{"instances":[[1,2,1e39]]}',
        b'{"instances":[[1,2,1e400]]}',
        b'{"instances":[[1,2,NaN]]}',
        b'{"instances":[[1,2,123456789012345678901234567890]]}',
        b'{"instances":[[1,2,-0],[18446744073709551615,-9223372036854775808,-0.0]]}',
        b'{"instances":[[1,2,3]],"instances":[[4,5,6]]}',
        b'{"instances":[[1,2,3]],"more":[[4,5,6]]}',
        b'{"instances":[[1,2,3]]]}',
        b'{"instances":[[1,2,3],]}',
        b'{"instances":[[1,2,3] [4,5,6]]}',
        b'{"instances":[]}',
        b'{"instances":[[]]}',
        b"[1,2,3]",
        b"[]",
        b"[[1,2,3],[4,5,6]]",
    ],
)
def test_what_is_not_plain_fares_as_it_ordinarily_would(body: bytes) -> None:
    _same_json(one("FP32"), body)
    _same_json(one("FP32", -1, 1), body)


@given(st.sampled_from(FLOATS), st.integers(1, 4), st.integers(1, 3), st.data())
def test_spoilt_json(datatype: str, rows: int, width: int, data: st.DataObject) -> None:
    values = (np.arange(rows * width).reshape(rows, width) * 1.5).tolist()
    text = bytearray(orjson.dumps(data.draw(st.sampled_from([values, {"instances": values}]))))
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(text)))
        text[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from([b"", b",", b"[", b"]", b"],[", b"[]", b"true", b"1e999", b" ", b"-", b'"', b"{}", b"\\"])
        )
    _same_json(one(datatype, -1, width), bytes(text))


@given(st.sampled_from(FLOATS), st.integers(1, 4), st.integers(1, 3), st.data())
def test_spoilt_csv(datatype: str, rows: int, width: int, data: st.DataObject) -> None:
    values = (np.arange(rows * width).reshape(rows, width) * 1.5).tolist()
    text = bytearray(b"\n".join(orjson.dumps(row)[1:-1] for row in values))
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(text)))
        text[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from([b"", b",", b"\n", b"\r", b"\r\n", b"],[", b"]", b"[", b"nan", b"1e99", b" ", b"-", b'"'])
        )
    _same_csv(one(datatype, -1, width), bytes(text))


@given(st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2), min_size=1))
def test_every_float_is_read_exactly(rows: list[list[float]]) -> None:
    body = orjson.dumps({"instances": rows})
    assert numbers.json_rows(body, 2, np.dtype(np.float64)) == (len(rows), np.array(rows).tobytes(), False)
    _same_json(one("FP32", -1, 2), body)
