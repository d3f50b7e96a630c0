"""One case: a graph, its sets of inputs, and the outputs that ONNX's reference gives for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from serving.contract import Array
from serving.datatypes import BYTES, NUMPY

RTOL: Final = 1e-3
ATOL: Final = 1e-7
"""ONNX's own, where a case's `data.json` does not say otherwise."""

DATATYPES: Final = {
    TensorProto.BOOL: "BOOL",
    TensorProto.UINT8: "UINT8",
    TensorProto.UINT16: "UINT16",
    TensorProto.UINT32: "UINT32",
    TensorProto.UINT64: "UINT64",
    TensorProto.INT8: "INT8",
    TensorProto.INT16: "INT16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.FLOAT: "FP32",
    TensorProto.DOUBLE: "FP64",
    TensorProto.STRING: BYTES,
}
"""Element types of ONNX that the Open Inference Protocol has too."""


class Excluded(Exception):
    """The case cannot be asked over the protocol at all; the message is the reason, the same for all of its kind."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named value. BYTES elements are `bytes`."""

    name: str
    datatype: str
    array: Array


@dataclass(frozen=True, slots=True)
class Question:
    """One set of inputs with the outputs that are right."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A model file, its questions, and the tolerance of their answers."""

    name: str
    model: Path
    questions: tuple[Question, ...]
    rtol: float
    atol: float


def read(folder: Path) -> Case:
    """The case in a folder. Raises `Excluded`."""
    graph = onnx.load(folder / "model.onnx").graph
    given = {tensor.name for tensor in graph.initializer}
    takes = [_declared("input", value) for value in graph.input if value.name not in given]
    gives = [_declared("output", value) for value in graph.output]
    if not takes:
        raise Excluded("no inputs")
    said = folder / "data.json"
    settings = json.loads(said.read_text()) if said.exists() else {}
    return Case(
        folder.name,
        folder / "model.onnx",
        tuple(_question(each, takes, gives) for each in sorted(folder.glob("test_data_set_*"))),
        settings.get("rtol", RTOL),
        settings.get("atol", ATOL),
    )


def difference(expected: Sequence[Tensor], got: Sequence[Tensor], rtol: float, atol: float) -> str:
    """What is wrong with an answer, "" where nothing is: names, datatypes, shapes, then values as ONNX compares them."""
    if [tensor.name for tensor in expected] != [tensor.name for tensor in got]:
        return f"outputs {[tensor.name for tensor in got]}, {[tensor.name for tensor in expected]} expected"
    for right, tensor in zip(expected, got, strict=True):
        if tensor.datatype != right.datatype:
            return f"{right.name} is {tensor.datatype}, {right.datatype} expected"
        if tensor.array.shape != right.array.shape:
            return f"{right.name} has shape {list(tensor.array.shape)}, {list(right.array.shape)} expected"
        wrong = _unequal(right, tensor.array, rtol, atol)
        if wrong:
            return f"{right.name} differs in {wrong} of {right.array.size} elements"
    return ""


def elements(array: Array) -> Array:
    """A tensor of text or bytes as one of bytes, whose shape it keeps."""
    found = np.empty(array.size, object)
    found[:] = [value if isinstance(value, bytes) else str(value).encode() for value in array.ravel()]
    return found.reshape(array.shape)


def _unequal(right: Tensor, got: Array, rtol: float, atol: float) -> int:
    if right.datatype in {BYTES, "BOOL"}:
        return int(np.sum(right.array != got))
    # Widened as numpy does it itself, but for bfloat16.
    near = np.isclose(got.astype(np.float64), right.array.astype(np.float64), rtol=rtol, atol=atol, equal_nan=True)
    return int(np.sum(~near))


def _declared(role: str, value: Any) -> tuple[str, str]:
    """Name and datatype of a graph's input or output. Raises `Excluded`."""
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise Excluded(f"{role} is of {str(kind or 'no type').replace('_type', ' type').replace('_', ' ')}")
    element = value.type.tensor_type.elem_type
    datatype = DATATYPES.get(element)
    if datatype is None:
        raise Excluded(f"{role} is {TensorProto.DataType.Name(element).lower()}")
    return value.name, datatype


def _question(folder: Path, takes: Sequence[tuple[str, str]], gives: Sequence[tuple[str, str]]) -> Question:
    return Question(_tensors(folder, "input", takes), _tensors(folder, "output", gives))


def _tensors(folder: Path, role: str, declared: Sequence[tuple[str, str]]) -> tuple[Tensor, ...]:
    files = sorted(folder.glob(f"{role}_*.pb"), key=lambda file: int(file.stem.removeprefix(f"{role}_")))
    if len(files) != len(declared):
        raise Excluded(f"not as many {role} files as the graph has {role}s")
    return tuple(_tensor(file, name, datatype) for file, (name, datatype) in zip(files, declared, strict=True))


def _tensor(file: Path, name: str, datatype: str) -> Tensor:
    message = TensorProto()
    message.ParseFromString(file.read_bytes())
    array: Array = numpy_helper.to_array(message)
    if datatype == BYTES:
        return Tensor(name, datatype, elements(array))
    if array.dtype != NUMPY[datatype]:
        raise Excluded(f"a file holds {array.dtype} where the graph says {datatype}")
    return Tensor(name, datatype, array)
