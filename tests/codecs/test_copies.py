"""A large tensor in binary is copied once after the socket: into the buffer that the body is read into, and nowhere else."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import orjson
import pytest

from serving.codecs import registry
from serving.codecs.base import Decode
from serving.codecs.plan import InputPlan
from serving.contract import Array
from serving.runtime.assembly import Assembler
from serving.runtime.batcher import Batch
from serving.runtime.invocation import Invocation
from tests.codecs.support import one
from tests.codecs.test_arrow import batch, fixed, stream

ROWS, WIDTH = 5000, 1000
MODEL = one("FP32", -1, WIDTH)
VALUES = np.arange(ROWS * WIDTH, dtype=np.float32)
MOST_BYTES = 1 << 20


def v2_binary() -> tuple[Decode, bytes]:
    """A question of 20 MB, and its decoder."""
    parameters = {"binary_data_size": VALUES.nbytes}
    entry = {"name": "x", "shape": [ROWS, WIDTH], "datatype": "FP32", "parameters": parameters}
    head = orjson.dumps({"inputs": [entry]})
    return registry.decoder(InputPlan(MODEL, "m"), "application/octet-stream", len(head)), head + VALUES.tobytes()


def arrow() -> tuple[Decode, bytes]:
    """The same as an Arrow stream."""
    return registry.decoder(InputPlan(MODEL, "m"), registry.ARROW, None), stream(batch(x=fixed(VALUES, WIDTH)))


def octets() -> tuple[Decode, bytes]:
    """The same as raw bytes."""
    return registry.decoder(InputPlan(MODEL, "m"), registry.OCTET, None), VALUES.tobytes()


@pytest.mark.parametrize("form", [v2_binary, arrow, octets])
def test_what_a_container_gets_is_the_body(form: Any) -> None:
    decode, content = form()
    # As the lane reads a body that comes in pieces.
    body = memoryview(np.frombuffer(content, np.uint8).copy().data)
    decode(body)
    tracemalloc.start()
    try:
        rows, columns, signature, asked = decode(body)
        nobody: Any = None
        item = Invocation(nobody, nobody, nobody, rows, columns, signature, asked, 0.0, 0.0, 0)
        joined = Batch([item], rows, "full", 0.0, 0.0)
        inputs: list[Array] = Assembler(MODEL).join(joined)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(inputs[0], VALUES.reshape(ROWS, WIDTH))
    assert np.shares_memory(inputs[0], np.frombuffer(body, np.uint8))
    assert peak < MOST_BYTES
