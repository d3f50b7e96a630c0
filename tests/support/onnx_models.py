"""ONNX models made on the spot for tests against a whole server, each with one behaviour that a test needs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 9

ELEMENT_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16,
    "BYTES": TensorProto.STRING,
}
"""Every datatype of the Open Inference Protocol, as ONNX calls it."""

Tensor = tuple[str, str, Sequence[int | str]]
"""Name, datatype, and shape with a symbol where a dimension varies."""


def write(
    file: Path,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    nodes: Sequence[onnx.NodeProto],
    **constants: Any,
) -> Path:
    """Writes a graph to `file`, making its folder, and gives `file`; `constants` are arrays or tensors by name."""
    graph = helper.make_graph(
        nodes,
        file.stem,
        [_value(each) for each in inputs],
        [_value(each) for each in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, file)
    return file


def echo(file: Path, datatype: str, shape: Sequence[int | str] = ("N", "M")) -> Path:
    """`x` comes back as `y`."""
    return write(file, [("x", datatype, shape)], [("y", datatype, shape)], [helper.make_node("Identity", ["x"], ["y"])])


def checked_echo(file: Path) -> Path:
    """`x` FP32[N,4] comes back as `y`, and its sum as `total` FP32[N,1]: rows that prove whose they are."""
    nodes = [
        helper.make_node("Identity", ["x"], ["y"]),
        helper.make_node("ReduceSum", ["x", "axes"], ["total"], keepdims=1),
    ]
    outputs = [("y", "FP32", ("N", 4)), ("total", "FP32", ("N", 1))]
    return write(file, [("x", "FP32", ("N", 4))], outputs, nodes, axes=np.array([1], np.int64))


def arithmetic(file: Path) -> Path:
    """`a` FP32[N,2] and `b` INT64[N,2] to `sum` FP32[N,2] and `product` FP32[N,2]."""
    nodes = [
        helper.make_node("Cast", ["b"], ["b32"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["a", "b32"], ["sum"]),
        helper.make_node("Mul", ["a", "b32"], ["product"]),
    ]
    inputs = [("a", "FP32", ("N", 2)), ("b", "INT64", ("N", 2))]
    return write(file, inputs, [("sum", "FP32", ("N", 2)), ("product", "FP32", ("N", 2))], nodes)


def table(file: Path, rows: int = 10) -> Path:
    """`index` INT64[N,1] to the row [index, -index] of a table, FP32[N,2]; an index outside it fails at run time."""
    nodes = [
        helper.make_node("Squeeze", ["index", "axes"], ["flat"]),
        helper.make_node("Gather", ["values", "flat"], ["row"]),
    ]
    values = np.stack([np.arange(rows), -np.arange(rows)], axis=1).astype(np.float32)
    axes = np.array([1], np.int64)
    return write(file, [("index", "INT64", ("N", 1))], [("row", "FP32", ("N", 2))], nodes, values=values, axes=axes)


def row_dropper(file: Path) -> Path:
    """`x` FP32[N,1] comes back as `y` without the rows over a million, which a proof by small values does not see."""
    nodes = [
        helper.make_node("Less", ["x", "limit"], ["small"]),
        helper.make_node("Reshape", ["small", "flat"], ["kept"]),
        helper.make_node("Compress", ["x", "kept"], ["y"], axis=0),
    ]
    limit, flat = np.array(1e6, np.float32), np.array([-1], np.int64)
    return write(file, [("x", "FP32", ("N", 1))], [("y", "FP32", ("M", 1))], nodes, limit=limit, flat=flat)


def centred(file: Path) -> Path:
    """`x` FP32[N,4] minus the mean over its rows: rows that influence each other, so it cannot be batched."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    return write(file, [("x", "FP32", ("N", 4))], [("y", "FP32", ("N", 4))], nodes)


def slow(file: Path, milliseconds: float, rows: int | str = "N") -> Path:
    """`x` FP32[rows,4] comes back as `y` after at least about that long, however many rows there are."""
    trial = _slow(file.with_suffix(".trial"), _TRIAL_TRIPS, "N")
    trips = round(_TRIAL_TRIPS * milliseconds / (_best_run_s(trial) * 1e3))
    trial.unlink()
    return _slow(file, max(1, trips), rows)


_TRIAL_TRIPS = 200
_WIDTH = 96


def _best_run_s(model: Path) -> float:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options)
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        session.run(None, {"x": np.zeros((1, 4), np.float32)})
        best = min(best, time.perf_counter() - started)
    return best


def _slow(file: Path, trips: int, rows: int | str) -> Path:
    """Turns a matrix `trips` times, which does not depend on `x`, and adds none of it to `x`."""
    state = [_WIDTH, _WIDTH]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("MatMul", ["state", "turn"], ["turned"])],
        "body",
        [
            helper.make_tensor_value_info("trip", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, state),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("turned", TensorProto.FLOAT, state),
        ],
    )
    nodes = [
        helper.make_node("Loop", ["trips", "yes", "turn"], ["last"], body=body),
        helper.make_node("ReduceMean", ["last"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
        helper.make_node("Add", ["x", "zero"], ["y"]),
    ]
    # Orthogonal, so that its powers neither vanish nor grow.
    turn, _ = np.linalg.qr(np.random.default_rng(1).standard_normal(state))
    return write(
        file,
        [("x", "FP32", (rows, 4))],
        [("y", "FP32", (rows, 4))],
        nodes,
        turn=turn.astype(np.float32),
        trips=np.array(trips, np.int64),
        yes=np.array(True),
        nothing=np.array(0, np.float32),
    )


def _value(tensor: Tensor) -> Any:
    name, datatype, shape = tensor
    return helper.make_tensor_value_info(name, ELEMENT_TYPES[datatype], list(shape))
