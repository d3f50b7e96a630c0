"""Graphs with state: carried inside one request, never between two; settings that do not fit are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from containers.onnx.container import OnnxKind
from serving.contract import BatchingConfig, ModelConfig, OnnxConfig, RecurrentConfig, TensorConfig
from serving.errors import ArtifactError, ConfigurationError, InvalidInput

CHUNK, CONTEXT = 4, 2

SETTINGS: dict[str, Any] = {
    "input": "x",
    "chunk": CHUNK,
    "context": CONTEXT,
    "state": {"total": "new_total"},
    "constants": {"scale": 3.0},
}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """new_total [1, 1] = total + the sum of x [1, 6]; y [1, 1] = scale * new_total."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["x", "axis"], ["sum"], keepdims=1),
            helper.make_node("Add", ["total", "sum"], ["new_total"]),
            helper.make_node("Mul", ["new_total", "scale"], ["y"]),
        ],
        "running",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", CHUNK + CONTEXT]),
            helper.make_tensor_value_info("total", TensorProto.FLOAT, ["N", 1]),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1]),
            helper.make_tensor_value_info("new_total", TensorProto.FLOAT, ["N", 1]),
        ],
        [numpy_helper.from_array(np.array([1], np.int64), "axis")],
    )
    path = tmp_path_factory.mktemp("recurrent") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def load(artifact: Path, **changes: Any) -> Any:
    recurrent = RecurrentConfig(**(SETTINGS | changes))
    return OnnxKind().load(artifact, ModelConfig(name="m", onnx=OnnxConfig(recurrent=recurrent)))


def expected(sequence: np.ndarray[Any, Any]) -> list[float]:
    """The graph's definition over the whole sequence, step by step."""
    padded = np.zeros(CONTEXT + -(-sequence.size // CHUNK) * CHUNK)
    padded[CONTEXT : CONTEXT + sequence.size] = sequence
    steps = range(0, padded.size - CONTEXT, CHUNK)
    return list(3 * np.cumsum([padded[start : start + CONTEXT + CHUNK].sum() for start in steps]))


@given(lengths=st.lists(st.integers(1, 25), min_size=1, max_size=4))
def test_streams_beside_each_other_carry_a_state_each(artifact: Path, lengths: list[int]) -> None:
    container = _loaded(artifact)
    sequences = [np.arange(length, dtype=np.float32) + number for number, length in enumerate(lengths)]
    streams = [container.stream([sequence]) for sequence in sequences]
    found: list[list[float]] = [[] for _ in streams]
    going = list(range(len(streams)))
    while going:  # one step of each in turn
        for number in list(going):
            part = next(streams[number], None)
            if part is None:
                going.remove(number)
            else:
                assert part[0].shape == (1, 1)
                found[number].append(float(part[0][0, 0]))
    assert found == [expected(sequence) for sequence in sequences]


_kept: dict[Path, Any] = {}


def _loaded(artifact: Path) -> Any:
    if artifact not in _kept:
        _kept[artifact] = load(artifact)
    return _kept[artifact]


def test_the_spec_and_the_whole_answer(artifact: Path) -> None:
    container = load(artifact)
    spec = container.spec
    assert spec.streams
    assert not spec.batched
    assert [(tensor.name, tensor.datatype, tensor.shape) for tensor in spec.inputs] == [("x", "FP32", (-1,))]
    assert [(tensor.name, tensor.datatype, tensor.shape) for tensor in spec.outputs] == [("y", "FP32", (-1, 1))]
    sequence = np.arange(10, dtype=np.float32)
    (whole,) = container.execute([sequence])
    np.testing.assert_allclose(whole, np.array(expected(sequence))[:, None])
    with pytest.raises(InvalidInput, match="'x' is empty"):
        container.execute([sequence[:0]])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"input": "z"}, ConfigurationError, "names the input 'z'; the model has 'x', 'total', 'scale'"),
        ({"constants": {}}, ConfigurationError, "does not say what the input 'scale' is"),
        ({"constants": {"scale": 1.0, "x": 1.0}}, ConfigurationError, "names the input 'x' twice"),
        ({"state": {"total": "z"}}, ConfigurationError, "names the output 'z'; the model has 'y', 'new_total'"),
        (
            {"state": {"total": "y", "scale": "new_total"}, "constants": {}},
            ConfigurationError,
            "none is left to answer",
        ),
        ({"input": "scale", "constants": {"x": 1.0}}, ConfigurationError, r"numbers of shape \[1, elements\]"),
        ({"chunk": 5}, ArtifactError, r"two steps over zeros, 2 \+ 5 elements each, do not run"),
        ({"context": 0}, ArtifactError, "do not run"),
    ],
)
def test_settings_that_do_not_fit_the_graph(
    artifact: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load(artifact, **changes)


def test_settings_that_do_not_go_with_it(artifact: Path) -> None:
    recurrent = OnnxConfig(recurrent=RecurrentConfig(**SETTINGS))
    with pytest.raises(ConfigurationError, match="not batched"):
        OnnxKind().load(artifact, ModelConfig(onnx=recurrent, batching=BatchingConfig(max_batch_size=8)))
    with pytest.raises(ConfigurationError, match="leave `inputs` out"):
        OnnxKind().load(artifact, ModelConfig(onnx=recurrent, inputs=(TensorConfig("x"),)))
