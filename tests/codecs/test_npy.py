from __future__ import annotations

import io
import time
from typing import Any

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given

from serving.codecs import npy
from serving.contract import Array, ModelSpec, TensorSpec
from serving.datatypes import NUMPY
from serving.errors import InvalidInput, MalformedBody, NotAcceptable, ServingError
from tests.codecs.support import arrays, decode, one, spec

NPY = "application/x-npy"
GOOD = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


def saved(array: Any, version: tuple[int, int] | None = None, **how: Any) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asanyarray(array), version, **how)
    return out.getvalue()


def written(header: str, data: bytes = b"", version: int = 1) -> bytes:
    size = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + header.encode("latin-1") + data


@pytest.mark.parametrize(
    ("model", "array", "expected"),
    [
        (one(), GOOD, GOOD),
        (one(), np.asfortranarray(GOOD), GOOD),
        (one(), GOOD[:, ::-1], GOOD[:, ::-1]),
        (one(), GOOD.astype(np.float64), GOOD),
        (one(), GOOD.astype(">f4"), GOOD),
        (one(), GOOD.astype(np.int64), GOOD),
        (one("FP16"), GOOD, GOOD),
        (one("BF16"), GOOD, GOOD),
        (one("BF16"), GOOD.astype(ml_dtypes.bfloat16).view("V2"), GOOD),
        (one("INT32"), GOOD.astype(np.int64), GOOD),
        (one("UINT8"), GOOD.astype(np.int64), GOOD),
        (one("BOOL"), GOOD > 2, GOOD > 2),
        (one(), np.array([[np.nan, np.inf, -np.inf]]), [[np.nan, np.inf, -np.inf]]),
        (one("BYTES"), np.array([["a", "é", ""]]), [[b"a", "é".encode(), b""]]),
        (one("BYTES"), np.array([[b"a", b"\xff", b""]]), [[b"a", b"\xff", b""]]),
        (one("FP32", -1), GOOD[0], GOOD[0]),
        (one("FP32", 2, -1, batched=False), GOOD, GOOD),
    ],
)
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_forms(model: ModelSpec, array: Any, expected: Any, version: tuple[int, int]) -> None:
    (found,) = arrays(model, decode(model, saved(array, version), NPY))
    np.testing.assert_array_equal(found, np.array(expected).astype(found.dtype))


def test_the_exact_dtype_is_not_copied() -> None:
    body = saved(GOOD)
    (column,) = decode(one(), body, NPY)[1]
    assert isinstance(column, memoryview)
    assert column.obj is body


def test_headers_of_other_writers() -> None:
    data = np.arange(3, dtype=np.float32).tobytes()
    for header in (
        "{'shape': (1, 3), 'fortran_order': False, 'descr': '<f4'}",
        '{"descr":"<f4","fortran_order":False,"shape":(1,3,)}\n',
        "{'descr': '<f4', 'fortran_order': True, 'shape': (1L, 3L), }   \n",
    ):
        assert arrays(one(), decode(one(), written(header, data), NPY))[0].tolist() == [[0, 1, 2]]


def test_hostile_headers_are_refused_in_no_time() -> None:
    start = time.monotonic()
    for header in (
        "{" + "'shape': (1,)  " * 250,
        "{'shape':(" + "1," * 2000,
        "{'shape':(" + "1" * 4000,
        "{'shape': (" + " " * 4000 + "x",
        " " * 4096,
        "{" + " " * 4000 + "x",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1 1, 3)}",
    ):
        with pytest.raises(MalformedBody):
            decode(one(), written(header), NPY)
    assert time.monotonic() - start < 1


SHAPED = "{'descr': '<f4', 'fortran_order': False, 'shape': %s}"


@pytest.mark.parametrize(
    ("model", "body", "error", "words"),
    [
        (one(), b"", MalformedBody, ["not an .npy file"]),
        (one(), b"\x93NUMPY\x04\x00v\x00" + bytes(200), MalformedBody, ["version"]),
        (one(), b"PK\x03\x04" + bytes(20), MalformedBody, ["not an .npy file"]),
        (one(), saved(GOOD)[:40], MalformedBody, ["header says"]),
        (one(), written(" " * 5000), MalformedBody, ["at most 4096"]),
        (one(), written(" " * 20, version=2)[:-10], MalformedBody, ["header says"]),
        (one(), saved(GOOD)[:-1], MalformedBody, ["needs 24 bytes, 23 came"]),
        (one(), saved(GOOD) + b"\0", MalformedBody, ["needs 24 bytes, 25 came"]),
        (one(), written("[" * 3000), MalformedBody, ["cannot be read"]),
        (one(), written("{'descr': '<f4', 'shape': (1, 3)}"), MalformedBody, ["cannot be read"]),
        (
            one(),
            written("{'descr': '<a4', 'fortran_order': False, 'shape': (1, 3)}"),
            MalformedBody,
            ["cannot be read"],
        ),
        (one(), written("{}"), MalformedBody, ["cannot be read"]),
        (one(), written("3"), MalformedBody, ["cannot be read"]),
        (one(), written("__import__('os')"), MalformedBody, ["cannot be read"]),
        (one(), written(SHAPED % "[1, 3]"), MalformedBody, ["cannot be read"]),
        (one(), written(SHAPED % "(-1, 3)"), MalformedBody, ["cannot be read"]),
        (one(), written(SHAPED % "(True, 3)"), MalformedBody, ["cannot be read"]),
        (one(), written(SHAPED % f"({10**18 - 1}, 3)"), MalformedBody, ["0 came after the header"]),
        (one("FP32", -1, -1), written(SHAPED % f"({10**18 - 1}, {10**18 - 1})"), InvalidInput, ["overflows"]),
        (one(), written(SHAPED % f"({10**40}, 3)"), MalformedBody, ["cannot be read"]),
        (one(), written(SHAPED % "(0, 3)"), InvalidInput, ["at least one row"]),
        (one(), written(SHAPED.replace("<f4", "<f3") % "(1, 3)"), MalformedBody, ["dtype <f3"]),
        (one(), saved(np.array([[None] * 3], object)), InvalidInput, ["|O"]),
        (one(), saved(np.zeros((1, 3), [("a", "<f4")])), MalformedBody, ["plain numbers"]),
        (one(), saved(GOOD[0]), InvalidInput, ["[3]", "[-1, 3]"]),
        (one(), saved(GOOD[:, :2]), InvalidInput, ["[2, 2]", "[-1, 3]"]),
        (one(), saved(GOOD.astype(np.complex64)), InvalidInput, ["complex64", "FP32 was expected"]),
        (one(), saved(GOOD > 2), InvalidInput, ["bool", "FP32 was expected"]),
        (one(), saved(np.array([["a", "b", "c"]])), InvalidInput, ["FP32 was expected"]),
        (one(), saved(GOOD.astype(np.float64) * 1e38), InvalidInput, ["element 3", "out of range for FP32"]),
        (one("INT32"), saved(GOOD), InvalidInput, ["float32", "INT32 was expected"]),
        (one("UINT8"), saved(np.array([[1, 2, -1]])), InvalidInput, ["element 2 is -1", "out of range"]),
        (one("INT64"), saved(np.array([[1, 2, 2**63]], np.uint64)), InvalidInput, ["out of range"]),
        (one("BYTES"), saved(GOOD), InvalidInput, ["strings were expected"]),
    ],
)
@pytest.mark.filterwarnings("ignore:metadata:UserWarning")
def test_faults(model: ModelSpec, body: bytes, error: type[ServingError], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        decode(model, body, NPY)
    for word in words:
        assert word in caught.value.message


def encode(datatype: str, array: Array) -> Array:
    header, body = npy.encoder(spec(TensorSpec("x", "FP32", (-1,)), outputs=(TensorSpec("y", datatype, (-1,)),)))(
        [array], None
    )
    assert header == b"content-type: application/x-npy\r\n"
    found: Array = np.load(io.BytesIO(body), allow_pickle=False)
    return found


@given(st.sampled_from(sorted(set(NUMPY) - {"BYTES", "BOOL", "BF16"})), st.binary(min_size=8, max_size=8))
def test_numbers_round_trip(datatype: str, data: bytes) -> None:
    values = np.frombuffer(data, NUMPY[datatype])
    assert encode(datatype, values).tobytes() == data
    assert bytes(decode(one(datatype, -1), saved(values), NPY)[1][0]) == data  # type: ignore[arg-type]


def test_bf16_is_written_as_float32() -> None:
    found = encode("BF16", np.array([1.5, 2], ml_dtypes.bfloat16))
    assert found.dtype == np.float32
    assert found.tolist() == [1.5, 2]


def test_strings() -> None:
    assert encode("BYTES", np.array([b"a", "é", b""], object)).tolist() == [b"a", "é".encode(), b""]
    with pytest.raises(NotAcceptable, match="zero bytes"):
        encode("BYTES", np.array([b"a\0"], object))
    with pytest.raises(NotAcceptable, match="differ too much"):
        encode("BYTES", np.array([b"a" * 100_000] + [b""] * 1000, object))


def test_several_outputs_are_refused() -> None:
    y, z = TensorSpec("y", "FP32", (-1,)), TensorSpec("z", "FP32", (-1,))
    with pytest.raises(NotAcceptable, match="'y', 'z'"):
        npy.encoder(spec(y, outputs=(y, z)))([GOOD, GOOD], None)
