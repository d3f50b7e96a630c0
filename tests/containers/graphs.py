"""Small ONNX graphs with known answers, written as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.onnx_models import ELEMENT_TYPES

Shape = Sequence[int | str | None] | None

ONNX_TYPES = ELEMENT_TYPES
"""The protocol's datatypes as ONNX has them."""

BATCH_3 = ("N", 3)


def tensor(name: str, shape: Shape = BATCH_3, datatype: str = "FP32") -> onnx.ValueInfoProto:
    """An input or output."""
    return helper.make_tensor_value_info(name, ONNX_TYPES[datatype], shape)


def constant(name: str, value: Any, dtype: Any = np.float32) -> onnx.TensorProto:
    """A weight."""
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def outside(location: str) -> onnx.TensorProto:
    """A weight of three floats, `w`, whose values are in another file."""
    proto = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    proto.external_data.add(key="location", value=location)
    proto.external_data.add(key="offset", value="0")
    proto.external_data.add(key="length", value="12")
    return proto


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """An operator; names are separated by spaces."""
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto] = (),
) -> Path:
    """Writes the graph to `path`, unchecked."""
    graph = helper.make_graph(nodes, "graph", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def identity(path: Path, datatype: str = "FP32", shape: Shape = BATCH_3) -> Path:
    """A graph that answers `y` with what came as `x`."""
    nodes = [node("Identity", "x", "y")]
    return write(path, nodes, [tensor("x", shape, datatype)], [tensor("y", shape, datatype)])


def doubled(path: Path) -> Path:
    """A graph that answers `y`, twice `x`; both float32[N, 3]."""
    return write(path, [node("Add", "x x", "y")], [tensor("x")], [tensor("y")])
