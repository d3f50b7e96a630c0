"""Small ONNX models made on the spot, one for each thing that a front end has to get right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.onnx_models import ELEMENT_TYPES

Spec = tuple[str, int, Sequence[str | int]]

ECHOES: Final = ELEMENT_TYPES
"""Datatypes that have a model `echo-{datatype in lower case}`: input `x` [N, 2] comes back as output `y`."""

WIDE: Final = 20_000
"""Columns of the answer of the model `wide`."""

FEATURES: Final = ("amount", "hour", "risk", "velocity")
"""Columns of the model `records`."""


def make_repository(directory: Path) -> Path:
    """A repository of all the models.

    `linear`: x FP32[N,4] -> y FP32[N,2], x @ [[0,1],[2,3],[4,5],[6,7]]. `records`: the same with `FEATURES`.
    `pair`: a FP32[N,2], b INT64[N,1] -> sum FP32[N,2] = a + b, twice INT64[N,1] = 2 b. `cube`: x FP32[N,2,3] -> the same.
    `index`: i INT64[N] -> v FP32[N]; i outside -3 to 2 fails while it runs. `wide`: x FP32[N,1] -> y FP32[N,20000].
    `slow`: spins INT64[1] -> y FP32[8,8] after that many turns of a loop, alone and never on the event loop.
    `busy`: the same, and whoever comes while another waits for it is refused.
    `echo-*`: see `ECHOES`.
    """
    weights = np.arange(8, dtype=np.float32).reshape(4, 2)
    linear = _graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [("x", TensorProto.FLOAT, ["N", 4])],
        [("y", TensorProto.FLOAT, ["N", 2])],
        {"w": weights},
    )
    _save(directory / "linear", linear)
    _save(directory / "records", linear, f"inputs: [{{name: x, features: [{', '.join(FEATURES)}]}}]\n")
    pair = _graph(
        [
            helper.make_node("Cast", ["b"], ["float_b"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["a", "float_b"], ["sum"]),
            helper.make_node("Add", ["b", "b"], ["twice"]),
        ],
        [("a", TensorProto.FLOAT, ["N", 2]), ("b", TensorProto.INT64, ["N", 1])],
        [("sum", TensorProto.FLOAT, ["N", 2]), ("twice", TensorProto.INT64, ["N", 1])],
    )
    _save(directory / "pair", pair)
    _save(directory / "cube", _echo(TensorProto.FLOAT, ["N", 2, 3]))
    index = _graph(
        [helper.make_node("Gather", ["table", "i"], ["v"])],
        [("i", TensorProto.INT64, ["N"])],
        [("v", TensorProto.FLOAT, ["N"])],
        {"table": np.array([10, 20, 30], np.float32)},
    )
    _save(directory / "index", index)
    wide = _graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [("x", TensorProto.FLOAT, ["N", 1])],
        [("y", TensorProto.FLOAT, ["N", WIDE])],
        {"w": np.full((1, WIDE), 0.125, np.float32)},
    )
    _save(directory / "wide", wide)
    _save(directory / "slow", _slow(), "batching: {inline_below_us: 0, max_queue_wait_s: 1000}\n")
    _save(directory / "busy", _slow(), "batching: {inline_below_us: 0, max_queue_wait_s: 0.000000001}\n")
    for datatype, kind in ECHOES.items():
        _save(directory / f"echo-{datatype.lower()}", _echo(kind, ["N", 2]))
    return directory


def _slow() -> onnx.ModelProto:
    turn = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("MatMul", ["state", "rotation"], ["next_state"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("turn_number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [8, 8]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next_state", TensorProto.FLOAT, [8, 8]),
        ],
    )
    return _graph(
        [helper.make_node("Loop", ["spins", "yes", "start"], ["y"], body=turn)],
        [("spins", TensorProto.INT64, [1])],
        [("y", TensorProto.FLOAT, [8, 8])],
        {
            "yes": np.array(True),
            "start": np.eye(8, dtype=np.float32),
            "rotation": np.roll(np.eye(8, dtype=np.float32), 1, axis=0),
        },
    )


def _echo(kind: int, shape: Sequence[str | int]) -> onnx.ModelProto:
    return _graph([helper.make_node("Identity", ["x"], ["y"])], [("x", kind, shape)], [("y", kind, shape)])


def _graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Spec],
    outputs: Sequence[Spec],
    constants: dict[str, np.ndarray[Any, Any]] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(*spec) for spec in inputs],
        [helper.make_tensor_value_info(*spec) for spec in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _save(directory: Path, model: onnx.ModelProto, settings: str = "") -> None:
    directory.mkdir(parents=True)
    onnx.save(model, directory / "model.onnx")
    if settings:
        (directory / "model.yaml").write_text(settings)
