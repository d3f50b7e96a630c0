from __future__ import annotations

import struct
from typing import Any

import hypothesis.strategies as st
import numpy as np
import orjson
import pytest
from hypothesis import given

from serving.codecs import open_inference, registry
from serving.codecs.base import Asked, RequestedOutput, Style
from serving.codecs.plan import InputPlan
from serving.codecs.raw import tensor_bytes
from serving.contract import ModelSpec, TensorSpec
from serving.datatypes import NUMPY
from serving.errors import InvalidInput, MalformedBody, ServingError, Unsupported
from tests.codecs.support import STRINGS, TWO, WHOLE, arrays, decode, one, spec

X = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
A = {"name": "a", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}
B = {"name": "b", "shape": [2, 1], "datatype": "INT64", "data": [5, 6]}


def changed(entry: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {key: value for key, value in (entry | fields).items() if value is not ...}


def body(*entries: dict[str, Any], **extra: Any) -> bytes:
    return orjson.dumps({"inputs": list(entries)} | extra)


@pytest.mark.parametrize(
    ("model", "text", "expected"),
    [
        (one(), body(X), [[[1, 2, 3]]]),
        (one(), body(changed(X, data=[[1, 2, 3]])), [[[1, 2, 3]]]),
        (one(), body(changed(X, shape=[2, 3], data=[1, 2, 3, 4, 5, 6])), [[[1, 2, 3], [4, 5, 6]]]),
        (one(), body(changed(X, shape=[2, 3], data=[[1, 2, 3], [4, 5, 6]])), [[[1, 2, 3], [4, 5, 6]]]),
        (one(), body(changed(X, shape=[1.0, 3.0])), [[[1, 2, 3]]]),
        (one(), body(changed(X, parameters={})), [[[1, 2, 3]]]),
        (one(), body(changed(X, parameters=None, note=1), note=2), [[[1, 2, 3]]]),
        (one("FP32", -1, 1), body(changed(X, shape=[2, 1], data=[1, 2])), [[[1], [2]]]),
        (one("FP32", -1, 1), body(changed(X, shape=[2, 1], data=[[1], [2]])), [[[1], [2]]]),
        (one("FP32", -1, 1), body(changed(X, shape=[1, 1], data=[[1]])), [[[1]]]),
        (
            one("UINT8", -1, 2, 2),
            body(changed(X, shape=[1, 2, 2], datatype="UINT8", data=[1, 2, 3, 4])),
            [[[[1, 2], [3, 4]]]],
        ),
        (one("FP32", -1, -1), body(changed(X, shape=[1, 2], data=[1, 2])), [[[1, 2]]]),
        (one("BF16"), body(changed(X, datatype="BF16")), [[[1, 2, 3]]]),
        (one("FP16"), body(changed(X, datatype="FP16")), [[[1, 2, 3]]]),
        (one("BOOL"), body(changed(X, datatype="BOOL", data=[True, False, 1])), [[[1, 0, 1]]]),
        (STRINGS, body(changed(X, shape=[1, 1], datatype="BYTES", data=["é"])), [[["é".encode()]]]),
        (TWO, body(B, A), [[[1, 2], [3, 4]], [[5], [6]]]),
        (
            WHOLE,
            body(changed(A, shape=[2, 1], data=[1, 2]), {"name": "sr", "shape": [], "datatype": "INT64", "data": [8]}),
            [[[1], [2]], 8],
        ),
    ],
)
@pytest.mark.parametrize("v2", [True, False])
def test_json(model: ModelSpec, text: bytes, expected: list[Any], v2: bool) -> None:
    decoded = decode(model, text, v2=v2)
    assert decoded[3] is not None
    assert decoded[3].style is Style.OPEN_INFERENCE
    for found, want in zip(arrays(model, decoded), expected, strict=True):
        np.testing.assert_array_equal(found, np.array(want, found.dtype))


@pytest.mark.parametrize(
    ("model", "text", "error", "words"),
    [
        (one(), b"", MalformedBody, ["empty"]),
        (one(), b"[1", MalformedBody, ["not JSON"]),
        (one(), b"[]", MalformedBody, ["a list", "'inputs'"]),
        (one(), b"{}", InvalidInput, ["'inputs' is missing"]),
        (one(), b'{"inputs":{}}', InvalidInput, ["an object", "list of tensors"]),
        (one(), b'{"inputs":[]}', InvalidInput, ["'x' is missing"]),
        (one(), b'{"inputs":[3]}', InvalidInput, ["inputs[0] is the number 3"]),
        (one(), b'{"instances":[[1,2,3]]}', InvalidInput, ["'inputs' is missing"]),
        (one(), body(changed(X, name=...)), InvalidInput, ["inputs[0] has no 'name'"]),
        (one(), body(changed(X, name="y")), InvalidInput, ["no input 'y'", "'x'"]),
        (one(), body(changed(X, name=3)), InvalidInput, ["the number 3"]),
        (one(), body(changed(X, name=["x"])), InvalidInput, ["a list"]),
        (one(), body(X, X), InvalidInput, ["'x' came twice"]),
        (one(), body(changed(X, shape=...)), InvalidInput, ["no 'shape'"]),
        (one(), body(changed(X, datatype=...)), InvalidInput, ["no 'datatype'"]),
        (one(), body(changed(X, data=...)), InvalidInput, ["no 'data'"]),
        (one(), body(changed(X, datatype="FP64")), InvalidInput, ["'x' has datatype FP64", "FP32 was expected"]),
        (one(), body(changed(X, datatype="float")), InvalidInput, ["the string 'float'"]),
        (one(), body(changed(X, datatype=None)), InvalidInput, ["null"]),
        (one(), body(changed(X, shape=3)), InvalidInput, ["'shape' is the number 3"]),
        (one(), body(changed(X, shape=["1", 3])), InvalidInput, ["'shape' holds the string '1'"]),
        (one(), body(changed(X, shape=[True, 3])), InvalidInput, ["'shape' holds true"]),
        (one(), body(changed(X, shape=[1e300, 3])), InvalidInput, ["1e+300"]),
        (one(), body(changed(X, shape=[1.5, 3])), InvalidInput, ["the number 1.5"]),
        (one(), body(changed(X, shape=[3])), InvalidInput, ["[3]", "[-1, 3]"]),
        (one(), body(changed(X, shape=[1] * 1000)), InvalidInput, ["rank 1000"]),
        (one(), body(changed(X, shape=[1, 4])), InvalidInput, ["[1, 4]", "[-1, 3]"]),
        (one(), body(changed(X, shape=[-1, 3])), InvalidInput, ["negative"]),
        (one(), body(changed(X, shape=[0, 3], data=[])), InvalidInput, ["at least one row"]),
        (one(), body(changed(X, shape=[2**63 - 1, 3])), InvalidInput, ["overflows"]),
        (one(), body(changed(X, shape=[2**60, 3])), InvalidInput, ["3 elements", str(2**60)]),
        (one("FP32", -1, -1), body(changed(X, shape=[2**63, 0], data=[])), InvalidInput, ["no empty dimension"]),
        (one(), body(changed(X, shape=[2, 3])), InvalidInput, ["3 elements", "needs 6"]),
        (one(), body(changed(X, data=[1, 2])), InvalidInput, ["2 elements", "needs 3"]),
        (one(), body(changed(X, data=[])), InvalidInput, ["0 elements"]),
        (one(), body(changed(X, data=[[1], [2], [3]])), InvalidInput, ["nested as [3, 1]", "[1, 3]"]),
        (one(), body(changed(X, data=[[1, 2], [3]])), InvalidInput, ["ragged"]),
        (one(), body(changed(X, data={"a": 1})), InvalidInput, ["'data' is an object"]),
        (one(), body(changed(X, data="abc")), InvalidInput, ["'data' is the string 'abc'"]),
        (one(), body(changed(X, data=[1, True, 3])), InvalidInput, ["[0][1] is true"]),
        (one(), body(changed(X, data=[1, None, 3])), InvalidInput, ["[0][1] is null"]),
        (one(), body(changed(X, data=[1, 1e300, 3])), InvalidInput, ["out of range for FP32"]),
        (one(), body(changed(X, parameters=[])), InvalidInput, ["parameters is a list"]),
        (one(), body(changed(X, parameters={"binary_data_size": 12})), InvalidInput, ["both"]),
        (one(), body(changed(X, data=..., parameters={"binary_data_size": 12})), InvalidInput, ["Inference-Header"]),
        (one(), body(changed(X, parameters={"shared_memory_region": "r"})), Unsupported, ["shared memory"]),
        (one(), body(X, id=3), InvalidInput, ["'id' is the number 3"]),
        (one(), body(X, parameters=3), InvalidInput, ["'parameters' is the number 3"]),
        (one(), body(X, parameters={"priority": -1}), InvalidInput, ["'priority' is the number -1"]),
        (one(), body(X, parameters={"priority": "1"}), InvalidInput, ["'priority'"]),
        (one(), body(X, parameters={"timeout": 1.5}), InvalidInput, ["'timeout'"]),
        (one(), body(X, parameters={"timeout": 2**64 - 1}), InvalidInput, ["'timeout'"]),
        (one(), body(X, parameters={"binary_data_output": 1}), InvalidInput, ["'binary_data_output'"]),
        (one(), body(X, parameters={"sequence_id": 7}), Unsupported, ["'sequence_id'"]),
        (one(), body(X, outputs={}), InvalidInput, ["'outputs' is an object"]),
        (one(), body(X, outputs=["p"]), InvalidInput, ["outputs[0] is the string 'p'"]),
        (one(), body(X, outputs=[{"name": "q"}]), InvalidInput, ["no output 'q'", "'p'"]),
        (one(), body(X, outputs=[{}]), InvalidInput, ["no output null"]),
        (one(), body(X, outputs=[{"name": "p"}, {"name": "p"}]), InvalidInput, ["'p' is asked for twice"]),
        (one(), body(X, outputs=[{"name": "p", "parameters": {"binary_data": 1}}]), InvalidInput, ["'binary_data'"]),
        (
            one(),
            body(X, outputs=[{"name": "p", "parameters": {"classification": -1}}]),
            InvalidInput,
            ["'classification'"],
        ),
        (one(), body(X, outputs=[{"name": "p", "parameters": {"shared_memory_offset": 0}}]), Unsupported, ["memory"]),
        (TWO, body(A), InvalidInput, ["'b' is missing"]),
        (TWO, body(A, changed(B, shape=[1, 1], data=[5])), InvalidInput, ["'b' has 1 rows", "'a' has 2"]),
    ],
)
def test_faults(model: ModelSpec, text: bytes, error: type[ServingError], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        decode(model, text, v2=True)
    assert type(caught.value) is error
    for word in words:
        assert word in caught.value.message


@pytest.mark.parametrize(
    ("extra", "asked"),
    [
        ({}, Asked(Style.OPEN_INFERENCE)),
        ({"id": "7"}, Asked(Style.OPEN_INFERENCE, "7")),
        ({"parameters": {"priority": 2, "timeout": 5000}}, Asked(Style.OPEN_INFERENCE, priority=2, timeout_us=5000)),
        ({"parameters": {"sequence_id": 0, "other": 1}}, Asked(Style.OPEN_INFERENCE)),
        ({"parameters": {"binary_data_output": True}}, Asked(Style.OPEN_INFERENCE, binary_output=True)),
        ({"outputs": [{"name": "p"}]}, Asked(Style.OPEN_INFERENCE, None, (RequestedOutput("p"),))),
        (
            {"outputs": [{"name": "p", "parameters": {"binary_data": True, "classification": 2}}]},
            Asked(Style.OPEN_INFERENCE, None, (RequestedOutput("p", True, 2),)),
        ),
        (
            {
                "parameters": {"binary_data_output": True},
                "outputs": [{"name": "p", "parameters": {"binary_data": False}}],
            },
            Asked(Style.OPEN_INFERENCE, None, (RequestedOutput("p", False),), binary_output=True),
        ),
    ],
)
def test_what_is_asked(extra: dict[str, Any], asked: Asked) -> None:
    assert decode(one(), body(X, **extra), v2=True)[3] == asked


def test_a_boolean_behind_an_escaped_key_is_found() -> None:
    text = body(changed(X, data=[1, True, 3])).replace(b'"data"', b'"d\\u0061ta"').replace(b'"name"', b'"nam\\u0065"')
    with pytest.raises(InvalidInput, match=r"\[0\]\[1\] is true"):
        decode(one(), text, v2=True)


# ---------------------------------------------------------------- binary


def binary(model: ModelSpec, header: bytes, tail: bytes) -> Any:
    return decode(model, header + tail, "application/octet-stream", len(header), v2=True)


def raw(name: str, shape: list[int], datatype: str, size: int) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}}


@given(st.sampled_from(sorted(NUMPY)), st.integers(1, 4), st.data())
def test_binary_round_trip(datatype: str, rows: int, data: st.DataObject) -> None:
    if datatype == "BYTES":
        values = np.empty((rows, 2), object)
        values[:] = np.array(data.draw(st.lists(st.binary(), min_size=rows * 2, max_size=rows * 2)), object).reshape(
            -1, 2
        )
    elif datatype == "BOOL":
        values = np.array(data.draw(st.lists(st.booleans(), min_size=rows * 2, max_size=rows * 2))).reshape(-1, 2)
    else:
        size = rows * 2 * NUMPY[datatype].itemsize
        values = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), NUMPY[datatype]).reshape(-1, 2)
    tail = tensor_bytes(values, datatype)
    model = one(datatype, -1, 2)
    (found,) = arrays(model, binary(model, body(raw("x", [rows, 2], datatype, len(tail))), tail))
    assert tensor_bytes(found, datatype) == tail
    assert found.shape == (rows, 2)


def test_binary_and_json_inputs_mix() -> None:
    header = body(changed(B, shape=[2, 1]), raw("a", [2, 2], "FP32", 16))
    decoded = binary(TWO, header, struct.pack("<4f", 1, 2, 3, 4))
    found = arrays(TWO, decoded)
    assert found[0].tolist() == [[1, 2], [3, 4]]
    assert found[1].tolist() == [[5], [6]]


def test_binary_tensors_are_views_of_the_body_and_headers_are_remembered() -> None:
    model = spec(TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "INT64", (-1, 1)))
    plan = InputPlan(model, "m")
    header = body(raw("b", [1, 1], "INT64", 8), raw("a", [1, 2], "FP32", 8))
    decoder = registry.decoder(plan, "", len(header))
    for value in (1, 2):
        text = header + struct.pack("<q2f", value, value, 0.5)
        rows, columns, signature, asked = decoder(text)
        assert (rows, signature) == (1, None)
        assert asked == Asked(Style.OPEN_INFERENCE)
        assert all(isinstance(column, memoryview) and column.obj is text for column in columns)
        assert [array.tolist() for array in arrays(model, (rows, columns, signature, asked))] == [
            [[value, 0.5]],
            [[value]],
        ]
    assert list(plan.memo) == [header]
    with pytest.raises(InvalidInput, match="1 bytes after"):
        decoder(header + bytes(17))
    with pytest.raises(InvalidInput, match="says 8 binary bytes; 7 are left"):
        decoder(header + bytes(15))


def test_the_memory_of_headers_is_bounded() -> None:
    plan = InputPlan(one(), "m")
    for i in range(600):
        header = orjson.dumps({"inputs": [raw("x", [1, 3], "FP32", 12)], "note": i})
        registry.decoder(plan, "", len(header))(header + bytes(12))
    assert 0 < len(plan.memo) <= 256
    header = body(raw("x", [1, 3], "FP32", 12), id="1")
    registry.decoder(plan, "", len(header))(header + bytes(12))
    assert header not in plan.memo


@pytest.mark.parametrize(
    ("model", "header", "tail", "error", "words"),
    [
        (one(), body(raw("x", [1, 3], "FP32", 12)), bytes(11), InvalidInput, ["says 12 binary bytes; 11 are left"]),
        (one(), body(raw("x", [1, 3], "FP32", 12)), bytes(13), InvalidInput, ["1 bytes after the 12"]),
        (one(), body(raw("x", [1, 3], "FP32", 8)), bytes(8), InvalidInput, ["8 bytes", "needs 12"]),
        (one(), body(raw("x", [2, 3], "FP32", 12)), bytes(12), InvalidInput, ["12 bytes", "needs 24"]),
        (one(), body(raw("x", [2**60, 3], "FP32", 12)), bytes(12), InvalidInput, ["12 bytes"]),
        (one(), body(raw("x", [1, 3], "FP32", -12)), bytes(12), InvalidInput, ["'binary_data_size'"]),
        (one(), body(raw("x", [1, 3], "FP32", "12")), bytes(12), InvalidInput, ["'binary_data_size'"]),  # type: ignore[arg-type]
        (one(), body(X), bytes(1), InvalidInput, ["1 bytes after the 0"]),
        (one(), b"{}", b"", InvalidInput, ["'inputs' is missing"]),
        (one(), b"\x93", b"", MalformedBody, ["not JSON"]),
        (one("BOOL"), body(raw("x", [1, 3], "BOOL", 3)), b"\0\1\2", InvalidInput, ["byte 2 is 2", "BOOL"]),
        (STRINGS, body(raw("x", [1, 1], "BYTES", 3)), b"\0\0\0", InvalidInput, ["at least 4"]),
        (STRINGS, body(raw("x", [1, 1], "BYTES", 5)), b"\2\0\0\0a", InvalidInput, ["says 2 bytes, 1 are left"]),
        (STRINGS, body(raw("x", [1, 1], "BYTES", 8)), b"\1\0\0\0abcd", InvalidInput, ["3 bytes after"]),
        (STRINGS, body(raw("x", [2, 1], "BYTES", 9)), b"\5\0\0\0abcde", InvalidInput, ["is cut off"]),
        (STRINGS, body(raw("x", [2**40, 1], "BYTES", 4)), b"\0\0\0\0", InvalidInput, ["need at least"]),
    ],
)
def test_binary_faults(
    model: ModelSpec, header: bytes, tail: bytes, error: type[ServingError], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        binary(model, header, tail)
    for word in words:
        assert word in caught.value.message


def test_the_json_part_cannot_be_longer_than_the_body() -> None:
    with pytest.raises(MalformedBody, match=r"is 50, but the body has only 2 bytes"):
        decode(one(), b"{}", "", 50)
    with pytest.raises(InvalidInput, match="negative"):
        decode(one(), b"{}", "", -1)


@pytest.mark.parametrize(
    ("model", "text", "expected"),
    [
        (one(), struct.pack("<6f", 1, 2, 3, 4, 5, 6), [[1, 2, 3], [4, 5, 6]]),
        (one("INT16", -1, -1), struct.pack("<2h", 1, 2), [[1, 2]]),
        (one("INT16", 2, -1, batched=False), struct.pack("<4h", 1, 2, 3, 4), [[1, 2], [3, 4]]),
        (STRINGS, b"abc", [[b"abc"]]),
        (one("BOOL"), b"\1\0\1", [[True, False, True]]),
    ],
)
@pytest.mark.parametrize("length", [0, None])
def test_raw_bodies(model: ModelSpec, text: bytes, expected: list[Any], length: int | None) -> None:
    decoded = decode(model, text, "application/octet-stream", length)
    assert arrays(model, decoded)[0].tolist() == expected
    assert (decoded[3] is None) is (length is None)


@pytest.mark.parametrize(
    ("model", "text", "words"),
    [
        (one(), b"", ["0 bytes", "multiple of 12"]),
        (one(), bytes(13), ["13 bytes", "multiple of 12"]),
        (one("FP32", -1, -1, -1), bytes(12), ["more than one dimension varies"]),
        (one("BYTES", -1, 2), b"abc", ["one BYTES element"]),
        (one("BOOL"), b"\1\0\3", ["byte 2 is 3"]),
        (TWO, bytes(12), ["carries one input", "'a', 'b'"]),
    ],
)
def test_raw_faults(model: ModelSpec, text: bytes, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        open_inference.raw_decoder(InputPlan(model, "m"), None)(text)
    for word in words:
        assert word in caught.value.message


def outcome(decode: Any, text: bytes) -> Any:
    try:
        return decode(text)
    except ServingError as error:
        return type(error), error.message


NUMBERS = st.one_of(
    st.lists(
        st.one_of(
            st.integers(-5, 5), st.floats(-1e3, 1e3), st.booleans(), st.none(), st.text(max_size=3), st.just([1, 2, 3])
        ),
        min_size=1,
        max_size=5,
    ).map(orjson.dumps),
    st.sampled_from(
        [
            b"[1,2,3e0]",
            b"[1,2,1e39]",
            b"[1,2,3",
            b"[1,2,3]]",
            b"[]",
            b'[1,2,3],"parameters":{"a":[1]',
            b'[1,2,3]}],"outputs":[{"name":"y","parameters":{"a":[1]',
            b'[1,2,3],"data":[4,5,6]',
            b"[1,2,NaN]",
            b"[1,2,01]",
            b" [1 , 2, 3 ]",
            b"\xff",
        ]
    ),
)


@given(NUMBERS, st.sampled_from(["FP32", "INT64", "UINT8", "FP64"]), st.booleans())
def test_a_remembered_start_answers_as_the_strict_way(numbers: bytes, datatype: str, two_rows: bool) -> None:
    plan = InputPlan(one(datatype), "m")
    remembering = open_inference.json_decoder(plan)
    rows = [[1, 2, 3]] * (2 if two_rows else 1)
    plain = body(changed(X, shape=[len(rows), 3], datatype=datatype, data=[1, 2, 3] * len(rows)))
    start = plain[: plain.index(b'"data":')] + b'"data":'
    assert remembering(plain) == remembering(plain)
    text = start + numbers + b"}]}"
    strict = open_inference.StrictOpenInference(plan)
    assert outcome(remembering, text) == outcome(lambda each: strict.document(open_inference.parse(each)), text)
