from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import orjson
import pytest
from google.protobuf import empty_pb2
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given
from tritonclient.grpc import service_pb2

from serving.codecs import grpc_infer, open_inference_encoder, protobuf, registry
from serving.codecs.base import Asked, Buffer, Decode, Decoded, RequestedOutput, Style
from serving.codecs.plan import InputPlan
from serving.codecs.raw import tensor_bytes
from serving.contract import Array, ModelSpec, TensorSpec
from serving.datatypes import NUMPY
from serving.errors import InvalidInput, MalformedBody, ServingError, Unsupported
from tests.codecs.support import STRINGS, TWO, WHOLE, arrays, one, spec

Request = service_pb2.ModelInferRequest
Response = service_pb2.ModelInferResponse

TYPED = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
KINDS = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}


def parameters(target: Any, values: dict[str, Any]) -> None:
    """Sets parameters; a pair names the kind itself, None sets none."""
    for key, value in values.items():
        entry = target.parameters[key]
        if isinstance(value, tuple):
            setattr(entry, *value)
        elif value is not None:
            setattr(entry, KINDS[type(value)], value)


def x(
    name: str = "x", shape: Sequence[int] = (1, 3), datatype: str = "FP32", asks: Any = None, **contents: Any
) -> service_pb2.ModelInferRequest.InferInputTensor:
    entry = Request.InferInputTensor(name=name, shape=shape, datatype=datatype)
    for field, values in contents.items():
        getattr(entry.contents, field).extend(values)
    parameters(entry, asks or {})
    return entry


def output(name: str, **asks: Any) -> service_pb2.ModelInferRequest.InferRequestedOutputTensor:
    entry = Request.InferRequestedOutputTensor(name=name)
    parameters(entry, asks)
    return entry


def request(*inputs: Any, raw: Sequence[bytes] = (), asks: dict[str, Any] | None = None, **fields: Any) -> bytes:
    message = Request(**({"model_name": "m"} | fields), inputs=inputs, raw_input_contents=raw)
    parameters(message, asks or {})
    return bytes(message.SerializeToString(deterministic=True))


def decoder(model: ModelSpec) -> Decode:
    return grpc_infer.decoder(InputPlan(model, "m"))


def outcome(decode: Decode, body: Buffer) -> Any:
    """What a body decodes to, its columns as bytes, or the error's class and message."""
    try:
        rows, columns, signature, asked = decode(body)
    except ServingError as error:
        return type(error), error.message
    return rows, [column if isinstance(column, list) else bytes(column) for column in columns], signature, asked


RAW = struct.pack("<3f", 1, 2, 3)


# ---------------------------------------------------------------- scan


@st.composite
def top_fields(draw: st.DrawFn) -> bytes:
    """Fields of a request and others, in any order; lengths are not always in their shortest form."""
    parts = []
    for _ in range(draw(st.integers(0, 6))):
        number = draw(st.sampled_from([1, 2, 3, 4, 5, 6, 7, 7, 7, 8, 15, 16, 100, 2**29 - 1]))
        wire = draw(st.sampled_from([2] * 12 + [0, 1, 3, 4, 5, 6, 7])) if number < 8 else draw(st.integers(0, 7))
        parts.append(protobuf.varint(number << 3 | wire))
        if wire == 0:
            parts.append(protobuf.varint(draw(st.integers(0, 2**64 - 1))))
        elif wire == 2:
            content = draw(st.binary(max_size=300) | st.text(max_size=9).map(str.encode))
            size = protobuf.varint(len(content))
            if draw(st.booleans()):
                size = size[:-1] + bytes((size[-1] | 0x80,)) + b"\x80" * draw(st.integers(0, 9)) + b"\0"
            parts += [size, content]
        else:
            parts.append(draw(st.binary(min_size=8, max_size=8)) if wire == 1 else draw(st.binary(max_size=6)))
    body = b"".join(parts)
    return body[: draw(st.integers(0, len(body)))] if draw(st.integers(0, 7)) == 0 else body


def fields_of(body: bytes) -> list[tuple[int, int, Any]] | None:
    """Number, wire type and content of the top-level fields by the protobuf library; None where it refuses the body."""
    message = empty_pb2.Empty()
    try:
        message.ParseFromString(body)
    except DecodeError:
        return None
    return [(field.field_number, field.wire_type, field.data) for field in UnknownFieldSet(message)]


def is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@given(st.binary(max_size=60) | top_fields())
def test_scan_finds_what_the_protobuf_library_finds(body: bytes) -> None:
    fields = fields_of(body)
    known = [field for field in fields or [] if field[0] <= 7]
    last = {number: data for number, _, data in known}
    names = [last.get(number, b"") for number in (1, 2)]
    valid = fields is not None and all(wire == 2 for _, wire, _ in known) and all(wire != 3 for _, wire, _ in fields)
    if not valid or not all(map(is_text, names)):
        with pytest.raises(MalformedBody):
            grpc_infer.scan(body)
        return
    assert fields is not None
    for given_body in (body, bytearray(body), memoryview(body)):
        found = grpc_infer.scan(given_body)
        assert [found.model_name.encode(), found.model_version.encode()] == names
        assert [body[place] for place in found.raw] == [data for number, _, data in known if number == 7]
        assert found.start == (found.raw[0].start if found.raw else len(body))
        numbers = [number for number, _, _ in fields]
        count = numbers.count(7)
        assert found.repeats == (count > 0 and 3 not in numbers and numbers[-count:] == [7] * count)
        assert all(body[place] == text for place, text in found.between)
        assert len(found.between) == max(0, count - 1)


@given(st.text(max_size=200), st.text(max_size=3), st.text(max_size=3), st.lists(st.binary(max_size=300), max_size=4))
def test_scan_agrees_with_the_message(name: str, version: str, identity: str, raw: list[bytes]) -> None:
    body = request(x(), x(), raw=raw, model_name=name, model_version=version, id=identity)
    found = grpc_infer.scan(body)
    assert (found.model_name, found.model_version) == (name, version)
    assert [body[place] for place in found.raw] == raw
    assert found.repeats is (bool(raw) and not identity)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\x0a", "cut off in the field at byte 0|cut off in the field at byte 1"),
        (b"\x0a\x02a", "cut off in the field at byte 0"),
        (b"\x0a\x01a\x3a\x80", "cut off"),
        (b"\x0a" + b"\x80" * 10 + b"\x01", "takes more than 10 bytes"),
        (b"\x80\x80\x80\x80\x80\x01\x00", "takes more than 5 bytes"),
        (b"\xff\xff\xff\xff\x7f\x00", "the tag"),
        (b"\x00\x01", "the tag 0 at byte 0"),
        (b"\x80\x01" + b"\x80" * 10 + b"\x01", "takes more than 10 bytes"),
        (b"\x80\x01" + b"\xff" * 9 + b"\x7f", "more than 64 bits"),
        (b"\x81\x01" + bytes(7), "cut off"),
        (b"\x85\x01" + bytes(3), "cut off"),
        (b"\x3a\xff\xff\xff\xff\x0f", "4294967295 bytes"),
        (b"\x08\x01", "field 1 of the request has wire type 0"),
        (b"\x3d" + bytes(4), "field 7 of the request has wire type 5"),
        (b"\x3b\x3c", "wire type 3 at byte 0"),
        (b"\x83\x01\x84\x01", "group"),
        (b"\x0a\x01\xff", "model_name is not UTF-8"),
        (b"\x12\x02a\xff", "model_version is not UTF-8.* byte 1"),
        (b"\x3a\x00" * 20_000, "more than 16384 fields"),
    ],
)
def test_scan_refuses(body: bytes, words: str) -> None:
    with pytest.raises(MalformedBody, match=words):
        grpc_infer.scan(body)


def test_of_a_field_that_came_twice_the_last_counts() -> None:
    body = request(x(), raw=[RAW]) + request(model_name="other", model_version="2")
    found = grpc_infer.scan(body)
    assert (found.model_name, found.model_version) == ("other", "2")
    assert not found.repeats


def test_a_long_start_does_not_repeat() -> None:
    assert grpc_infer.scan(request(x(), raw=[RAW], model_name="m" * 4000)).repeats
    assert not grpc_infer.scan(request(x(), raw=[RAW], model_name="m" * 4100)).repeats


# ---------------------------------------------------------------- decode


def some_values(draw: st.DrawFn, datatype: str, shape: tuple[int, ...]) -> Array:
    count = prod(shape)
    if datatype == "BYTES":
        values = np.empty(count, object)
        values[:] = draw(st.lists(st.binary(max_size=20), min_size=count, max_size=count))
    elif datatype == "BOOL":
        values = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)), np.bool_)
    else:
        size = count * NUMPY[datatype].itemsize
        values = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), NUMPY[datatype])
    return values.reshape(shape)


@st.composite
def models(draw: st.DrawFn) -> ModelSpec:
    batched = draw(st.booleans())
    inputs = []
    for name in draw(st.sampled_from([["x"], ["a", "b"], ["a", "b", "c"]])):
        inner = draw(st.lists(st.sampled_from([-1, 1, 2, 3]), max_size=2))
        inputs.append(TensorSpec(name, draw(st.sampled_from(sorted(NUMPY))), (-1, *inner) if batched else tuple(inner)))
    return spec(*inputs, outputs=(TensorSpec("p", "FP32", (-1, 2)), TensorSpec("q", "INT64", (-1,))), batched=batched)


@st.composite
def questions(draw: st.DrawFn) -> tuple[ModelSpec, bytes, Decoded]:
    """A model, a valid request to it, and what the REST protocol's decoder makes of the same tensors in binary."""
    model = draw(models())
    rows = draw(st.integers(1, 3))
    given_inputs = []
    for tensor in model.inputs:
        shape = [draw(st.integers(1, 3)) if dim < 0 else dim for dim in tensor.shape]
        if model.batched:
            shape[0] = rows
        given_inputs.append((tensor, some_values(draw, tensor.datatype, tuple(shape))))
    given_inputs = draw(st.permutations(given_inputs))
    raw = any(tensor.datatype not in TYPED for tensor, _ in given_inputs) or draw(st.booleans())
    if not raw:
        # Whoever turns a NaN into a Python float and back may lose its payload.
        given_inputs = [
            (
                tensor,
                np.nan_to_num(values, nan=np.nan, posinf=np.inf, neginf=-np.inf)
                if values.dtype.kind == "f"
                else values,
            )
            for tensor, values in given_inputs
        ]
    choices: list[dict[str, Any]] = [{}, {"priority": 2}, {"timeout": 70_000, "other": 0.5}, {"sequence_id": 0}]
    asks = draw(st.sampled_from(choices))
    wanted = draw(st.sampled_from([[], ["p"], ["q", "p"]]))
    identity = draw(st.sampled_from(["", "", "é7"]))
    entries, tails, described = [], [], []
    for tensor, values in given_inputs:
        contents: dict[str, Any] = {} if raw else {TYPED[tensor.datatype]: values.ravel().tolist()}
        entries.append(x(tensor.name, values.shape, tensor.datatype, **contents))
        tails.append(tensor_bytes(values, tensor.datatype))
        described.append(
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": values.shape,
                "parameters": {"binary_data_size": len(tails[-1])},
            }
        )
    body = request(
        *entries, raw=tails if raw else (), asks=asks, outputs=[output(name) for name in wanted], id=identity
    )
    document = {"inputs": described, "parameters": asks, "outputs": [{"name": name} for name in wanted] or None}
    if identity:
        document["id"] = identity
    header = orjson.dumps(document)
    expected = registry.decoder(InputPlan(model, "m"), "", len(header), face_v2=True)(header + b"".join(tails))
    return model, body, expected


@given(questions())
def test_a_request_means_what_it_means_over_rest(question: tuple[ModelSpec, bytes, Decoded]) -> None:
    model, body, expected = question
    decode = decoder(model)
    for _ in range(3):
        for same in (body, bytearray(body), memoryview(body)):
            assert outcome(decode, same) == outcome(lambda _: expected, b"")


@given(questions(), st.data())
def test_what_is_remembered_changes_nothing(question: tuple[ModelSpec, bytes, Decoded], data: st.DataObject) -> None:
    model, body, _ = question
    decode = decoder(model)
    for _ in range(2):
        decode(body)
    for _ in range(data.draw(st.integers(1, 4))):
        changed = bytearray(body)
        for place in data.draw(st.lists(st.integers(0, len(body) - 1), max_size=3)):
            changed[place] = data.draw(st.integers(0, 255))
        for value in (bytes(changed), body):
            assert outcome(decode, value) == outcome(decoder(model), value)


BOTH = spec(TensorSpec("a", "UINT8", (-1,)), TensorSpec("b", "UINT8", (-1,)), batched=False)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5)), min_size=1, max_size=12))
def test_raw_contents_that_are_split_otherwise_are_told_apart(splits: list[tuple[int, int]]) -> None:
    decode = decoder(BOTH)
    data = b"abcde"
    for size, cut in splits:
        body = request(x("a", [size], "UINT8"), x("b", [5 - size], "UINT8"), raw=[data[:cut], data[cut:]])
        found = outcome(decode, body)
        assert found == outcome(decoder(BOTH), body)
        assert (found[1] == [data[:cut], data[cut:]]) is (size == cut)


def test_a_name_after_the_raw_contents_is_no_raw_contents() -> None:
    decode = decoder(BOTH)
    entries = x("a", [1], "UINT8"), x("b", [2], "UINT8")
    body = request(*entries, raw=[b"a", b"bc"])
    for _ in range(2):
        assert decode(body)[1] == (b"a", b"bc")
    changed = body[:-4] + b"\x0a" + body[-3:]
    assert grpc_infer.scan(changed).model_name == "bc"
    with pytest.raises(InvalidInput, match="1 raw_input_contents and 2 inputs"):
        decode(changed)
    place, text = grpc_infer.scan(body).between[0]
    assert changed[place] != text


def test_raw_contents_are_views_of_the_body_in_the_order_of_the_model() -> None:
    decode = decoder(TWO)
    for value in (1, 2, 3):
        body = request(
            x("b", [1, 1], "INT64"), x("a", [1, 2]), raw=[struct.pack("<q", value), struct.pack("<2f", value, 0.5)]
        )
        decoded = decode(body)
        assert all(isinstance(column, memoryview) and column.obj is body for column in decoded[1])
        assert [array.tolist() for array in arrays(TWO, decoded)] == [[[value, 0.5]], [[value]]]
        assert decoded[3] == Asked(Style.OPEN_INFERENCE)


def test_requests_with_ids_keep_their_own() -> None:
    decode = decoder(one())
    for identity in ("a", "b", "", "c"):
        found = decode(request(x(), raw=[RAW], id=identity, asks={"priority": 3}))
        assert found[3] == Asked(Style.OPEN_INFERENCE, identity or None, priority=3)
    with pytest.raises(MalformedBody, match="id is not UTF-8"):
        decode(request(x(), raw=[RAW], id="Q", asks={"priority": 3}).replace(b"\x1a\x01Q", b"\x1a\x01\xff"))


def test_many_kinds_of_requests_are_all_understood() -> None:
    decode = decoder(one("UINT8", -1, -1))
    for _ in range(2):
        for size in range(1, 600):
            body = request(x("x", [1, size], "UINT8"), raw=[bytes(size)])
            assert decode(body)[1:3] == ((bytes(size),), ((size,),))


def test_raw_contents_between_other_fields() -> None:
    body = request(raw=[RAW]) + request(x(), id="7")
    assert outcome(decoder(one()), body) == (1, [RAW], None, Asked(Style.OPEN_INFERENCE, "7"))


def typed(datatype: str, values: list[Any], shape: Sequence[int] = (1, 3)) -> bytes:
    return request(x("x", shape, datatype, None, **{TYPED[datatype]: values}))


@pytest.mark.parametrize("special", [float("nan"), float("inf"), float("-inf"), -0.0])
@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
def test_typed_floats_may_be_no_numbers(datatype: str, special: float) -> None:
    values = [special, 1, 2]
    found = decoder(one(datatype))(typed(datatype, values))
    np.testing.assert_array_equal(arrays(one(datatype), found)[0], np.array([values], NUMPY[datatype]))


def test_parameters_of_either_kind_of_number() -> None:
    for kind in ("int64_param", "uint64_param"):
        asks = {"priority": (kind, 2), "timeout": (kind, 5000)}
        found = decoder(one())(
            request(x(), raw=[RAW], asks=asks, outputs=[output("p", classification=(kind, 1), binary_data=1)])
        )
        wanted = (RequestedOutput("p", classification=1),)
        assert found[3] == Asked(Style.OPEN_INFERENCE, None, wanted, False, 2, 5000)


@pytest.mark.parametrize(
    "asks",
    [
        {"sequence_id": 0, "sequence_start": False, "sequence_end": False},
        {"sequence_id": ""},
        {"binary_data_output": True},
        {"binary_data_output": "yes"},
        {"other": None, "another": 0.5},
    ],
)
def test_parameters_that_ask_nothing(asks: dict[str, Any]) -> None:
    found = decoder(one())(request(x(asks={"binary_data_size": 7, "other": 1}), raw=[RAW], asks=asks))
    assert found[3] == Asked(Style.OPEN_INFERENCE)


NO_DIMENSION = spec(TensorSpec("x", "INT32", (-1, 0)), TensorSpec("s", "BYTES", (-1, 0)))


def test_tensors_of_no_elements() -> None:
    entries = x("x", [2, 0], "INT32"), x("s", [2, 0], "BYTES")
    for raw in ([], [b"", b""]):
        rows, columns, _, _ = decoder(NO_DIMENSION)(request(*entries, raw=raw))
        assert (rows, [len(column) for column in columns]) == (2, [0, 0])


@pytest.mark.parametrize(
    ("model", "body", "error", "words"),
    [
        (one(), b"\x0a", MalformedBody, ["cut off"]),
        (one(), b"\x2a\x01\x0a", MalformedBody, ["no ModelInferRequest"]),
        (one(), b"", InvalidInput, ["'x' is missing"]),
        (one(), request(), InvalidInput, ["'x' is missing"]),
        (one(), request(raw=[RAW]), InvalidInput, ["1 raw_input_contents and 0 inputs"]),
        (one(), request(x(), raw=[RAW, RAW]), InvalidInput, ["2 raw_input_contents and 1 inputs"]),
        (one(), request(x(), x(), raw=[RAW]), InvalidInput, ["1 raw_input_contents and 2 inputs"]),
        (one(), request(x(), x(), raw=[RAW, RAW]), InvalidInput, ["'x' came twice"]),
        (one(), request(x(name="")), InvalidInput, ["inputs[0] has no name", "'x'"]),
        (one(), request(x(name="y"), raw=[RAW]), InvalidInput, ["no input 'y'", "'x'"]),
        (one(), request(x(datatype=""), raw=[RAW]), InvalidInput, ["'x' has no datatype; FP32 was expected"]),
        (one(), request(x(datatype="FP64"), raw=[RAW]), InvalidInput, ["'x' has datatype FP64", "FP32"]),
        (one(), request(x(datatype="float"), raw=[RAW]), InvalidInput, ["'x'", "the string 'float'"]),
        (one(), request(x(shape=[3]), raw=[RAW]), InvalidInput, ["'x' has shape [3]; [-1, 3] was expected"]),
        (one(), request(x(shape=[]), raw=[RAW]), InvalidInput, ["'x' has shape []"]),
        (one(), request(x(shape=[1] * 1000), raw=[RAW]), InvalidInput, ["rank 1000"]),
        (one(), request(x(shape=[-1, 3]), raw=[RAW]), InvalidInput, ["'x'", "negative"]),
        (one(), request(x(shape=[0, 3]), raw=[b""]), InvalidInput, ["'x'", "at least one row"]),
        (one(), request(x(shape=[2**62, 3]), raw=[RAW]), InvalidInput, ["'x'", "overflows"]),
        (one(), request(x(shape=[2, 3]), raw=[RAW]), InvalidInput, ["'x' has 12 bytes", "[2, 3] of FP32 needs 24"]),
        (one(), request(x(), raw=[RAW + b"1"]), InvalidInput, ["'x' has 13 bytes", "needs 12"]),
        (one("BOOL"), request(x(datatype="BOOL"), raw=[b"\0\1\2"]), InvalidInput, ["'x': byte 2 is 2"]),
        (STRINGS, request(x(shape=[1, 1], datatype="BYTES"), raw=[b"abc"]), InvalidInput, ["'x'", "at least 4"]),
        (
            STRINGS,
            request(x(shape=[1, 1], datatype="BYTES"), raw=[b"\2\0\0\0a"]),
            InvalidInput,
            ["'x'", "says 2 bytes, 1 are left"],
        ),
        (
            STRINGS,
            request(x(shape=[1, 1], datatype="BYTES"), raw=[b"\1\0\0\0ab"]),
            InvalidInput,
            ["'x'", "1 bytes after"],
        ),
        (
            one(),
            request(x(fp32_contents=[1, 2, 3]), raw=[RAW]),
            InvalidInput,
            ["'x' has fp32_contents", "raw_input_contents; one of the two"],
        ),
        (one(), request(x()), InvalidInput, ["'x' has no contents; fp32_contents or raw_input_contents"]),
        (one("FP16"), request(x(datatype="FP16")), InvalidInput, ["'x' is FP16", "raw_input_contents were expected"]),
        (one("BF16"), request(x(datatype="BF16", fp32_contents=[1, 2, 3])), InvalidInput, ["'x' is BF16"]),
        (
            one(),
            request(x(fp64_contents=[1, 2, 3])),
            InvalidInput,
            ["'x' has fp64_contents", "FP32 takes fp32_contents"],
        ),
        (one(), request(x(fp32_contents=[1, 2, 3], int_contents=[1])), InvalidInput, ["'x' has int_contents"]),
        (one(), typed("FP32", [1, 2]), InvalidInput, ["'x' has 2 elements; its shape [1, 3] needs 3"]),
        (one(), typed("FP32", [1] * 4), InvalidInput, ["'x' has 4 elements"]),
        (one("INT8"), typed("INT8", [0, 128, 0]), InvalidInput, ["'x': [0][1]", "128", "INT8 (-128 to 127)"]),
        (one("INT16"), typed("INT16", [0, 0, -32769]), InvalidInput, ["'x': [0][2]", "INT16"]),
        (one("UINT8"), typed("UINT8", [256, 0, 0]), InvalidInput, ["'x': [0][0]", "UINT8 (0 to 255)"]),
        (one("UINT16"), typed("UINT16", [65536, 0, 0]), InvalidInput, ["'x': [0][0]", "UINT16"]),
        (one("INT8"), request(x(datatype="INT8", uint_contents=[1, 2, 3])), InvalidInput, ["takes int_contents"]),
        (STRINGS, typed("BYTES", [], shape=[1, 1]), InvalidInput, ["'x' has no contents; bytes_contents"]),
        (
            one(),
            request(x(asks={"shared_memory_region": "r"}), raw=[RAW]),
            Unsupported,
            ["'x'", "'shared_memory_region'"],
        ),
        (one(), request(x(asks={"shared_memory_region": "r"})), Unsupported, ["'x'", "shared memory"]),
        (one(), request(x(), raw=[RAW], asks={"priority": "1"}), InvalidInput, ["'priority' is the string '1'"]),
        (one(), request(x(), raw=[RAW], asks={"priority": -1}), InvalidInput, ["'priority' is the number -1"]),
        (one(), request(x(), raw=[RAW], asks={"priority": True}), InvalidInput, ["'priority' is true"]),
        (one(), request(x(), raw=[RAW], asks={"priority": None}), InvalidInput, ["'priority' is null"]),
        (one(), request(x(), raw=[RAW], asks={"timeout": 1.5}), InvalidInput, ["'timeout' is the number 1.5"]),
        (
            one(),
            request(x(), raw=[RAW], asks={"timeout": ("uint64_param", 2**64 - 1)}),
            InvalidInput,
            ["'timeout'", str(2**64 - 1)],
        ),
        (one(), request(x(), raw=[RAW], asks={"sequence_id": 7}), Unsupported, ["'sequence_id'"]),
        (one(), request(x(), raw=[RAW], asks={"sequence_id": "7"}), Unsupported, ["'sequence_id'"]),
        (one(), request(x(), raw=[RAW], asks={"sequence_start": True}), Unsupported, ["'sequence_start'"]),
        (one(), request(x(), raw=[RAW], outputs=[output("q")]), InvalidInput, ["no output 'q'", "'p'"]),
        (one(), request(x(), raw=[RAW], outputs=[output("")]), InvalidInput, ["no output ''"]),
        (one(), request(x(), raw=[RAW], outputs=[output("p"), output("p")]), InvalidInput, ["'p' is asked for twice"]),
        (
            one(),
            request(x(), raw=[RAW], outputs=[output("p", classification="2")]),
            InvalidInput,
            ["'p': 'classification' is the string '2'"],
        ),
        (
            one(),
            request(x(), raw=[RAW], outputs=[output("p", shared_memory_region="r")]),
            Unsupported,
            ["'p'", "shared memory"],
        ),
        (TWO, request(x("a", [1, 2]), raw=[bytes(8)]), InvalidInput, ["'b' is missing"]),
        (
            TWO,
            request(x("a", [2, 2]), x("b", [1, 1], "INT64"), raw=[bytes(16), bytes(8)]),
            InvalidInput,
            ["'b' has 1 rows", "'a' has 2"],
        ),
        (
            WHOLE,
            request(x("a", [2, 1]), x("sr", [1], "INT64"), raw=[bytes(8), bytes(8)]),
            InvalidInput,
            ["'sr' has shape [1]; [] was expected"],
        ),
    ],
)
def test_faults(model: ModelSpec, body: bytes, error: type[ServingError], words: list[str]) -> None:
    decode = decoder(model)
    for _ in range(2):
        with pytest.raises(error) as caught:
            decode(body)
        assert type(caught.value) is error
        for word in words:
            assert word in caught.value.message


@given(st.binary(max_size=80) | top_fields())
def test_whatever_comes_is_decoded_or_refused(body: bytes) -> None:
    for model in (one(), STRINGS, TWO, WHOLE):
        outcome(decoder(model), body)


def test_without_tritonclient_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['tritonclient'] = None\n"
        "from serving.codecs import grpc_infer, grpc_messages; from serving.errors import MissingExtra\n"
        "try: grpc_messages.messages()\n"
        "except MissingExtra as error: print(error.message)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'serving[grpc]'" in found.stdout


# ---------------------------------------------------------------- encode


X = TensorSpec("x", "FP32", (-1, 3))
P = TensorSpec("p", "FP32", (-1, 2), (), ("no", "yes"))
LABEL = TensorSpec("label", "BYTES", (-1,))
VALUES = np.array([[0.25, 0.75], [1, 0]], np.float32)
LABELS = np.array([b"a", b"bc"], object)


def rest(model: ModelSpec, values: Sequence[Array], asked: Asked | None) -> Iterator[tuple[str, str, list[int], bytes]]:
    """Name, datatype, shape and bytes of each output of the REST protocol's binary answer to the same question."""
    asked = asked or Asked(Style.OPEN_INFERENCE)
    wanted = tuple(RequestedOutput(want.name, True, want.classification) for want in asked.outputs)
    question = Asked(Style.OPEN_INFERENCE, asked.id, wanted, binary_output=True)
    header, body = open_inference_encoder.encoder(model, "m", "3")(values, question)
    at = int(header.split()[-1])
    for entry in orjson.loads(body[:at])["outputs"]:
        size = entry["parameters"]["binary_data_size"]
        yield entry["name"], entry["datatype"], entry["shape"], body[at : at + size]
        at += size
    assert at == len(body)


def check(model: ModelSpec, values: Sequence[Array], asked: Asked | None) -> Any:
    """Encodes twice, and holds the answer against the REST protocol's and the library's own bytes."""
    encode = grpc_infer.encoder(model, "m", "3")
    header, body = encode(values, asked)
    assert header == b""
    assert encode(values, asked)[1] == body
    message = Response.FromString(body)
    assert (message.model_name, message.model_version) == ("m", "3")
    assert message.id == (asked.id or "" if asked is not None else "")
    found = [
        (entry.name, entry.datatype, list(entry.shape), data)
        for entry, data in zip(message.outputs, message.raw_output_contents, strict=True)
    ]
    assert found == list(rest(model, values, asked))
    assert body == message.SerializeToString(deterministic=True)
    return message


@st.composite
def answers(draw: st.DrawFn) -> tuple[ModelSpec, list[Array], Asked | None]:
    outputs, values = [], []
    for name in draw(st.sampled_from([["p"], ["q"], ["p", "q"], ["a", "b", "c"]])):
        datatype = draw(st.sampled_from(sorted(NUMPY)))
        shape = tuple(
            draw(st.lists(st.integers(0, 3) | st.just(200), max_size=3).filter(lambda dims: prod(dims) < 700))
        )
        array = some_values(draw, datatype, shape) if prod(shape) < 50 else np.zeros(shape, NUMPY[datatype])
        outputs.append(TensorSpec(name, datatype, (-1,) * len(shape)))
        values.append(array.transpose() if draw(st.booleans()) else array)
    wanted = draw(st.lists(st.sampled_from(outputs), unique_by=lambda tensor: tensor.name))
    asked = Asked(
        Style.OPEN_INFERENCE,
        draw(st.sampled_from([None, "", "é7"])),
        tuple(RequestedOutput(tensor.name) for tensor in wanted),
    )
    return spec(X, outputs=tuple(outputs), batched=False), values, draw(st.sampled_from([None, asked]))


@given(answers())
def test_an_answer_is_what_it_is_over_rest(answer: tuple[ModelSpec, list[Array], Asked | None]) -> None:
    check(*answer)


def asked(*outputs: RequestedOutput, **fields: Any) -> Asked:
    return Asked(Style.OPEN_INFERENCE, outputs=outputs, **fields)


@pytest.mark.parametrize("question", [None, asked(), asked(RequestedOutput("p")), asked(id="7")])
def test_one_output(question: Asked | None) -> None:
    message = check(spec(X, outputs=(P,)), [VALUES], question)
    assert message.raw_output_contents == [VALUES.tobytes()]


def test_outputs_come_in_the_order_asked() -> None:
    model = spec(X, outputs=(P, LABEL))
    message = check(model, [VALUES, LABELS], asked(RequestedOutput("label"), RequestedOutput("p")))
    assert [entry.name for entry in message.outputs] == ["label", "p"]
    assert message.raw_output_contents[0] == b"\1\0\0\0a\2\0\0\0bc"
    message = check(model, [VALUES, LABELS], asked(RequestedOutput("p")))
    assert [entry.name for entry in message.outputs] == ["p"]
    assert [entry.name for entry in check(model, [VALUES, LABELS], None).outputs] == ["p", "label"]


def test_classes() -> None:
    message = check(spec(X, outputs=(P,)), [VALUES], asked(RequestedOutput("p", classification=1)))
    (entry,) = message.outputs
    assert (entry.datatype, list(entry.shape)) == ("BYTES", [2, 1])
    first, second = b"0.750000:1:yes", b"1.000000:0:no"
    assert message.raw_output_contents == [
        struct.pack("<I", len(first)) + first + struct.pack("<I", len(second)) + second
    ]


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("FP32", np.arange(6, dtype=np.float32).reshape(2, 3).T),
        ("INT16", np.arange(24, dtype=np.int16).reshape(2, 3, 4)[:, ::2, ::-1]),
        ("BF16", np.arange(4).astype(ml_dtypes.bfloat16).reshape(2, 2).T),
        ("FP64", np.array(2.5)),
        ("BOOL", np.array([[True, False]])),
        ("BYTES", np.array(["é", ""], object)),
        ("BYTES", np.array(b"alone", object)),
        ("INT64", np.empty((0, 3), np.int64)),
    ],
)
def test_arrays_of_every_form(datatype: str, values: Array) -> None:
    model = spec(X, outputs=(TensorSpec("p", datatype, (-1,) * values.ndim),), batched=False)
    for question in (None, asked(id="7")):
        message = check(model, [values], question)
        assert message.raw_output_contents == [tensor_bytes(values, datatype)]


def test_an_answer_of_many_shapes() -> None:
    model = spec(X, outputs=(TensorSpec("p", "UINT8", (-1,)), TensorSpec("q", "UINT8", (-1,))))
    single = spec(X, outputs=(TensorSpec("p", "UINT8", (-1,)),))
    for size in range(1, 600):
        values = np.full(size, size % 256, np.uint8)
        check(model, [values, values], None)
        check(single, [values], None)
