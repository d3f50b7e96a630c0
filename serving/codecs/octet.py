"""`application/octet-stream`: the raw bytes of the only input, or of the only output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from serving.codecs.base import Asked, Encode, Encoded, Style
from serving.codecs.open_inference import raw_decoder as decoder
from serving.codecs.raw import element, tensor_bytes
from serving.contract import Array, ModelSpec
from serving.datatypes import BYTES
from serving.errors import NotAcceptable

__all__ = ["decoder", "encoder"]

HEADER: Final = b"content-type: application/octet-stream\r\n"


def encoder(spec: ModelSpec, open_inference: Encode) -> Encode:
    """Encoder of a single output: row-major little-endian values, or one BYTES element as it is.

    The answer to a v2 question is v2's, which has this media type where an output is asked for in binary.
    """
    datatype = spec.outputs[0].datatype
    names = ", ".join(f"'{output.name}'" for output in spec.outputs)

    def encode(arrays: Sequence[Array], asked: Asked | None) -> Encoded:
        if asked is not None and asked.style is Style.OPEN_INFERENCE:
            return open_inference(arrays, asked)
        if len(arrays) != 1:
            raise NotAcceptable(f"application/octet-stream carries one output; the model gives {names}")
        array = arrays[0]
        if datatype != BYTES:
            return HEADER, tensor_bytes(array, datatype)
        if array.size != 1:
            raise NotAcceptable(f"application/octet-stream carries one BYTES element; the answer has {array.size}")
        return HEADER, element(array.ravel()[0])

    return encode
