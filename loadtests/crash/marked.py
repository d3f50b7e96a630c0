"""Models that answer with their number, so that an answer tells which model gave it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from loadtests.bench.models import IR_VERSION, OPSET
from loadtests.control.archives import pack

WIDTH = 4
BODY = json.dumps({"instances": [[0.0] * WIDTH]}).encode()


@dataclass(frozen=True, slots=True)
class Marked:
    """Model data that answers `number`, or, without one, data that cannot be served."""

    url: str
    number: int | None


def write(folder: Path, number: int) -> Path:
    """The path of an archive under `folder` whose model adds `number` to FP32[N,WIDTH]."""
    path = folder / f"marked-{number}.tar.gz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shape: list[str | int | None] = ["N", WIDTH]
        graph = helper.make_graph(
            [helper.make_node("Add", ["x", "number"], ["y"])],
            "marked",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(np.array(number, np.float32), "number")],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        pack(path, made.SerializeToString())
    return path


def read(body: bytes) -> int:
    """The number in an answer to `BODY`. Raises ValueError."""
    try:
        (row,) = json.loads(body)["predictions"]
        numbers = {int(value) for value in row}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"not an answer of a marked model: {body[:200]!r}") from error
    if len(numbers) != 1 or len(row) != WIDTH:
        raise ValueError(f"not an answer of one marked model: {body[:200]!r}")
    return numbers.pop()
