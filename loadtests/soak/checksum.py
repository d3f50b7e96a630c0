"""A model that answers each row with a checksum of it, so that an answer of any other row is known to be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

from loadtests.bench.models import IR_VERSION, OPSET, Array

COLUMNS = 16
MOST = 2**31
WEIGHTS = np.array([2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53], np.int64)

INLINE = "checksum"
SLOT = "checksum-slot"
_WIDTHS = {INLINE: 0, SLOT: 1024}


def rows(count: int, seed: int) -> Array:
    """Random input: int64[count, `COLUMNS`]."""
    return np.random.default_rng(seed).integers(0, MOST, (count, COLUMNS), dtype=np.int64)


def checksums(given: Array) -> Array:
    """What the model answers: int64[rows]. Never over 2^53, so that JSON holds it exactly."""
    return np.asarray((given * WEIGHTS).sum(axis=1))


def write(name: str, folder: Path) -> Path:
    """The path of the model's file under `folder`. `SLOT` has work to do beside, so that it runs on a slot's thread."""
    folder.mkdir(parents=True, exist_ok=True)
    width = _WIDTHS[name]
    nodes = [
        helper.make_node("Mul", ["values", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axis"], ["checksum" if not width else "sum"], keepdims=1),
    ]
    constants = [
        numpy_helper.from_array(WEIGHTS, "weights"),
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
    ]
    if width:
        random = np.random.default_rng(7)
        shapes = {"first": (COLUMNS, width), "second": (width, width), "last": (width, 1)}
        for label, shape in shapes.items():
            constants.append(numpy_helper.from_array(random.standard_normal(shape, np.float32), label))
        constants.append(numpy_helper.from_array(np.array(0, np.float32), "zero"))
        nodes += [
            helper.make_node("Cast", ["values"], ["numbers"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["numbers", "first"], ["wide"]),
            helper.make_node("MatMul", ["wide", "second"], ["wider"]),
            helper.make_node("MatMul", ["wider", "last"], ["narrow"]),
            helper.make_node("Mul", ["narrow", "zero"], ["nothing"]),
            helper.make_node("Cast", ["nothing"], ["none"], to=TensorProto.INT64),
            helper.make_node("Add", ["sum", "none"], ["checksum"]),
        ]
    source = helper.make_tensor_value_info("values", TensorProto.INT64, ["N", COLUMNS])
    target = helper.make_tensor_value_info("checksum", TensorProto.INT64, ["N", 1])
    proto = helper.make_model(
        helper.make_graph(nodes, name, [source], [target], constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="loadtests.soak",
    )
    proto.ir_version = IR_VERSION
    checker.check_model(proto)
    path = folder / f"{name}.onnx"
    path.write_bytes(proto.SerializeToString())
    return path
