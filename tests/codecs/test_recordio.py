from __future__ import annotations

import struct
from typing import Any

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given

from serving.codecs import recordio
from serving.contract import Conventions, ModelSpec, TensorSpec
from serving.errors import InvalidInput, MalformedBody, NotAcceptable, ServingError
from tests.codecs.records import Record, frame, frames, read, record
from tests.codecs.support import STRINGS, TWO, WHOLE, arrays, decode, missing, one, spec

RECORDIO = "application/x-recordio-protobuf"
NAN = np.nan
F32, F64, I32 = "float32_tensor", "float64_tensor", "int32_tensor"


def labelled(found: Any, value: float) -> Any:
    found.label["values"].float32_tensor.values.append(value)
    return found


@pytest.mark.parametrize(
    ("model", "records", "expected"),
    [
        (one(), [record(F32, [1, 2.5, 3])], [[[1, 2.5, 3]]]),
        (one(), [record(F32, [1, 2, 3]), record(F32, [4, 5, 6])], [[[1, 2, 3], [4, 5, 6]]]),
        (one(), [record(F64, [1, 2, 3]), record(F64, [4, 5, 6])], [[[1, 2, 3], [4, 5, 6]]]),
        (
            one(),
            [record(I32, [1, -2, 300]), record(I32, [0, 2**31 - 1, -(2**31)])],
            [[[1, -2, 300], [0, 2**31, -(2**31)]]],
        ),
        (
            one(),
            [record(F32, [1, 2, 3]), record(F64, [4, 5, 6]), record(I32, [7, 8, 9])],
            [[[1, 2, 3], [4, 5, 6], [7, 8, 9]]],
        ),
        (one(), [record(F32, [1, 2, 3], shape=[3])], [[[1, 2, 3]]]),
        (one(), [record(F32, [1, 2, 3], name="x")], [[[1, 2, 3]]]),
        (one(), [labelled(record(F32, [1, 2, 3]), 5), labelled(record(F32, [1, 2, 4]), 6)], [[[1, 2, 3], [1, 2, 4]]]),
        (one(), [record(F32, [NAN, np.inf, 0])], [[[NAN, np.inf, 0]]]),
        (one(), [record(F32, [5], keys=[1], shape=[3])], [[[0, 5, 0]]]),
        (one(), [record(F32, [5, 6], keys=[2, 0])], [[[6, 0, 5]]]),
        (one(), [record(F32, [], shape=[3]), record(F32, [1, 2, 3])], [[[0, 0, 0], [1, 2, 3]]]),
        (one(), [record(F32, [1, 2, 3], keys=[2, 1, 0])], [[[3, 2, 1]]]),
        (
            missing(one()),
            [record(F32, [5], keys=[1], shape=[3]), record(I32, [6], keys=[0])],
            [[[NAN, 5, NAN], [6, NAN, NAN]]],
        ),
        (missing(one("INT64")), [record(I32, [5], keys=[1])], [[[0, 5, 0]]]),
        (one("INT64"), [record(I32, [1, 2, 3])], [[[1, 2, 3]]]),
        (one("FP32", -1), [record(F32, [1]), record(F32, [2])], [[1, 2]]),
        (one("FP32", -1, 2, 2), [record(F32, [1, 2, 3, 4], shape=[2, 2])], [[[[1, 2], [3, 4]]]]),
        (one("FP32", -1, -1), [record(F32, [1, 2]), record(F32, [3, 4])], [[[1, 2], [3, 4]]]),
        (one("FP32", -1, -1), [record(F32, [1], keys=[1])], [[[0, 1]]]),
        (STRINGS, [record("bytes", [b"a"]), record("bytes", [b"\xff"])], [[[b"a"], [b"\xff"]]]),
        (TWO, [record(F32, [1, 2], name="a"), record(F32, [1, 2], name="a")], None),
        (WHOLE, [record(F32, [1, 2, 3, 4], shape=[2, 2], name="a")], None),
    ],
)
def test_forms(model: ModelSpec, records: list[Any], expected: Any) -> None:
    if expected is None:
        for found in records:
            second = record(I32, [7], name=model.inputs[1].name)
            found.MergeFrom(second)
        expected = [[[1, 2]] * 2, [[7]] * 2] if model is TWO else [[[1, 2], [3, 4]], 7]
    for found, wanted in zip(arrays(model, decode(model, frames(records), RECORDIO)), expected, strict=True):
        assert found.shape == np.shape(wanted)
        if found.dtype == object:
            assert found.tolist() == wanted
        else:
            np.testing.assert_array_equal(found, np.array(wanted, np.float64).astype(found.dtype))


def test_a_record_in_parts_is_put_together_at_the_magic_number() -> None:
    (value,) = struct.unpack("<f", recordio.MAGIC.to_bytes(4, "little"))
    data = record(F32, [1, value, 3]).SerializeToString()
    before, after = data.split(recordio.MAGIC.to_bytes(4, "little"))
    body = frame(before, 1) + frame(after, 3)
    assert decode(one(), body, RECORDIO) == decode(one(), frame(data), RECORDIO)


def test_unpacked_numbers_and_unknown_fields_are_read() -> None:
    values = b"".join(b"\x0d" + struct.pack("<f", value) for value in (1, 2, 3))
    tensor = values + b"\x28\x96\x01" + b"\x31" + bytes(8) + b"\x3d" + bytes(4)
    value = b"\x12%c%b" % (len(tensor), tensor)
    entry = b"\x0a\x06values\x12%c%b" % (len(value), value)
    body = frame(b"\x1a\x02id" + b"\x0a%c%b" % (len(entry), entry))
    assert decode(one(), body, RECORDIO) == decode(one(), frames([record(F32, [1, 2, 3])]), RECORDIO)


def test_the_padding_of_the_last_record_may_be_missing() -> None:
    body = frames([labelled(record(F32, [1, 2, 3], name="x"), 1)])
    data = body[: 8 + int.from_bytes(body[4:8], "little")]
    assert len(data) < len(body)
    assert decode(one(), data, RECORDIO) == decode(one(), body, RECORDIO)


ROW = record(F32, [1, 2, 3]).SerializeToString()
BODY = frame(ROW)


@pytest.mark.parametrize(
    ("model", "body", "error", "words"),
    [
        (one(), b"", MalformedBody, ["empty"]),
        (one(), b"1,2,3\n4,5,6\n", MalformedBody, ["no RecordIO frame at byte 0", "0xced7230a"]),
        (one(), BODY[:7], MalformedBody, ["frame at byte 0 is cut off", "7 bytes"]),
        (one(), BODY[:-4], MalformedBody, ["frame at byte 0 says", "left in the body"]),
        (one(), BODY + BODY[:10], MalformedBody, [f"frame at byte {len(BODY)} says"]),
        (one(), BODY + b"abcdefgh", MalformedBody, [f"no RecordIO frame at byte {len(BODY)}"]),
        (one(), frame(b"a", 1), MalformedBody, ["last part is missing"]),
        (one(), frame(b"a", 2), MalformedBody, ["part 2", "out of its order"]),
        (one(), frame(b"a", 5), MalformedBody, ["part 5"]),
        (one(), frame(b"a", 1) + BODY, MalformedBody, ["part 0", "out of its order"]),
        (one(), BODY + frame(ROW[:-1]), MalformedBody, ["record 1", "cut off"]),
        (
            one(),
            frame(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
            MalformedBody,
            ["record 0", "does not end"],
        ),
        (one(), frame(b"\x0b"), MalformedBody, ["wire type 3"]),
        (one(), frame(b"\x00\x00"), MalformedBody, ["field number 0"]),
        (one(), frame(b"\x08\x01"), MalformedBody, ["wire type 0"]),
        (one(), frame(b"\x0a\x08\x0a\x06values"), MalformedBody, ["'values' is empty"]),
        (one(), frame(b""), InvalidInput, ["record 0 has no feature 'x' (or 'values')"]),
        (
            one(),
            frames([record(F32, [1, 2, 3], name="y")]),
            InvalidInput,
            ["record 0 has the feature 'y'", "'values' or 'x'"],
        ),
        (one(), frames([record(F32, [1, 2, 3], more=[1])]), InvalidInput, ["the feature 'more'"]),
        (one(), frames([record(F32, [1, 2])]), InvalidInput, ["record 0 has 2 values", "[3]"]),
        (one(), frames([record(F32, [1, 2, 3]), record(F32, [1, 2, 3, 4])]), InvalidInput, ["record 1 has 4 values"]),
        (one(), frames([record(F32, [1, 2, 3], shape=[4])]), InvalidInput, ["[1, 4]", "[-1, 3]"]),
        (
            one("FP32", -1, 2, 3),
            frames([record(F32, [1, 2, 3, 4, 5, 6], shape=[3, 2])] * 2),
            InvalidInput,
            ["[2, 3, 2]", "[-1, 2, 3]"],
        ),
        (one(), frames([record(F32, [1, 2], shape=[3])]), InvalidInput, ["2 values and 0 keys"]),
        (one(), frames([record(F32, [1, 2], keys=[1])]), InvalidInput, ["2 values and 1 keys"]),
        (one(), frames([record(F32, [1], keys=[3])]), InvalidInput, ["key 3", "0 to 2"]),
        (one(), frames([record(F32, [1], keys=[2**64 - 1])]), InvalidInput, ["key 18446744073709551615"]),
        (one(), frames([record(F32, [1, 2], keys=[1, 1])]), InvalidInput, ["a key twice"]),
        (one(), frames([record("bytes", [b"abc"])]), InvalidInput, ["record 0"]),
        (one(), frames([record("bytes", [b"a", b"b", b"c"])]), InvalidInput, ["record 0 has bytes"]),
        (one(), frames([record(F64, [1, 2, 1e39])]), InvalidInput, ["out of range for FP32"]),
        (one("INT64"), frames([record(F32, [1, 2, 3])]), InvalidInput, ["dtype float32", "INT64"]),
        (one("INT8"), frames([record(I32, [1, 2, 300])]), InvalidInput, ["300", "INT8"]),
        (
            one("FP32", -1, -1),
            frames([record(F32, [1]), record(F32, [1, 2])]),
            InvalidInput,
            ["record 1 has shape [2]"],
        ),
        (one("FP32", -1, -1), frames([record(F32, [1], keys=[0], shape=[2**40])]), InvalidInput, ["send fewer rows"]),
        (one("FP32", -1, -1), frames([record(F32, [1], keys=[0], shape=[2**63])]), InvalidInput, ["overflows"]),
        (STRINGS, frames([record(F32, [1])]), InvalidInput, ["dtype float32", "BYTES"]),
        (TWO, frames([record(F32, [1, 2], name="a")]), InvalidInput, ["record 0", "'b'"]),
        (WHOLE, frames([record(F32, [1], name="a", sr=[8])] * 2), InvalidInput, ["2 records", "not batched"]),
    ],
)
def test_faults(model: ModelSpec, body: bytes, error: type[ServingError], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        decode(model, body, RECORDIO)
    assert type(caught.value) is error
    for word in words:
        assert word in caught.value.message


def test_two_tensors_in_a_value_are_refused() -> None:
    value = b"\x12\x00\x1a\x00"
    entry = b"\x0a\x06values\x12%c%b" % (len(value), value)
    with pytest.raises(MalformedBody, match="both float32_tensor and float64_tensor"):
        decode(one(), frame(b"\x0a%c%b" % (len(entry), entry)), RECORDIO)


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "INT8", "INT32", "INT64"])
@given(st.data())
def test_records_alike_are_read_as_any_others(datatype: str, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([F32, F64, I32]))
    numbers = st.integers(-100, 100) if kind == I32 else st.floats(width=32)
    rows = data.draw(st.lists(st.lists(numbers, min_size=2, max_size=2), min_size=1, max_size=4))
    model = one(datatype, -1, 2)
    alike = frames(record(kind, row) for row in rows)
    # A uid that differs makes them different records with the same rows.
    others = [record(kind, row) for row in rows]
    for i, other in enumerate(others):
        other.uid = "x" * (i + 1)
    answers = []
    for body in (alike, frames(others)):
        try:
            answers.append(decode(model, body, RECORDIO)[:2])
        except ServingError as error:
            answers.append(type(error))  # type: ignore[arg-type]
    assert answers[0] == answers[1]


def encode(outputs: tuple[TensorSpec, ...], values: list[Any], conventions: Conventions | None = None) -> list[Any]:
    model = spec(TensorSpec("x", "FP32", (-1, 2)), outputs=outputs)
    if conventions is not None:
        model = ModelSpec(model.inputs, outputs, "test", True, conventions=conventions)
    header, body = recordio.encoder(model)(values, None)
    assert header == b"content-type: application/x-recordio-protobuf\r\n"
    return read(body)


@pytest.mark.parametrize(
    ("datatype", "values", "kind"),
    [
        ("FP32", np.array([[0.1, 2], [3, np.nan]], np.float32), F32),
        ("FP16", np.array([[0.1, 2]], np.float16), F32),
        ("BF16", np.array([[0.1, 2]], ml_dtypes.bfloat16), F32),
        ("FP64", np.array([[0.1], [2]]), F64),
        ("FP32", np.array([1, 2], np.float32), F32),
        ("INT64", np.array([[1, -1, 300, -(2**31), 2**31 - 1]]), I32),
        ("UINT8", np.array([[1, 255]], np.uint8), I32),
        ("BOOL", np.array([[True, False]]), I32),
    ],
)
def test_answers(datatype: str, values: Any, kind: str) -> None:
    records = encode((TensorSpec("y", datatype, (-1, -1)),), [values])
    assert len(records) == len(values)
    for found, row in zip(records, values, strict=True):
        assert list(found.label) == ["y"]
        tensor = getattr(found.label["y"], kind)
        np.testing.assert_array_equal(np.array(tensor.values), row.ravel().astype(np.float64))
        assert not tensor.shape


def test_answers_of_several_outputs() -> None:
    outputs = (TensorSpec("a", "FP32", (-1, 2, 1)), TensorSpec("b", "BYTES", (-1, 2)))
    records = encode(outputs, [np.ones((1, 2, 1), np.float32), np.array([[b"x", b"\xff"]], object)])
    assert list(records[0].label["a"].float32_tensor.shape) == [2, 1]
    assert list(records[0].label["b"].bytes.value) == [b"x", b"\xff"]


def test_by_convention_all_numbers_are_float32() -> None:
    outputs = (TensorSpec("label", "INT64", (-1,)), TensorSpec("score", "FP64", (-1,)))
    records = encode(outputs, [np.array([2**40]), np.array([0.1])], Conventions(predictions=True))
    assert list(records[0].label["label"].float32_tensor.values) == [2**40]
    assert list(records[0].label["score"].float32_tensor.values) == [np.float32(0.1)]


def test_whole_numbers_of_more_than_32_bits_are_not_cut() -> None:
    with pytest.raises(NotAcceptable, match="'y' has values over 32 bits"):
        encode((TensorSpec("y", "INT64", (-1,)),), [np.array([2**31])])


@given(st.lists(st.lists(st.floats(width=32), min_size=3, max_size=3), min_size=1, max_size=4))
def test_floats_round_trip(rows: list[list[float]]) -> None:
    values = np.array(rows, np.float32)
    (answer,) = (encode((TensorSpec("values", "FP32", (-1, 3)),), [values]),)
    # An answer's label is a question's feature.
    questions = []
    for found in answer:
        question = Record()
        question.features["values"].CopyFrom(found.label["values"])
        questions.append(question)
    (found,) = arrays(one(), decode(one(), frames(questions), RECORDIO))
    np.testing.assert_array_equal(found, values)


def test_the_plain_way_is_taken() -> None:
    rows = recordio._alike(frames(record(F32, [i, 2, 3]) for i in range(5)), (3,))
    assert rows is not None
    assert rows.tolist() == [[i, 2, 3] for i in range(5)]
