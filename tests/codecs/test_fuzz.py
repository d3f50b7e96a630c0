"""Valid bodies of every format, spoilt at random but the same on every run: only our own errors come out."""

from __future__ import annotations

import io
import random
import time
import tracemalloc
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from serving.codecs import registry
from serving.codecs.plan import InputPlan
from serving.contract import ModelSpec
from serving.errors import ServingError
from tests.codecs.records import frames, record
from tests.codecs.support import RECORD, STRINGS, TWO, WHOLE, missing, one
from tests.codecs.test_arrow import batch, fixed, stream

ROUNDS = 1500
MOST_BYTES = 32 << 20
MOST_SECONDS = 60

TOKENS = [
    *(b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"\n", b"\r", b"\0", b"\xff", b" "),
    *(b"null", b"true", b"false", b"NaN", b"1e999", b"-", b"-0", b"9" * 400, b"1" + b"0" * 30, b"\\ud800"),
    *(b'"inputs"', b'"instances"', b'"data"', b'"b64"', b'"shape"', b"BYTES", b"FP32", b"[" * 200, b"{}", b"[]", b'""'),
    *(b"\xff\xff\xff\xff", b"\0\0\0\x80", b"nan", b"18446744073709551616", b"-9223372036854775808"),
]


def saved(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def v2(*entries: dict[str, Any], **extra: Any) -> bytes:
    return orjson.dumps({"inputs": list(entries)} | extra)


RECORDIO, ARROW = registry.RECORDIO, registry.ARROW
GAPS = pa.array([1.5, None])
X = {"name": "x", "shape": [2, 3], "datatype": "FP32"}
ROWS = [[1, 2.5, 3], [4, 5, 6]]
HEADER = v2(X | {"parameters": {"binary_data_size": 24}}, outputs=[{"name": "p", "parameters": {"binary_data": True}}])
STRING_HEADER = v2({"name": "x", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": 7}})
FLOATS = np.arange(6, dtype=np.float32).tobytes()

BODIES: list[tuple[str, ModelSpec, str, int | None, bytes]] = [
    ("rows", one(), "application/json", None, orjson.dumps({"instances": ROWS})),
    ("columns", TWO, "application/json", None, orjson.dumps({"inputs": {"a": [[1, 2]], "b": [3]}})),
    ("objects", TWO, "application/json", None, orjson.dumps({"instances": [{"a": [1, 2], "b": 3}]})),
    ("records", RECORD, "application/json", None, orjson.dumps([{"amount": 1, "hour": 2, "risk": 3}])),
    ("strings", STRINGS, "application/json", None, orjson.dumps({"instances": ["a", {"b64": "YQ=="}]})),
    ("whole", WHOLE, "application/json", None, orjson.dumps({"instances": [{"a": [[1], [2]], "sr": 8}]})),
    ("booleans", one("BOOL"), "application/json", None, b'{"instances":[[true,false,1]]}'),
    ("free", one("INT64", -1, -1), "application/json", None, b'{"instances":[[1,2],[3,4]]}'),
    (
        "v2",
        one(),
        "application/json",
        None,
        v2(X | {"data": [1, 2, 3, 4, 5, 6]}, id="1", parameters={"priority": 1, "timeout": 5}),
    ),
    ("v2 binary", one(), "", len(HEADER), HEADER + FLOATS),
    ("v2 strings", STRINGS, "", len(STRING_HEADER), STRING_HEADER + b"\3\0\0\0abc"),
    ("v2 raw", one(), "", 0, FLOATS),
    ("csv", one(), "text/csv", None, b"1,2.5,3\n4,5,6\n"),
    ("csv with header", RECORD, "text/csv", None, b"risk,hour,amount\r\n4,5,6\r\n"),
    ("csv strings", one("BYTES", -1, 2), "text/csv", None, b'a,"b""c"\n'),
    ("npy", one(), "application/x-npy", None, saved(np.ones((2, 3)))),
    ("npy strings", STRINGS, "application/x-npy", None, saved(np.array([["a"], ["bc"]]))),
    ("npy integers", one("UINT8"), "application/x-npy", None, saved(np.ones((2, 3), np.int16))),
    ("octets", one(), "application/octet-stream", None, FLOATS),
    ("csv with gaps", missing(one()), "text/csv", None, b"1,,3\n,5,\n"),
    ("lines", one(), "application/jsonlines", None, b'[1,2.5,3]\n{"features":[4,5,6]}\n{"instances":[[1,2,3]]}\n'),
    ("lines of records", RECORD, "application/jsonlines", None, b'{"amount":1,"hour":2,"risk":3}\n' * 2),
    ("lines of objects", TWO, "application/jsonlines", None, b'{"a":[1,2],"b":3}\n'),
    ("libsvm", missing(one()), "text/libsvm", None, b"1 qid:2 1:5 3:7.5 # why\n0 2:1e-3\n"),
    ("records", one(), RECORDIO, None, frames(record("float32_tensor", row) for row in ROWS)),
    ("sparse records", missing(one()), RECORDIO, None, frames([record("float64_tensor", [1, 2], [0, 2], [3])] * 2)),
    ("records of integers", one("INT32"), RECORDIO, None, frames([record("int32_tensor", [1, -2, 300])])),
    ("records of strings", STRINGS, RECORDIO, None, frames([record("bytes", [b"abc"])])),
    ("arrow", one(), ARROW, None, stream(batch(x=fixed([1, 2, 3, 4, 5, 6], 3)))),
    ("arrow by feature", missing(RECORD), ARROW, None, stream(batch(amount=GAPS, hour=GAPS, risk=GAPS))),
    ("arrow lists", one("INT64"), ARROW, None, stream(batch(x=pa.array([[1, 2, 3], [4, 5, 6]])))),
    ("arrow strings", STRINGS, ARROW, None, stream(batch(x=pa.array(["abc", "d"])))),
]


def spoilt(body: bytes, chance: random.Random) -> bytes:
    text = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(text))
        match chance.randrange(5):
            case 0:
                text[at : at + chance.randint(0, 4)] = chance.choice(TOKENS)
            case 1:
                del text[at : at + chance.randint(1, 8)]
            case 2:
                text[at:at] = text[chance.randint(0, len(text)) :][:20]
            case 3 if at < len(text):
                text[at] ^= 1 << chance.randrange(8)
            case _:
                text[at:at] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 3)))
    return bytes(text)


@pytest.mark.parametrize(
    ("model", "media_type", "length", "body"), [case[1:] for case in BODIES], ids=[c[0] for c in BODIES]
)
def test_only_our_errors(model: ModelSpec, media_type: str, length: int | None, body: bytes) -> None:
    chance = random.Random(20261121)
    plan = InputPlan(model, "m")
    decode = registry.decoder(plan, media_type, length)
    assert decode(body)[0] >= 1
    refused: list[ServingError] = []
    tracemalloc.start()
    start = time.monotonic()
    try:
        for _ in range(ROUNDS):
            text = spoilt(body, chance)
            try:
                rows, columns, _, _ = decode(text)
            except ServingError as error:
                refused.append(error)
            else:
                assert rows >= 1
                assert len(columns) == len(model.inputs)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MOST_BYTES
    assert time.monotonic() - start < MOST_SECONDS
    assert len(refused) > ROUNDS // 10
    assert {error.http_status for error in refused} <= {400, 501}
    assert all(0 < len(error.message) < 1000 for error in refused)
