"""ONNX's node cases: how they are read, compared and asked, on small cases made here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from loadtests.onnx_cases import deployment, direct
from loadtests.onnx_cases.__main__ import run
from loadtests.onnx_cases.case import Excluded, Tensor, difference, read
from loadtests.onnx_cases.deployment import GRPC, REST, TYPED
from loadtests.onnx_cases.report import DIRECT, Report
from loadtests.onnx_cases.wire import Refused, raw
from loadtests.onnx_cases.wire import read as unpacked
from serving.contract import Array
from serving.datatypes import BYTES, NUMPY
from tests.support import onnx_models
from tests.support.onnx_models import ELEMENT_TYPES


def case(
    data: Path,
    name: str,
    value: Array,
    element: int = TensorProto.FLOAT,
    expected: Array | None = None,
    node: str = "Identity",
    shape: Sequence[int | str] | None = None,
) -> Path:
    """A case in the layout of ONNX's own: one node from `x` to `y`, and what it is to make of `value`."""
    folder = data / "node" / name
    (folder / "test_data_set_0").mkdir(parents=True)
    shape = value.shape if shape is None else shape
    graph = helper.make_graph(
        [helper.make_node(node, ["x"], ["y"])],
        name,
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info("y", element, shape)],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", onnx_models.OPSET)], ir_version=onnx_models.IR_VERSION
    )
    onnx.save(model, folder / "model.onnx")
    for role, array in (("input", value), ("output", value if expected is None else expected)):
        onnx.save_tensor(numpy_helper.from_array(array), folder / "test_data_set_0" / f"{role}_0.pb")
    return folder


VALUES: dict[str, Array] = {
    datatype: np.array([[1, 0, 1], [0, 1, 0]]).astype(dtype) for datatype, dtype in NUMPY.items() if datatype != BYTES
} | {BYTES: np.array([["one", "", "größer"]], object)}


def test_every_datatype_is_read(tmp_path: Path) -> None:
    for datatype, value in VALUES.items():
        found = read(case(tmp_path, datatype, value, ELEMENT_TYPES[datatype]))
        ((given,), (right,)) = found.questions[0].inputs, found.questions[0].outputs
        assert (given.name, given.datatype, right.name) == ("x", datatype, "y")
        assert given.array.shape == value.shape
        assert direct.ask(found) == ""


def test_what_the_protocol_lacks_is_excluded(tmp_path: Path) -> None:
    with pytest.raises(Excluded, match="input is complex64"):
        read(case(tmp_path, "complex", np.zeros(2, np.complex64), TensorProto.COMPLEX64))
    folder = case(tmp_path, "sequence", np.zeros(2, np.float32))
    model = onnx.load(folder / "model.onnx")
    sequence = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, [2])
    model.graph.output[0].CopyFrom(sequence)
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(Excluded, match="output is of sequence type"):
        read(folder)
    model.graph.ClearField("input")
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(Excluded):
        read(folder)


def test_what_onnxruntime_cannot_load_is_excluded(tmp_path: Path) -> None:
    folder = case(tmp_path, "unknown", np.zeros(2, np.float32), node="NoSuchOperator")
    with pytest.raises(Excluded, match=r"onnxruntime cannot load it: .*NoSuchOperator"):
        direct.ask(read(folder))


def tensor(array: Any, datatype: str = "FP32", name: str = "y") -> Tensor:
    return Tensor(name, datatype, np.asarray(array, NUMPY[datatype]))


@pytest.mark.parametrize(
    ("got", "said"),
    [
        (tensor([1.0, 2.0 + 1e-4, np.nan]), ""),
        (tensor([1.0, 2.01, np.nan]), "y differs in 1 of 3 elements"),
        (tensor([1.0, 2.0, 0.0]), "y differs in 1 of 3 elements"),
        (tensor([[1.0, 2.0, np.nan]]), r"y has shape [1, 3], [3] expected"),
        (tensor([1.0, 2.0, np.nan], "FP64"), "y is FP64, FP32 expected"),
        (tensor([1.0, 2.0, np.nan], name="z"), "outputs ['z'], ['y'] expected"),
    ],
)
def test_differences(got: Tensor, said: str) -> None:
    assert difference([tensor([1.0, 2.0, np.nan])], [got], 1e-3, 1e-7) == said


@given(st.lists(st.binary(max_size=9), max_size=9))
def test_bytes_come_back_from_the_wire(elements: list[bytes]) -> None:
    array = np.empty(len(elements), object)
    array[:] = elements
    assert unpacked(raw(Tensor("x", BYTES, array)), BYTES, [len(elements)]).tolist() == elements


@pytest.mark.parametrize(("data", "datatype", "shape"), [(b"1234", "FP64", [1]), (b"\2\0\0\0a", BYTES, [2])])
def test_bytes_that_do_not_fit_their_shape(data: bytes, datatype: str, shape: list[int]) -> None:
    with pytest.raises(Refused):
        unpacked(data, datatype, shape)


@pytest.mark.parametrize("transport", ["grpcio", "h2corn"])
def test_a_server_answers_as_onnxruntime_does(tmp_path: Path, transport: str) -> None:
    for datatype, value in VALUES.items():
        case(tmp_path, f"of {datatype}", value, ELEMENT_TYPES[datatype])
    case(tmp_path, "scalar", np.array(2.5, np.float32))
    case(tmp_path, "empty", np.zeros((0, 3), np.float32))
    case(tmp_path, "wrong", np.ones(3, np.float32), expected=np.zeros(3, np.float32))
    case(tmp_path, "excluded", np.zeros(2, np.complex64), TensorProto.COMPLEX64)
    report = Report({})
    run(tmp_path, "", transport, report)
    assert report.asked == [DIRECT, REST, GRPC, TYPED]
    assert not report.differences
    assert set(report.wrong) - report.passed(GRPC) == {"wrong"}
    assert report.wrong["wrong"] == dict.fromkeys(report.asked, "y differs in 3 of 3 elements")
    assert report.excluded == {"excluded": "input is complex64"}


def test_a_model_that_is_not_loaded_is_wrong_over_every_face(tmp_path: Path) -> None:
    asked = read(case(tmp_path, "broken", np.zeros(2, np.float32)))
    asked.model.write_bytes(b"no model")
    ((_, answers),) = deployment.ask([asked], "")
    assert list(answers) == [REST]
    assert "it is not loaded: " in answers[REST]


def test_a_report_names_differences_and_exclusions() -> None:
    report = Report({"onnx": "1"})
    report.wrong = {
        "a": {DIRECT: "", REST: ""},
        "b": {DIRECT: "", REST: "it is refused: no"},
        "c": {DIRECT: "x", REST: "y"},
    }
    report.excluded = {"d": "input is int4", "e": "input is int4"}
    assert report.differences == {"b": {DIRECT: "", REST: "it is refused: no"}}
    text = report.markdown()
    assert "5 cases, 2 excluded, 3 asked" in text
    assert "| onnxruntime | 2 | 1 |" in text
    assert "- b: onnxruntime: right; REST binary: it is refused: no" in text
    assert "| input is int4 | 2 |" in text
    assert json.loads(report.json())["passed"] == {DIRECT: 2, REST: 1}
