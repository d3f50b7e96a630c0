from __future__ import annotations

import importlib
from typing import Any

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given

from serving.codecs import arrow
from serving.codecs.base import Decoded
from serving.contract import ModelSpec, TensorSpec
from serving.datatypes import NUMPY
from serving.errors import InvalidInput, MalformedBody, MissingExtra, NotAcceptable, ServingError
from tests.codecs.support import RECORD, STRINGS, TWO, WHOLE, arrays, decode, missing, one, spec

ARROW = "application/vnd.apache.arrow.stream"
NAN = np.nan
F32 = pa.float32()


def stream(*batches: Any, options: Any = None) -> bytes:
    """Record batches as a stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    found: bytes = sink.getvalue().to_pybytes()
    return found


def batch(**columns: Any) -> Any:
    return pa.record_batch(list(columns.values()), names=list(columns))


def fixed(values: Any, size: int, kind: Any = F32) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(values, kind), size)


@pytest.mark.parametrize(
    ("model", "batches", "expected"),
    [
        (one(), [batch(x=fixed([1, 2, 3, 4, 5, 6], 3))], [[[1, 2, 3], [4, 5, 6]]]),
        (one(), [batch(x=fixed([1, 2, 3], 3)), batch(x=fixed([4, 5, 6], 3))], [[[1, 2, 3], [4, 5, 6]]]),
        (one(), [batch(x=fixed(list(range(9)), 3).slice(1, 2))], [[[3, 4, 5], [6, 7, 8]]]),
        (one(), [batch(x=pa.array([[1, 2, 3], [4, 5, 6]], pa.list_(F32)))], [[[1, 2, 3], [4, 5, 6]]]),
        (one(), [batch(x=pa.array([[1, 2, 3], [4, 5, 6]], pa.large_list(pa.int8())).slice(1))], [[[4, 5, 6]]]),
        (one(), [batch(any=fixed([1, 2, 3], 3, pa.float64()))], [[[1, 2, 3]]]),
        (one(), [batch(a=pa.array([1.5, 4]), b=pa.array([2, 5]), c=pa.array([3, 6], F32))], [[[1.5, 2, 3], [4, 5, 6]]]),
        (
            RECORD,
            [batch(risk=pa.array([3, 6]), amount=pa.array([1, 4]), hour=pa.array([2, 5]))],
            [[[1, 2, 3], [4, 5, 6]]],
        ),
        (RECORD, [batch(x=fixed([1, 2, 3], 3))], [[[1, 2, 3]]]),
        (one("FP32", -1), [batch(x=pa.array([1, 2], pa.uint8()))], [[1, 2]]),
        (one("FP32", -1, 1), [batch(x=pa.array([1, 2], F32))], [[[1], [2]]]),
        (
            one("FP32", -1, 1, 2),
            [batch(x=pa.FixedSizeListArray.from_arrays(fixed([1, 2, 3, 4], 2), 1))],
            [[[[1, 2]], [[3, 4]]]],
        ),
        (one("INT64"), [batch(x=fixed([1, 2, 3], 3, pa.uint8()))], [[[1, 2, 3]]]),
        (one("FP16"), [batch(x=fixed(np.array([1, 2, 3], np.float16), 3, pa.float16()))], [[[1, 2, 3]]]),
        (one("BF16"), [batch(x=fixed([1, 2, 3], 3))], [[[1, 2, 3]]]),
        (one("BOOL"), [batch(x=fixed([True, False, True], 3, pa.bool_()))], [[[1, 0, 1]]]),
        (STRINGS, [batch(x=pa.array(["a", "é"]))], [[[b"a"], ["é".encode()]]]),
        (one("BYTES", -1, 2), [batch(x=pa.array([[b"a", b"\xff"]], pa.list_(pa.large_binary())))], [[[b"a", b"\xff"]]]),
        (one("BYTES", -1, 2), [batch(a=pa.array(["a"]), b=pa.array(["b"]))], [[[b"a", b"b"]]]),
        (TWO, [batch(b=pa.array([3, 6]), a=fixed([1, 2, 4, 5], 2))], [[[1, 2], [4, 5]], [[3], [6]]]),
        (
            WHOLE,
            [batch(sr=pa.array([8]), a=pa.array([[[1, 2, 3], [4, 5, 6]]], pa.list_(pa.list_(F32))))],
            [[[1, 2, 3], [4, 5, 6]], 8],
        ),
        (missing(one()), [batch(x=fixed([1, None, 3], 3))], [[[1, NAN, 3]]]),
        (
            missing(RECORD),
            [batch(amount=pa.array([1, None]), hour=pa.array([None, 2.5]), risk=pa.array([3, 4]))],
            [[[1, NAN, 3], [NAN, 2.5, 4]]],
        ),
        (one(), [batch(x=fixed([NAN, np.inf, 1], 3))], [[[NAN, np.inf, 1]]]),
    ],
)
def test_forms(model: ModelSpec, batches: list[Any], expected: list[Any]) -> None:
    for found, wanted in zip(arrays(model, decode(model, stream(*batches), ARROW)), expected, strict=True):
        assert found.shape == np.shape(wanted)
        if found.dtype == object:
            assert found.tolist() == wanted
        else:
            np.testing.assert_array_equal(found.astype(np.float64), np.array(wanted, np.float64))


@pytest.mark.parametrize("of", [bytes, memoryview, bytearray])
def test_numbers_of_the_own_type_are_not_copied(of: Any) -> None:
    body = of(stream(batch(x=fixed(np.arange(3000, dtype=np.float32), 3))))
    (column,) = decode(one(), body, ARROW)[1]
    assert not isinstance(column, list)
    assert np.shares_memory(np.frombuffer(column, np.uint8), np.frombuffer(body, np.uint8))


GOOD = stream(batch(x=fixed([1, 2, 3], 3)))
ARROW_FILE = b"ARROW1\0\0" + GOOD


@pytest.mark.parametrize(
    ("model", "body", "error", "words"),
    [
        (one(), b"", MalformedBody, ["empty"]),
        (one(), ARROW_FILE, MalformedBody, ["Arrow file"]),
        (one(), b"1,2,3\n", MalformedBody, ["not an Arrow IPC stream"]),
        (one(), GOOD[:50], MalformedBody, ["not an Arrow IPC stream"]),
        (one(), GOOD[:-30], MalformedBody, ["not an Arrow IPC stream"]),
        (one(), b"\xff\xff\xff\xff\0\0\0\0", MalformedBody, ["not an Arrow IPC stream"]),
        (one(), stream(pa.record_batch([], names=[])), InvalidInput, ["0 columns"]),
        (one(), stream(batch(x=fixed([], 3))), InvalidInput, ["no rows"]),
        (one(), stream(pa.record_batch([pa.array([1]), pa.array([2])], names=["a", "a"])), InvalidInput, ["'a' twice"]),
        (one(), stream(batch(x=pa.array(["a"]))), InvalidInput, ["type string", "FP32"]),
        (one(), stream(batch(x=pa.array([[b"a"]]))), InvalidInput, ["type binary"]),
        (one(), stream(batch(x=pa.array([1], pa.timestamp("s")))), InvalidInput, ["type timestamp[s]"]),
        (one(), stream(batch(x=pa.array([1], pa.date32()))), InvalidInput, ["type date32"]),
        (one(), stream(batch(x=pa.array([1], pa.decimal128(5)))), InvalidInput, ["type decimal128"]),
        (one(), stream(batch(x=pa.array([{"a": 1}]))), InvalidInput, ["type struct"]),
        (one(), stream(batch(x=pa.nulls(1))), InvalidInput, ["type null"]),
        (one(), stream(batch(x=pa.array(["a"]).dictionary_encode())), InvalidInput, ["dictionary"]),
        (one(), stream(batch(x=pa.array(["a"], pa.string_view()))), InvalidInput, ["type string_view"]),
        (one(), stream(batch(x=fixed([True] * 3, 3, pa.bool_()))), InvalidInput, ["bool", "FP32"]),
        (one("INT64"), stream(batch(x=fixed([1, 2, 3], 3))), InvalidInput, ["float32", "INT64"]),
        (one("INT8"), stream(batch(x=fixed([1, 2, 300], 3, pa.int16()))), InvalidInput, ["300", "INT8"]),
        (one(), stream(batch(x=fixed([1, 2, 1e39], 3, pa.float64()))), InvalidInput, ["out of range for FP32"]),
        (STRINGS, stream(batch(x=pa.array([1]))), InvalidInput, ["type int64", "BYTES"]),
        (one(), stream(batch(x=fixed([1, None, 3], 3))), InvalidInput, ["null at 1"]),
        (
            missing(one()),
            stream(batch(x=pa.array([[1, 2, 3], None], pa.list_(F32)))),
            InvalidInput,
            ["null where a list", "at 1"],
        ),
        (
            missing(one("INT64")),
            stream(batch(x=fixed([1, None, 3], 3, pa.int64()))),
            InvalidInput,
            ["null at 1", "INT64"],
        ),
        (STRINGS, stream(batch(x=pa.array(["a", None]))), InvalidInput, ["null at 1", "BYTES"]),
        (
            one(),
            stream(batch(x=pa.array([[1, 2, 3], [4, 5]], pa.list_(F32)))),
            InvalidInput,
            ["ragged", "list 1 has 2"],
        ),
        (one(), stream(batch(x=fixed([1, 2], 2))), InvalidInput, ["[1, 2]", "[-1, 3]"]),
        (one(), stream(batch(x=pa.array([1], F32))), InvalidInput, ["[1]", "[-1, 3]"]),
        (one(), stream(batch(a=pa.array([1]), b=pa.array([2]))), InvalidInput, ["[1, 2]", "[-1, 3]"]),
        (one(), stream(batch(a=pa.array([1]), b=pa.array([2]), c=pa.array([[1]]))), InvalidInput, ["'c' holds lists"]),
        (RECORD, stream(batch(amount=pa.array([1]), hour=pa.array([2]))), InvalidInput, ["no column 'risk'"]),
        (
            RECORD,
            stream(batch(amount=pa.array([1]), hour=pa.array([2]), other=pa.array([2]))),
            InvalidInput,
            ["no feature 'other'"],
        ),
        (RECORD, stream(batch(amount=pa.array([1]))), InvalidInput, ["no column 'hour'"]),
        (
            RECORD,
            stream(batch(amount=pa.array([1]), hour=pa.array(["2"]), risk=pa.array([3]))),
            InvalidInput,
            ["'hour' has type string"],
        ),
        (TWO, stream(batch(a=fixed([1, 2], 2))), InvalidInput, ["'b' is missing"]),
        (TWO, stream(batch(a=fixed([1, 2], 2), c=pa.array([1]))), InvalidInput, ["no input 'c'"]),
        (
            one("FP32", -1, 2, 2),
            stream(batch(a=pa.array([1]), b=pa.array([1]))),
            InvalidInput,
            ["'a', 'b'", "one column 'x'"],
        ),
        (
            WHOLE,
            stream(batch(a=pa.array([[1], [2]], pa.list_(F32)), sr=pa.array([8, 8]))),
            InvalidInput,
            ["2 rows", "not batched"],
        ),
        (
            one(),
            stream(batch(x=fixed(list(range(300)), 3)), options=pa.ipc.IpcWriteOptions(compression="zstd")),
            InvalidInput,
            ["compressed"],
        ),
        (
            one(),
            stream(batch(x=fixed(list(range(300)), 3)), options=pa.ipc.IpcWriteOptions(compression="lz4")),
            InvalidInput,
            ["compressed"],
        ),
    ],
)
def test_faults(model: ModelSpec, body: bytes, error: type[ServingError], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        decode(model, body, ARROW)
    assert type(caught.value) is error
    for word in words:
        assert word in caught.value.message


def encode(outputs: tuple[TensorSpec, ...], values: list[Any], *, batched: bool = True) -> Any:
    header, body = arrow.encoder(spec(TensorSpec("x", "FP32", (-1, 2)), outputs=outputs, batched=batched))(values, None)
    assert header == b"content-type: application/vnd.apache.arrow.stream\r\n"
    return pa.ipc.open_stream(body).read_all()


@pytest.mark.parametrize(
    ("datatype", "values", "kind"),
    [
        ("FP32", np.array([[0.1, 2], [3, NAN]], np.float32), "fixed_size_list<item: float>[2]"),
        ("FP32", np.array([1, 2], np.float32), "float"),
        ("FP16", np.array([1, 2], np.float16), "halffloat"),
        ("BF16", np.array([1, 2], ml_dtypes.bfloat16), "float"),
        ("INT64", np.arange(8).reshape(2, 2, 2), "fixed_size_list<item: fixed_size_list<item: int64>[2]>[2]"),
        ("FP32", np.arange(8, dtype=np.float32).reshape(2, 4).T, "fixed_size_list<item: float>[2]"),
        ("BOOL", np.array([True, False]), "bool"),
        ("BYTES", np.array([[b"a"], [b"\xff"]], object), "fixed_size_list<item: binary>[1]"),
    ],
)
def test_answers(datatype: str, values: Any, kind: str) -> None:
    table = encode((TensorSpec("y", datatype, (-1,)),), [values])
    assert table.column_names == ["y"]
    assert str(table.schema.field("y").type) == kind
    found = np.array(table.column("y").to_pylist(), object if datatype == "BYTES" else np.float64)
    np.testing.assert_array_equal(found, values if datatype == "BYTES" else values.astype(np.float64))


def test_answers_of_a_model_that_is_not_batched() -> None:
    outputs = (TensorSpec("a", "FP32", (2, 1)), TensorSpec("b", "INT64", ()))
    table = encode(outputs, [np.ones((2, 1), np.float32), np.int64(7)[...]], batched=False)
    assert table.to_pylist() == [{"a": [[1.0], [1.0]], "b": 7}]


def test_an_empty_dimension_makes_no_column() -> None:
    with pytest.raises(NotAcceptable, match=r"'y' has shape \[2, 0\]"):
        encode((TensorSpec("y", "FP32", (-1, -1)),), [np.empty((2, 0), np.float32)])


@pytest.mark.parametrize("datatype", sorted(set(NUMPY) - {"BYTES", "BF16"}))
@given(st.data())
def test_round_trip(datatype: str, data: st.DataObject) -> None:
    dtype = NUMPY[datatype]
    rows = data.draw(st.integers(1, 4))
    raw = data.draw(st.binary(min_size=rows * 3 * dtype.itemsize, max_size=rows * 3 * dtype.itemsize))
    values = np.frombuffer(raw, dtype) if datatype != "BOOL" else np.frombuffer(raw, np.uint8) > 127
    values = values.reshape(rows, 3)
    model = one(datatype)
    _, body = arrow.encoder(spec(outputs=(TensorSpec("x", datatype, (-1, 3)),)))([values], None)
    decoded: Decoded = decode(model, body, ARROW)
    np.testing.assert_array_equal(arrays(model, decoded)[0], values)


@given(st.lists(st.lists(st.binary(max_size=9), min_size=2, max_size=2), min_size=1, max_size=4))
def test_strings_round_trip(rows: list[list[bytes]]) -> None:
    values = np.empty((len(rows), 2), object)
    values[:] = rows
    model = one("BYTES", -1, 2)
    _, body = arrow.encoder(spec(outputs=(TensorSpec("x", "BYTES", (-1, 2)),)))([values], None)
    assert decode(model, body, ARROW)[1] == ([value for row in rows for value in row],)


def test_without_pyarrow_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing_module(name: str, *rest: Any) -> Any:
        raise ModuleNotFoundError(f"No module named '{name}'")

    monkeypatch.setattr(importlib, "import_module", missing_module)
    with pytest.raises(MissingExtra, match=r"No module named 'pyarrow'.*pip install 'serving\[arrow\]'"):
        decode(one(), GOOD, ARROW)
    with pytest.raises(MissingExtra, match=r"pip install 'serving\[arrow\]'"):
        arrow.encoder(one())
