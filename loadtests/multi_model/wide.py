"""Models of 1 MB or more that can be told apart: each has weights of its own, and answers the number that it was made for."""

from __future__ import annotations

import functools
import io
import json
import tarfile
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from loadtests.bench.models import IR_VERSION, OPSET, Array

FEATURES: Final = 30
HIDDEN: Final = {1: 480, 10: 1_560, 100: 4_985}
"""By the MB that a model takes."""

CONTENT_TYPE: Final = "application/json"
FILE: Final = "model.onnx"

_INPUT, _OUTPUT = "features", "score"

ROW: Final = np.round(np.random.default_rng(1).standard_normal(FEATURES), 4)
"""What all of them are asked."""

BODY: Final = json.dumps({"instances": [ROW.tolist()]}, separators=(",", ":")).encode()


def content(number: int, megabytes: int = 1) -> bytes:
    """The ONNX file of a model: three dense layers, of which a number between -0.25 and 0.25 is added to its own."""
    graph, layers = _graph(megabytes), _layers(megabytes)
    random = np.random.default_rng(number)
    for place, (rows, columns) in enumerate(layers):
        weight = random.standard_normal((rows, columns), dtype=np.float32) * np.float32(np.sqrt(1 / rows))
        graph.graph.initializer[place].raw_data = weight.tobytes()
    graph.graph.initializer[len(layers)].raw_data = np.float32(number).tobytes()
    made: bytes = graph.SerializeToString()
    return made


def archive(number: int, megabytes: int = 1) -> bytes:
    """The model as a gzipped tar, at gzip's quickest: random weights do not shrink, whatever is spent on them."""
    inner = content(number, megabytes)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        member = tarfile.TarInfo(FILE)
        member.size = len(inner)
        tar.addfile(member, io.BytesIO(inner))
    return packed.getvalue()


def said(body: bytes) -> int:
    """Which model gave an answer. Raises ValueError, KeyError, IndexError and TypeError where none of these did."""
    value = np.asarray(json.loads(body)["predictions"], dtype=float).reshape(-1)
    if len(value) != 1 or abs(value[0] - round(value[0])) > 0.3:
        raise ValueError(f"not the answer of one of these models: {body[:200]!r}")
    return round(float(value[0]))


def feed() -> dict[str, Array]:
    """The same question for a session."""
    return {_INPUT: ROW.astype(np.float32)[None]}


def _layers(megabytes: int) -> tuple[tuple[int, int], ...]:
    hidden = HIDDEN[megabytes]
    return (FEATURES, hidden), (hidden, hidden), (hidden, 1)


@functools.cache
def _graph(megabytes: int) -> onnx.ModelProto:
    nodes, value = [], _INPUT
    shapes = _layers(megabytes)
    weights = [
        numpy_helper.from_array(np.zeros(shape, np.float32), f"weight_{place}") for place, shape in enumerate(shapes)
    ]
    for place in range(len(shapes)):
        nodes += [
            helper.make_node("MatMul", [value, f"weight_{place}"], [f"dense_{place}"]),
            helper.make_node("Tanh", [f"dense_{place}"], [f"tanh_{place}"]),
        ]
        value = f"tanh_{place}"
    nodes += [
        helper.make_node("Mul", [value, "quarter"], ["small"]),
        helper.make_node("Add", ["small", "number"], [_OUTPUT]),
    ]
    weights += [
        numpy_helper.from_array(np.array(value, np.float32), name)
        for name, value in (("number", 0.0), ("quarter", 0.25))
    ]
    source = helper.make_tensor_value_info(_INPUT, TensorProto.FLOAT, ["N", FEATURES])
    target = helper.make_tensor_value_info(_OUTPUT, TensorProto.FLOAT, ["N", 1])
    proto = helper.make_model(
        helper.make_graph(nodes, "wide", [source], [target], weights),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="loadtests.multi_model",
    )
    proto.ir_version = IR_VERSION
    onnx.checker.check_model(proto)
    return proto
