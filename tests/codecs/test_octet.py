from __future__ import annotations

import numpy as np
import pytest

from serving.codecs import octet, open_inference_encoder
from serving.codecs.base import Asked, Style
from serving.contract import Array, TensorSpec
from serving.errors import NotAcceptable
from tests.codecs.support import decode, one, spec


def encode(values: list[Array], *outputs: TensorSpec, asked: Asked | None = None) -> tuple[bytes, bytes]:
    model = spec(TensorSpec("x", "FP32", (-1,)), outputs=outputs)
    return octet.encoder(model, open_inference_encoder.encoder(model, "m", "1"))(values, asked)


Y = TensorSpec("y", "FP32", (-1, 2))
STRING = TensorSpec("s", "BYTES", (-1,))
VALUES = np.array([[1, 2]], np.float32)


def test_raw_values() -> None:
    assert encode([VALUES], Y) == (b"content-type: application/octet-stream\r\n", VALUES.tobytes())
    assert encode([VALUES.T], Y)[1] == VALUES.tobytes()


def test_one_string_is_its_own_body() -> None:
    assert encode([np.array([b"\xff"], object)], STRING)[1] == b"\xff"
    with pytest.raises(NotAcceptable, match="the answer has 2"):
        encode([np.array([b"a", b"b"], object)], STRING)


def test_several_outputs_are_refused() -> None:
    with pytest.raises(NotAcceptable, match="'y', 's'"):
        encode([VALUES, VALUES], Y, STRING)


def test_a_v2_question_gets_a_v2_answer() -> None:
    header, body = encode([VALUES], Y, asked=Asked(Style.OPEN_INFERENCE, binary_output=True))
    assert b"inference-header-content-length" in header
    assert body.endswith(VALUES.tobytes())


def test_the_body_is_not_copied() -> None:
    body = bytes(24)
    (column,) = decode(one(), body, "application/octet-stream")[1]
    assert isinstance(column, memoryview)
    assert column.obj is body
