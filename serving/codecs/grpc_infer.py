"""ModelInferRequest and ModelInferResponse of the Open Inference Protocol's gRPC service, as bytes.

Clients repeat all of a request but its tensors' bytes, which come last: what the bytes before them mean is remembered, so that
most requests are not parsed at all, and most answers are put together from pieces that are known.
Sources: Open Inference Protocol, gRPC; Protocol Buffers, encoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Final, NamedTuple, TypeAlias

from serving.codecs import protobuf
from serving.codecs.base import Asked, Buffer, Decode, Decoded, Encode, Encoded, RequestedOutput
from serving.codecs.grpc_request import Head, RequestReader
from serving.codecs.open_inference_encoder import classes
from serving.codecs.plan import InputPlan
from serving.codecs.raw import tensor_bytes
from serving.contract import Array, ModelSpec
from serving.datatypes import BYTES, item_bytes
from serving.errors import MalformedBody

_NAME, _VERSION, _ID, _RAW = 0x0A, 0x12, 0x1A, 0x3A
_RAW_OUTPUT: Final = 6
_TAGS: Final = frozenset(number << 3 | protobuf.LENGTH_DELIMITED for number in range(1, 8))
"""The tags of all fields of a request: each is a string, a message or bytes."""

_MEMO_ENTRIES: Final = 256
_MEMO_BYTES: Final = 4096
_MOST_FIELDS: Final = 16384
"""Of a request, each of which takes time."""

_NOWHERE: Final = slice(0, 0)

Between: TypeAlias = tuple[tuple[slice, bytes], ...]
"""Places, and the bytes there."""


class Places(NamedTuple):
    """What the fields of a request's bytes are: the model, and where the raw contents lie.

    `start`: how many of the first bytes come before those of the first raw contents; `repeats`: another request of the same
    length that begins with the same bytes, to that place, and has those of `between` where they are, differs in its raw
    contents alone.
    """

    model_name: str
    model_version: str
    raw: tuple[slice, ...]
    start: int
    repeats: bool
    between: Between = ()


_Fields: TypeAlias = tuple[slice, slice, slice, slice, list[slice], int, bool]
"""Where the top-level fields of a request are: the names of its model and version, its id (the whole field, and its text), and
its raw contents; where the field of the first of those begins, the end without one; whether nothing follows them."""


def scan(body: Buffer) -> Places:
    """Finds the top-level fields of a request. Raises `MalformedBody`."""
    name, version, identity, _, raw, end, last = _fields(body)
    return Places(
        _text(body, name, "model_name"),
        _text(body, version, "model_version"),
        tuple(raw),
        raw[0].start if raw else end,
        bool(raw) and last and end <= _MEMO_BYTES and identity is _NOWHERE,
        _between(body, raw) if len(raw) > 1 else (),
    )


def _between(body: Buffer, raw: list[slice]) -> Between:
    """What stands between one raw contents and the next."""
    return tuple([(slice(one.stop, other.start), bytes(body[one.stop : other.start])) for one, other in pairwise(raw)])


def _fields(body: Buffer) -> _Fields:
    at, end = 0, len(body)
    name = version = identity = identity_text = _NOWHERE
    raw: list[slice] = []
    first, last = end, True
    for _ in range(_MOST_FIELDS + 1):
        if at == end:
            return name, version, identity, identity_text, raw, first, last
        began = at
        tag = body[at]
        at += 1
        if tag in _TAGS and at < end and (size := body[at]) < 0x80:
            at += 1
            stop = at + size
        else:
            tag, at, stop = protobuf.read_field(body, began)
            if tag not in _TAGS and tag < 0x40:
                raise MalformedBody(
                    f"field {tag >> 3} of the request has wire type {tag & 7};"
                    f" {protobuf.LENGTH_DELIMITED} (length-delimited) was expected"
                )
        if stop > end:
            raise protobuf.cut_off(began)
        if tag == _RAW:
            if not raw:
                first = began
            raw.append(slice(at, stop))
        else:
            if raw:
                last = False
            if tag == _NAME:
                name = slice(at, stop)
            elif tag == _VERSION:
                version = slice(at, stop)
            elif tag == _ID:
                identity, identity_text = slice(began, stop), slice(at, stop)
        at = stop
    raise MalformedBody(f"the request has more than {_MOST_FIELDS} fields")


def _text(body: Buffer, place: slice, what: str) -> str:
    try:
        return str(body[place], "utf-8")
    except UnicodeDecodeError as error:
        raise MalformedBody(f"{what} is not UTF-8: {error.reason} at byte {error.start}") from None


def decoder(plan: InputPlan) -> Decode:
    """Decoder of requests to one model; raises `MalformedBody`, `InvalidInput` and `Unsupported`.

    It remembers two things, within bounds. Layouts: a request of the same length with the same bytes before, between and
    after its raw contents is read by taking views of these. Heads: where only the bytes before the raw contents are
    known, the id left out, just the raw contents are checked.
    """
    reader = RequestReader(plan)
    layouts: dict[bytes, tuple[int, tuple[slice, ...], Between, Decoded]] = {}
    lengths: dict[int, int] = {}
    heads: dict[bytes, Head] = {}

    def decode(body: Buffer) -> Decoded:
        if type(body) is not bytes:
            body = bytes(body)
        length = len(body)
        known = layouts.get(body[: lengths.get(length, 0)])
        if known is not None and known[0] == length:
            _, slices, between, (rows, _, signature, asked) = known
            for place, was in between:
                if body[place] != was:
                    break
            else:
                view = memoryview(body)
                return rows, tuple([view[part] for part in slices]), signature, asked
        return strict(body)

    def strict(body: bytes) -> Decoded:
        _, _, identity, identity_text, places, start, last = _fields(body)
        view = memoryview(body)
        raw = [view[place] for place in places]
        if not (raw and last and start <= _MEMO_BYTES):
            return reader.read(body, raw)[0]
        text = body[:start]
        if identity is not _NOWHERE:
            text = body[: identity.start] + body[identity.stop : start]
        head = heads.get(text)
        decoded = None if head is None else reader.again(head, raw)
        if head is None or decoded is None:
            decoded, head = reader.read(text, raw)
            if len(heads) >= _MEMO_ENTRIES:
                heads.clear()
            heads[text] = head
        if identity is _NOWHERE:
            if head.views:
                remember(body, places, head)
            return decoded
        rows, columns, signature, _ = decoded
        return rows, columns, signature, head.identified(_text(body, identity_text, "id"))

    def remember(body: bytes, raw: list[slice], head: Head) -> None:
        slices = [_NOWHERE] * len(raw)
        for part, place in zip(head.parts, raw, strict=True):
            slices[part.position] = place
        if max(len(layouts), len(lengths)) >= _MEMO_ENTRIES:
            layouts.clear()
            lengths.clear()
        start = raw[0].start
        meaning = head.rows, (), head.signature, head.asked
        layouts[body[:start]] = len(body), tuple(slices), _between(body, raw), meaning
        lengths[len(body)] = start

    return decode


def encoder(spec: ModelSpec, model_name: str, version: str) -> Encode:
    """Encoder of answers: no header lines, and the message, whose tensors are raw contents."""
    start = protobuf.field(1, model_name.encode()) + protobuf.field(2, version.encode())
    outputs = {output.name: (i, output) for i, output in enumerate(spec.outputs)}
    everything = tuple([RequestedOutput(output.name) for output in spec.outputs])
    first = spec.outputs[0]
    plain = len(outputs) == 1 and first.datatype != BYTES
    item = item_bytes(first.datatype)
    starts: dict[tuple[int, ...], bytes] = {}
    tensors: dict[tuple[str, str, tuple[int, ...]], bytes] = {}

    def start_of(shape: tuple[int, ...]) -> bytes:
        if len(starts) >= _MEMO_ENTRIES:
            starts.clear()
        raw = protobuf.header(_RAW_OUTPUT, prod(shape) * item)
        found = starts[shape] = start + _tensor(first.name, first.datatype, shape) + raw
        return found

    def tensor(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
        key = name, datatype, shape
        found = tensors.get(key)
        if found is None:
            if len(tensors) >= _MEMO_ENTRIES:
                tensors.clear()
            found = tensors[key] = _tensor(name, datatype, shape)
        return found

    def encode(arrays: Sequence[Array], asked: Asked | None) -> Encoded:
        if plain and (
            asked is None or (asked.id is None and (not asked.outputs or not asked.outputs[0].classification))
        ):
            array = arrays[0]
            shape = array.shape
            return b"", (starts.get(shape) or start_of(shape)) + array.tobytes()
        described = [start]
        raw: list[bytes] = []
        if asked is not None and asked.id:
            described.append(protobuf.field(3, asked.id.encode()))
        for want in (asked.outputs if asked is not None else ()) or everything:
            position, output = outputs[want.name]
            array, datatype = arrays[position], output.datatype
            if want.classification:
                array = classes(array, want.classification, output.labels, batched=spec.batched)
                datatype = BYTES
            data = tensor_bytes(array, datatype)
            described.append(tensor(want.name, datatype, array.shape))
            raw += (protobuf.header(_RAW_OUTPUT, len(data)), data)
        return b"", b"".join(described + raw)

    return encode


def _tensor(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    """The field of the answer that describes an output."""
    packed = b"".join(map(protobuf.varint, shape))
    described = protobuf.field(1, name.encode()) + protobuf.field(2, datatype.encode()) + protobuf.field(3, packed)
    return protobuf.header(5, len(described)) + described
