"""The parts of a streamed answer, written so that they can be told apart after they were joined or split on the way.

JSON parts are a line each; CSV parts are rows; NPY and raw parts have sizes that their reader knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from serving.codecs import json
from serving.codecs.base import Asked, Encode, Encoded
from serving.contract import Array

JSON_LINES: Final = b"content-type: application/jsonlines\r\n"


def encoder(encode: Encode) -> Encode:
    """The encoder of one part, from that of a whole answer."""

    def encode_part(arrays: Sequence[Array], asked: Asked | None) -> Encoded:
        fields, body = encode(arrays, asked)
        return (JSON_LINES, body + b"\n") if fields == json.HEADER else (fields, body)

    return encode_part
