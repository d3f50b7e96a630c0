from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import numpy as np
import orjson
import pytest
from hypothesis import given

from serving.codecs import bulk, csv, json, open_inference
from serving.codecs.base import Decode, Decoded
from serving.codecs.json import StrictJson
from serving.codecs.plan import InputPlan
from serving.errors import ServingError
from tests.codecs.support import one


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pieces of a few bytes, so that short texts are cut at every kind of place."""
    with monkeypatch.context() as patch:
        patch.setattr(bulk, "THRESHOLD", 0)
        patch.setattr(bulk, "PIECE", 3)
        patch.setattr(bulk, "ELEMENTS", 4)
        yield


def _answer(decode: Decode, body: bytes) -> Decoded | type[ServingError]:
    try:
        return decode(body)
    except ServingError as error:
        return type(error)


def _strict(plan: InputPlan) -> Decode:
    return lambda body: StrictJson(plan).document(open_inference.parse(body))


SHAPES: list[tuple[int, ...]] = [(), (1,), (3,), (2, 3), (1, 2, 2), (3, 1)]


def _rows(shape: tuple[int, ...], rows: int) -> Any:
    return (np.arange(rows * int(np.prod(shape))).reshape(rows, *shape) * 1.5).tolist()


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("bare", [True, False])
def test_rows_in_pieces(shape: tuple[int, ...], rows: int, bare: bool) -> None:
    plan = InputPlan(one("FP32", -1, *shape), "m")
    values = _rows(shape, rows)
    for option in (None, orjson.OPT_INDENT_2):
        body = orjson.dumps(values if bare else {"instances": values}, option=option)
        found = bulk.rows(body, shape, "f")
        assert found == (rows, np.array(values, np.float32).tobytes(), bare)
        assert json.decoder(plan)(body) == _strict(plan)(body)


@pytest.mark.usefixtures("small_pieces")
@given(st.sampled_from(SHAPES), st.integers(1, 3), st.data())
def test_spoilt_rows_fare_as_they_ordinarily_would(shape: tuple[int, ...], rows: int, data: st.DataObject) -> None:
    plan = InputPlan(one("FP32", -1, *shape), "m")
    text = bytearray(orjson.dumps({"instances": _rows(shape, rows)}))
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.integers(0, len(text)))
        size = data.draw(st.integers(0, 2))
        text[at : at + size] = data.draw(
            st.sampled_from([b"", b",", b"[", b"]", b"],[", b"true", b"1", b" ", b"{}", b'""', b"[]"])
        )
    body = bytes(text)
    assert _answer(json.decoder(plan), body) == _answer(_strict(plan), body)


@pytest.mark.usefixtures("small_pieces")
@given(st.integers(1, 5), st.data())
def test_spoilt_v2_data_fares_as_it_ordinarily_would(rows: int, data: st.DataObject) -> None:
    plan = InputPlan(one("INT32", -1, 2), "m")
    entry = {"name": "x", "shape": [rows, 2], "datatype": "INT32", "data": list(range(rows * 2))}
    keys = data.draw(st.permutations(sorted(entry)))
    text = bytearray(orjson.dumps({"id": "1", "inputs": [{key: entry[key] for key in keys}], "parameters": {}}))
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(text)))
        size = data.draw(st.integers(0, 2))
        text[at : at + size] = data.draw(
            st.sampled_from([b"", b",", b"[", b"]", b"true", b"1", b"1.5", b" ", b"{}", b"null"])
        )
    body = bytes(text)
    assert _answer(open_inference.json_decoder(plan), body) == _answer(_strict_v2(plan), body)


def _strict_v2(plan: InputPlan) -> Decode:
    return lambda body: open_inference.StrictOpenInference(plan).document(open_inference.parse(body))


@pytest.mark.usefixtures("small_pieces")
def test_csv_in_pieces() -> None:
    plan = InputPlan(one("FP32", -1, 2), "m")
    for text in (
        b"1,2\n3,4\n5,6\n",
        b"1,2\n\n3,4",
        b"1,2\r\n3,4\r\n",
        b"1,2\n3,x\n",
        b"1,2\n3\n",
        b"1,2\n+3,4",
        b"1,2",
    ):
        assert _answer(csv.decoder(plan), text) == _answer(csv.StrictCsv(plan).decode, text)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("shape", [(1,), (9,), (3, 2), (2, 9), (1, 3, 5), (2, 2, 2, 2), (0, 3), (3, 0)])
def test_answers_in_pieces(shape: tuple[int, ...]) -> None:
    array = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
    assert bulk.json_text(array) == orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)


def test_large_bodies_of_real_size() -> None:
    image = np.random.default_rng(0).normal(size=(1, 3, 96, 96)).astype(np.float32)
    model = one("FP32", -1, 3, 96, 96)
    plan = InputPlan(model, "m")
    texts = [{"instances": image.tolist()}, image.tolist()]
    texts.append({"inputs": [{"name": "x", "shape": image.shape, "datatype": "FP32", "data": image.ravel().tolist()}]})
    for text in texts:
        body = orjson.dumps(text)
        assert len(body) > bulk.THRESHOLD
        rows, (column,), _, _ = json.decoder(plan)(body)
        assert rows == 1
        assert column == image.tobytes()
    assert bulk.rows(orjson.dumps(texts[0]), (3, 96, 96), "f") == (1, image.tobytes(), False)
    found = bulk.flat_array(orjson.dumps(texts[2]), "f")
    assert found is not None
    assert found[1] == image.tobytes()
