"""Answers byte for byte as SageMaker's XGBoost container writes them."""

from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given

from serving.codecs import registry
from serving.codecs.base import Asked, Style
from serving.contract import Conventions, ModelSpec, TensorSpec
from tests.codecs.support import decode, one, spec

REAL_TIME = Conventions("text/libsvm", "text/csv", predictions=True, one_line=True, missing=True)
SELECTED = msgspec.structs.replace(REAL_TIME, one_line=False)
BATCH = msgspec.structs.replace(SELECTED, ended_lines=True)

SCORE = np.array([0.1, 2], np.float32)
PROBABILITIES = np.array([[0.1, 0.9], [1, 1e-7]], np.float32)


def model(conventions: Conventions, *arrays: Any, names: tuple[str, ...] = ("score", "labels")) -> ModelSpec:
    datatypes = {"f": "FP32", "i": "INT64", "O": "BYTES", "V": "BF16"}
    outputs = tuple(
        TensorSpec(name, datatypes[array.dtype.kind], (-1, *array.shape[1:]))
        for name, array in zip(names, arrays, strict=False)
    )
    found = spec(TensorSpec("x", "FP32", (-1, 3)), outputs=outputs)
    return msgspec.structs.replace(found, conventions=conventions)


def answer(conventions: Conventions, accept: str | None, *arrays: Any) -> tuple[bytes, bytes]:
    return registry.encoder(model(conventions, *arrays), "m", "1", accept)(arrays, None)


@pytest.mark.parametrize(
    ("conventions", "accept", "arrays", "media_type", "body"),
    [
        (REAL_TIME, None, [SCORE], "text/csv; charset=utf-8", b"0.10000000149011612,2.0"),
        (REAL_TIME, "*/*", [SCORE[:1]], "text/csv; charset=utf-8", b"0.10000000149011612"),
        (
            REAL_TIME,
            "text/csv",
            [PROBABILITIES],
            "text/csv; charset=utf-8",
            b"[0.10000000149011612, 0.8999999761581421],[1.0, 1.0000000116860974e-07]",
        ),
        (
            REAL_TIME,
            "application/json",
            [SCORE],
            "application/json",
            b'{"predictions": [{"score": 0.10000000149011612}, {"score": 2.0}]}',
        ),
        (
            REAL_TIME,
            "application/jsonlines",
            [SCORE],
            "application/jsonlines",
            b'{"score": 0.10000000149011612}\n{"score": 2.0}\n',
        ),
        (BATCH, None, [SCORE], "text/csv; charset=utf-8", b"0.10000000149011612\n2.0\n"),
        (BATCH, None, [PROBABILITIES[1:]], "text/csv; charset=utf-8", b"[1.0, 1.0000000116860974e-07]\n"),
        (
            SELECTED,
            None,
            [np.array([1, 0]), np.array([[0, 1], [0, 1]])],
            "text/csv; charset=utf-8",
            b'1,"[0, 1]"\n0,"[0, 1]"',
        ),
        (SELECTED, None, [np.array([[0, 1]])], "text/csv; charset=utf-8", b'"[0, 1]"'),
        (BATCH, None, [np.array([1]), np.array([[0, 1]])], "text/csv; charset=utf-8", b'1,"[0, 1]"\n'),
        (
            SELECTED,
            "application/json",
            [np.array([np.nan]), np.array([[0, 1]])],
            "application/json",
            b'{"predictions": [{"score": NaN, "labels": [0, 1]}]}',
        ),
        (SELECTED, "text/csv", [np.array([np.nan]), np.array([2.5])], "text/csv; charset=utf-8", b"nan,2.5"),
        (SELECTED, "text/csv", [np.array([b"a,b"], object)], "text/csv; charset=utf-8", b'"a,b"'),
        (
            REAL_TIME,
            "application/json",
            [np.array([b"\xff"], object)],
            "application/json",
            b'{"predictions": [{"score": {"b64": "/w=="}}]}',
        ),
    ],
)
def test_answers(conventions: Conventions, accept: str | None, arrays: list[Any], media_type: str, body: bytes) -> None:
    assert answer(conventions, accept, *arrays) == (b"content-type: %b\r\n" % media_type.encode(), body)


@given(st.lists(st.floats(width=32), min_size=1))
def test_any_number_is_as_python_prints_it(values: list[float]) -> None:
    array = np.array(values, np.float32)
    assert answer(REAL_TIME, None, array)[1].decode() == ",".join(map(str, array.tolist()))
    rows = [{"score": value} for value in array.tolist()]
    assert answer(REAL_TIME, "application/json", array)[1].decode() == json.dumps({"predictions": rows})


def test_a_v2_question_gets_a_v2_answer_in_json() -> None:
    encode = registry.encoder(model(REAL_TIME, SCORE), "m", "1", "application/json")
    assert encode([SCORE], Asked(Style.OPEN_INFERENCE))[1].startswith(b'{"model_name":"m"')
    assert registry.encoder(model(REAL_TIME, SCORE), "m", "1", None, face_v2=True)([SCORE], None)[1].startswith(
        b'{"mod'
    )


def test_a_body_without_content_type_is_what_the_convention_says() -> None:
    assert decode(msgspec.structs.replace(one(), conventions=REAL_TIME), b"1 1:2", "")[0] == 1
    assert decode(msgspec.structs.replace(one(), conventions=Conventions("text/csv")), b"1,2,3", "")[0] == 1
    v2 = b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1,2,3]}]}'
    assert decode(msgspec.structs.replace(one(), conventions=REAL_TIME), v2, "", v2=True)[0] == 1


@pytest.mark.parametrize("accept", [None, "", "*/*", "*", "text/csv", "image/png, */*"])
def test_the_default_answer_is_what_the_convention_says(accept: str | None) -> None:
    fields, _ = answer(REAL_TIME, accept, SCORE)
    assert fields.startswith(b"content-type: text/csv")
    fields, _ = answer(Conventions(accept="application/x-ndjson"), accept, SCORE)
    assert fields.startswith(
        b"content-type: text/csv" if accept == "text/csv" else b"content-type: application/jsonlines"
    )
