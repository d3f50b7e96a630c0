"""The ONNX container: what it loads, what it refuses, what it proves, and that it answers right."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from containers.onnx.container import OnnxKind
from containers.onnx.session import SESSION_OPTIONS, plain, too_old
from loadtests.bench.proc import usage
from serving.contract import BatchingConfig, Container, ContainerKind, ModelConfig, OnnxConfig, TensorConfig, TensorSpec
from serving.datatypes import NUMPY
from serving.errors import ArtifactError, ConfigurationError, InvalidInput, ModelFailure, ServingError
from serving.runtime import profiles
from tests.containers.graphs import ONNX_TYPES, constant, doubled, identity, node, outside, tensor, write

KIND: ContainerKind = OnnxKind()


def load(path: Path, config: ModelConfig | None = None) -> Container:
    return KIND.load(path, config or ModelConfig())


def why_not(path: Path) -> str:
    """Why the model may not be batched; it must not be."""
    spec = load(path).spec
    assert not spec.batched
    return spec.why_not_batched


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model" / "model.onnx"


# ---------------------------------------------------------------- answers


def values(datatype: str) -> np.ndarray[Any, Any]:
    """Two rows of three values, the extremes among them."""
    if datatype == "BYTES":
        return np.array([[b"", b"a\0b", "é".encode()], [b"x" * 300, b"b'x'", b" "]], object)
    if datatype == "BOOL":
        return np.array([[True, False, True], [False, False, True]])
    dtype = NUMPY[datatype]
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return np.array([[limits.min, limits.max, 1], [2, 3, 4]], dtype)
    return np.array([[0.5, -2.25, np.inf], [-np.inf, np.nan, 1e4]]).astype(dtype)


@pytest.mark.parametrize("datatype", sorted(ONNX_TYPES))
def test_every_datatype_goes_through_unchanged(file: Path, datatype: str) -> None:
    container = load(identity(file, datatype))
    assert container.spec.inputs == (TensorSpec(name="x", datatype=datatype, shape=(-1, 3)),)
    assert container.spec.outputs == (TensorSpec(name="y", datatype=datatype, shape=(-1, 3)),)
    assert container.spec.batched, container.spec.why_not_batched
    given = values(datatype)
    given.flags.writeable = False
    (got,) = container.execute([given])
    assert got.dtype == NUMPY[datatype]
    assert got.shape == (2, 3)
    if datatype == "BYTES":
        assert got.tolist() == given.tolist()
    else:
        assert got.tobytes() == given.tobytes()


def test_no_rows_are_no_rows(file: Path) -> None:
    for datatype in ("FP32", "BF16", "BYTES"):
        (got,) = load(identity(file, datatype)).execute([np.empty((0, 3), NUMPY[datatype])])
        assert got.shape == (0, 3)


def test_bfloat16_beside_other_types(file: Path) -> None:
    nodes = [
        node("Cast", "x", "wide", to=TensorProto.FLOAT),
        node("Add", "wide z", "sum"),
        node("Cast", "sum", "text", to=TensorProto.STRING),
        node("Cast", "sum", "narrow", to=TensorProto.BFLOAT16),
    ]
    outputs = [tensor("sum"), tensor("text", datatype="BYTES"), tensor("narrow", datatype="BF16")]
    container = load(write(file, nodes, [tensor("x", datatype="BF16"), tensor("z")], outputs))
    assert container.spec.batched, container.spec.why_not_batched
    x = np.full((2, 3), 1.5, ml_dtypes.bfloat16)
    total, text, narrow = container.execute([x, np.ones((2, 3), np.float32)])
    assert total.tolist() == [[2.5] * 3] * 2
    assert text.tolist() == [[b"2.5"] * 3] * 2
    assert narrow.tolist() == [[2.5] * 3] * 2


def test_inputs_and_outputs_keep_their_order(file: Path) -> None:
    nodes = [node("Sub", "b a", "difference"), node("Sub", "a b", "negated")]
    container = load(write(file, nodes, [tensor("b"), tensor("a")], [tensor("negated"), tensor("difference")]))
    assert [spec.name for spec in container.spec.inputs] == ["b", "a"]
    negated, difference = container.execute([np.full((1, 3), 5, np.float32), np.full((1, 3), 3, np.float32)])
    assert negated.tolist() == [[-2.0] * 3]
    assert difference.tolist() == [[2.0] * 3]


def test_a_scalar_input_is_served_unbatched(file: Path) -> None:
    path = write(file, [node("Mul", "x s", "y")], [tensor("x"), tensor("s", ())], [tensor("y")])
    container = load(path)
    assert container.spec.why_not_batched == "input 's' is a scalar, which has no dimension that counts rows"
    (got,) = container.execute([np.ones((2, 3), np.float32), np.array(3, np.float32)])
    assert got.tolist() == [[3.0] * 3] * 2


# ---------------------------------------------------------------- faults while it runs


def gather(path: Path) -> Path:
    """Looks indices up in three weights: an index over 2 is a fault of the run."""
    weights = [constant("table", [10, 20, 30])]
    return write(path, [node("Gather", "table x", "y")], [tensor("x", ["N"], "INT64")], [tensor("y", ["N"])], weights)


def test_a_failure_is_told_on_one_line_without_paths(file: Path) -> None:
    container = load(gather(file))
    assert container.spec.batched, container.spec.why_not_batched
    with pytest.raises(ModelFailure) as caught:
        container.execute([np.array([7])])
    message = caught.value.message
    assert message.startswith("the model failed while it ran: ")
    assert "idx=7" in message
    assert "\n" not in message
    assert "/" not in message
    assert caught.value.__cause__ is not None
    assert container.execute([np.array([2])])[0].tolist() == [30.0]


def test_text_that_is_not_utf8_is_the_callers_fault(file: Path) -> None:
    container = load(identity(file, "BYTES", ["N"]))
    with pytest.raises(InvalidInput, match=r"element 1 of input 'x' is not UTF-8 \(invalid start byte at byte 2\)"):
        container.execute([np.array([b"fine", b"ab\xff"], object)])


def test_source_paths_and_the_directory_are_left_out(tmp_path: Path) -> None:
    said = f"[ONNXRuntimeError] : 1 : FAIL : Load {tmp_path}/m.onnx failed:/src/a/core/graph.cc:12 what\n(int)  x"
    assert plain(RuntimeError(said), tmp_path) == "Load m.onnx failed:graph.cc:12 what (int) x"
    assert len(plain(RuntimeError("x" * 5000))) < 700


def test_nothing_runs_after_close(file: Path) -> None:
    container = load(doubled(file))
    container.close()
    with pytest.raises(ModelFailure, match="closed"):
        container.execute([np.ones((1, 3), np.float32)])


# ---------------------------------------------------------------- the proof of batching


def mean_over_rows(path: Path) -> Path:
    nodes = [node("ReduceMean", "x axis", "mean", keepdims=1), node("Sub", "x mean", "y")]
    return write(path, nodes, [tensor("x")], [tensor("y")], [constant("axis", [0], np.int64)])


def flattened(path: Path) -> Path:
    """Answers [3 N] values: rows merged into one dimension."""
    weights = [constant("shape", [-1], np.int64)]
    return write(path, [node("Reshape", "x shape", "y")], [tensor("x")], [tensor("y", ["M"])], weights)


def summed(path: Path) -> Path:
    weights = [constant("axis", [0], np.int64)]
    return write(path, [node("ReduceSum", "x axis", "y", keepdims=1)], [tensor("x")], [tensor("y")], weights)


def fixed_reshape(path: Path) -> Path:
    """Takes any number of rows by its signature, and one row by its reshape."""
    nodes = [node("Reshape", "x shape", "flat"), node("Reshape", "flat back", "z"), node("Add", "z x", "y")]
    weights = [constant("shape", [3], np.int64), constant("back", [1, 3], np.int64)]
    return write(path, nodes, [tensor("x")], [tensor("y")], weights)


def squeezed(path: Path) -> Path:
    """A lone row loses its first dimension."""
    return write(path, [node("Squeeze", "x", "y")], [tensor("x")], [tensor("y", None)])


def random(path: Path) -> Path:
    nodes = [node("RandomNormalLike", "x", "noise"), node("Add", "x noise", "y")]
    return write(path, nodes, [tensor("x")], [tensor("y")])


def gathered_far(path: Path) -> Path:
    """Runs with indices from 100 only, which no probe has."""
    nodes = [node("Sub", "x hundred", "less"), node("Cast", "less", "i", to=TensorProto.UINT8)]
    nodes = [node("GatherElements", "table x", "y", axis=0)]
    return write(path, nodes, [tensor("x", ["N"], "INT64")], [tensor("y", ["N"])], [constant("table", [])])


def quantised_over_the_batch(path: Path) -> Path:
    nodes = [node("DynamicQuantizeLinear", "x", "q scale zero"), node("DequantizeLinear", "q scale zero", "y")]
    return write(path, nodes, [tensor("x")], [tensor("y")])


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (
            lambda path: write(path, [node("Softmax", "x", "y", axis=0)], [tensor("x")], [tensor("y")]),
            "rows influence each other",
        ),
        (mean_over_rows, "rows influence each other"),
        (quantised_over_the_batch, "rows influence each other"),
        (flattened, "output 'y' has 6 rows for 2 input rows and 3 rows for 1"),
        (summed, "the first dimension of output 'y' is fixed at 1"),
        (fixed_reshape, "it runs with 1 row but not with 2: "),
        (squeezed, "output 'y' has shape [3] for 1 input row"),
        (random, "output 'y' differs from run to run for the same row"),
        (gathered_far, "it could not be tried out"),
        (lambda path: identity(path, shape=[1, 3]), "the first dimension of input 'x' is fixed at 1"),
        (lambda path: identity(path, shape=[4]), "the first dimension of input 'x' is fixed at 4"),
        (lambda path: identity(path, shape=[]), "input 'x' is a scalar"),
        (lambda path: identity(path, "BYTES", shape=[2]), "the first dimension of input 'x' is fixed at 2"),
        (
            lambda path: write(path, [node("Size", "x", "y")], [tensor("x")], [tensor("y", (), "INT64")]),
            "output 'y' is a scalar whatever the number of rows",
        ),
    ],
)
def test_what_cannot_be_batched_is_told_why(file: Path, build: Callable[[Path], Path], reason: str) -> None:
    assert why_not(build(file)).startswith(reason)


def test_asking_for_batches_that_cannot_be_is_an_error(file: Path) -> None:
    config = ModelConfig(batching=BatchingConfig(max_batch_size=8))
    with pytest.raises(ConfigurationError, match="max_batch_size is 8, but the model cannot be batched: the first dim"):
        load(summed(file), config)
    assert not load(summed(file), ModelConfig(batching=BatchingConfig(max_batch_size=1))).spec.batched


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(
            lambda path: write(path, [node("Softmax", "x", "y", axis=1)], [tensor("x")], [tensor("y")]),
            id="row softmax",
        ),
        pytest.param(
            lambda path: write(
                path,
                [node("Conv", "x k", "y")],
                [tensor("x", ["N", 1, "H", "W"])],
                [tensor("y", ["N", 1, None, None])],
                [constant("k", np.ones((1, 1, 20, 20)))],
            ),
            id="sizes from 20",
        ),
        pytest.param(
            lambda path: write(
                path,
                [node("Mul", "x mask", "y")],
                [tensor("x", ["N", "S"]), tensor("mask", ["M", "S"])],
                [tensor("y", ["N", "S"])],
            ),
            id="two inputs",
        ),
        pytest.param(
            lambda path: write(
                path,
                [node("Gather", "table x", "y")],
                [tensor("x", ["N", "S"], "INT64")],
                [tensor("y", ["N", "S"])],
                [constant("table", [1.0, 2.0])],
            ),
            id="tiny vocabulary",
        ),
        pytest.param(
            lambda path: write(
                path,
                [node("Cast", "x", "y", to=TensorProto.FLOAT)],
                [tensor("x", ["N"], "BYTES")],
                [tensor("y", ["N"])],
            ),
            id="text that must be a number",
        ),
        pytest.param(
            lambda path: write(path, [node("Div", "x x", "y")], [tensor("x")], [tensor("y")]),
            id="not a number for zeros",
        ),
    ],
)
def test_what_can_be_batched_is_proved(file: Path, build: Callable[[Path], Path]) -> None:
    spec = load(build(file)).spec
    assert spec.batched, spec.why_not_batched


def test_the_shape_of_an_output_that_the_graph_leaves_open_is_found(file: Path) -> None:
    path = write(file, [node("Relu", "x", "y")], [tensor("x", None)], [tensor("y", None)])
    config = ModelConfig(inputs=(TensorConfig(name="x", shape=(-1, 5)),))
    spec = load(path, config).spec
    assert spec.inputs[0].shape == (-1, 5)
    assert spec.outputs[0].shape == (-1, -1)
    assert spec.batched, spec.why_not_batched


# ---------------------------------------------------------------- signatures


def sequence(path: Path) -> Path:
    output = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    return write(path, [node("SequenceConstruct", "x", "s")], [tensor("x")], [output])


def float8(path: Path) -> Path:
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT8E4M3FN, ["N", 3])
    return write(path, [node("Cast", "x", "y", to=TensorProto.FLOAT8E4M3FN)], [tensor("x")], [output])


def optional(path: Path) -> Path:
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, ["N"]))
    nodes = [node("OptionalGetElement", "x", "y")]
    return write(path, nodes, [onnx.ValueInfoProto(name="x", type=kind)], [tensor("y", ["N"])])


def four_bits(path: Path) -> Path:
    output = helper.make_tensor_value_info("y", TensorProto.INT4, ["N", 3])
    return write(path, [node("Cast", "x", "y", to=TensorProto.INT4)], [tensor("x")], [output])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (sequence, r"output 's' is seq\(tensor\(float\)\); only tensors of BOOL, .*zipmap"),
        (float8, r"output 'y' is tensor\(float8e4m3fn\); only tensors of"),
        (optional, r"input 'x' is optional\(tensor\(float\)\); only tensors of"),
        (four_bits, r"output 'y' is tensor\(int4\); only tensors of"),
        (
            lambda path: write(path, [], [], [tensor("w", [3])], [constant("w", [1, 2, 3])]),
            "the model has no input",
        ),
        (
            lambda path: write(
                path,
                [node("Identity", "x", "y"), node("Identity", "s", "t")],
                [tensor("x", datatype="BF16"), tensor("s", datatype="BYTES")],
                [tensor("y", datatype="BF16"), tensor("t", datatype="BYTES")],
            ),
            "both a string input and a bfloat16 tensor",
        ),
    ],
)
def test_types_outside_the_protocol_are_refused_by_name(
    file: Path, build: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        load(build(file))
    assert str(file) in caught.value.message


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (TensorConfig(name="z"), "input 'z' is not in the model, which has 'x'"),
        (TensorConfig(name="x", datatype="INT64"), "input 'x' is INT64; the model's is FP32"),
        (TensorConfig(name="x", shape=(-1, 4)), r"input 'x' has shape \[-1, 4\]; the model's is \[-1, 3\]"),
        (TensorConfig(name="x", shape=(-1, -1)), r"input 'x' has shape \[-1, -1\]"),
        (TensorConfig(name="x", shape=(3,)), r"input 'x' has shape \[3\]"),
        (TensorConfig(name="x", features=("a", "b")), "input 'x' has 2 features; the model has 3 columns"),
    ],
)
def test_a_configuration_that_does_not_fit_is_an_error(file: Path, said: TensorConfig, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(doubled(file), ModelConfig(inputs=(said,)))


def test_an_input_told_twice_is_an_error(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="'x' is there twice"):
        load(doubled(file), ModelConfig(inputs=(TensorConfig(name="x"), TensorConfig(name="x"))))


def test_what_the_operator_says_of_tensors_is_in_the_spec(file: Path) -> None:
    config = ModelConfig(
        inputs=(TensorConfig(name="x", datatype="FP32", shape=(-1, 3), features=("a", "b", "c")),),
        outputs=(TensorConfig(name="y", labels=("l", "m", "n")),),
    )
    spec = load(doubled(file), config).spec
    assert spec.inputs[0].features == ("a", "b", "c")
    assert spec.outputs[0].labels == ("l", "m", "n")
    narrowed = load(identity(file, shape=["N", "S"]), ModelConfig(inputs=(TensorConfig(name="x", shape=(-1, 7)),))).spec
    assert narrowed.inputs[0].shape == (-1, 7)


# ---------------------------------------------------------------- session settings


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (OnnxConfig(execution_mode="fast"), "execution_mode is 'fast'; one of parallel, sequential was expected"),
        (OnnxConfig(graph_optimization_level="99"), "graph_optimization_level is '99'; one of all, basic, disabled"),
        (OnnxConfig(providers=()), "providers is empty"),
        (OnnxConfig(providers=("CUDAExecutionProvider",)), "names CUDAExecutionProvider, which this onnxruntime"),
        (
            OnnxConfig(providers=("CPUExecutionProvider", "Nope")),
            "names Nope, which this onnxruntime .* not built with",
        ),
        (OnnxConfig(session_options={"session.foo": "1"}), "'session.foo', which may not be set there"),
        (OnnxConfig(session_options={"session.enable_profiling": "1"}), "may not be set there"),
        (OnnxConfig(session_options={"session.optimized_model_filepath": "/tmp/x"}), "may not be set there"),
        (OnnxConfig(session_options={"session.custom_op_library": "/tmp/x.so"}), "may not be set there"),
        (OnnxConfig(session_options={"ep.context_file_path": "/tmp/x"}), "may not be set there"),
        (OnnxConfig(session_options={"session.set_denormal_as_zero": "1"}), "would change the answers of other models"),
    ],
)
def test_settings_that_cannot_be_honoured_are_errors(file: Path, config: OnnxConfig, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(doubled(file), ModelConfig(onnx=config))


def test_no_session_option_names_a_file_or_a_library() -> None:
    words = ("file", "path", "library", "profil", "folder")
    assert [name for name in SESSION_OPTIONS if any(word in name for word in words)] == []


@pytest.mark.parametrize(
    "config",
    [
        OnnxConfig(execution_mode="parallel", graph_optimization_level="disabled", intra_op_threads=2),
        OnnxConfig(graph_optimization_level="extended", session_options={"session.disable_prepacking": "1"}),
        OnnxConfig(session_options={"session.intra_op.allow_spinning": "1"}),
    ],
)
def test_settings_that_can_be_honoured(file: Path, config: OnnxConfig) -> None:
    (got,) = load(doubled(file), ModelConfig(onnx=config)).execute([np.ones((1, 3), np.float32)])
    assert got.tolist() == [[2.0] * 3]


def test_without_onnxruntime_it_says_what_to_install(file: Path) -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from pathlib import Path; from containers.onnx.container import OnnxKind\n"
        "from serving.contract import ModelConfig; from serving.errors import MissingExtra\n"
        "try: OnnxKind().load(Path(sys.argv[1]), ModelConfig())\n"
        "except MissingExtra as error: print(error.message)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(doubled(file))], capture_output=True, text=True, check=True)
    assert "pip install 'serving[onnx]'" in done.stdout


def test_versions_that_are_not_safe_are_refused() -> None:
    assert [too_old(version) for version in ("1.23.2", "1.9.0", "1.24.3")] == [True] * 3
    assert [too_old(version) for version in ("1.24.4", "1.31.1", "1.32.0.dev20260101", "2.0.0rc1")] == [False] * 4


def test_the_module_itself_needs_no_onnxruntime() -> None:
    code = "import sys, containers.onnx.container; print('onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"not a model", b"\x08\x0a"])
def test_what_is_not_a_model_is_told_so(file: Path, content: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match="cannot be loaded by ONNX Runtime") as caught:
        load(file)
    assert "\n" not in caught.value.message


def test_a_truncated_model_is_told_so(file: Path) -> None:
    content = gather(file).read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        load(file)


def with_weights_at(path: Path, location: str) -> Path:
    return write(path, [node("Add", "x w", "y")], [tensor("x")], [tensor("y")], [outside(location)])


def test_external_data_inside_the_directory_is_read(file: Path) -> None:
    with_weights_at(file, "weights/w.bin")
    (file.parent / "weights").mkdir()
    (file.parent / "weights" / "w.bin").write_bytes(np.array([1, 2, 3], np.float32).tobytes())
    (got,) = load(file).execute([np.zeros((1, 3), np.float32)])
    assert got.tolist() == [[1.0, 2.0, 3.0]]


def link(target: str, name: str, directory: Path) -> str:
    (directory / name).symlink_to(target)
    return name


@pytest.mark.parametrize("place", ["initializer", "constant", "subgraph"])
@pytest.mark.parametrize("how", ["dots", "absolute", "link", "linked directory", "memory", "missing"])
def test_external_data_cannot_leave_the_directory(file: Path, how: str, place: str) -> None:
    secret = file.parent.parent / "secret.bin"
    file.parent.mkdir()
    secret.write_bytes(np.array([1, 2, 3], np.float32).tobytes())
    location = {
        "dots": lambda: "../secret.bin",
        "absolute": lambda: str(secret),
        "link": lambda: link("../secret.bin", "w.bin", file.parent),
        "linked directory": lambda: f"{link('..', 'up', file.parent)}/secret.bin",
        "memory": lambda: "*/_ORT_MEM_ADDR_/*",
        "missing": lambda: "w.bin",
    }[how]()
    inputs, outputs, add = [tensor("x")], [tensor("y")], node("Add", "x w", "y")
    if place == "initializer":
        with_weights_at(file, location)
    elif place == "constant":
        write(file, [node("Constant", "", "w", value=outside(location)), add], inputs, outputs)
    else:
        then = helper.make_graph([add], "then", [], [tensor("y")], [outside(location)])
        other = helper.make_graph([node("Identity", "x", "z")], "other", [], [tensor("z")])
        choice = node("If", "c", "y", then_branch=then, else_branch=other)
        write(file, [choice], [*inputs, tensor("c", (), "BOOL")], outputs)
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        load(file)


def test_a_relative_path_reads_external_data_beside_the_file(file: Path) -> None:
    with_weights_at(file, "w.bin")
    (file.parent / "w.bin").write_bytes(np.zeros(3, np.float32).tobytes())
    with contextlib.chdir(file.parent):
        assert load(Path("model.onnx")).spec.batched


def test_the_file_to_load_is_found(tmp_path: Path) -> None:
    assert KIND.artifact(tmp_path) is None
    assert KIND.artifact(tmp_path / "missing") is None
    (tmp_path / "._net.onnx").touch()
    (tmp_path / "notes.txt").touch()
    assert KIND.artifact(tmp_path) is None
    assert KIND.artifact(tmp_path / "notes.txt") is None
    (tmp_path / "net.onnx").touch()
    assert KIND.artifact(tmp_path) == tmp_path / "net.onnx"
    assert KIND.artifact(tmp_path / "net.onnx") == tmp_path / "net.onnx"
    (tmp_path / "other.onnx").touch()
    with pytest.raises(ArtifactError, match=r"2 \.onnx files \(net\.onnx, other\.onnx\); name the one to serve model"):
        KIND.artifact(tmp_path)
    (tmp_path / "model.onnx").touch()
    assert KIND.artifact(tmp_path) == tmp_path / "model.onnx"


def test_nothing_is_written_to_stderr_by_a_load_that_fails(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for build in (gathered_far, fixed_reshape, summed, sequence):
        with contextlib.suppress(ServingError):
            load(build(file))
    for config in (OnnxConfig(providers=("CUDAExecutionProvider",)), OnnxConfig(execution_mode="x")):
        with contextlib.suppress(ServingError):
            load(doubled(file), ModelConfig(onnx=config))
    assert capfd.readouterr() == ("", "")


def test_what_a_container_holds_is_freed(file: Path) -> None:
    weights = [constant("w", np.ones((3, 500_000)))]
    write(file, [node("MatMul", "x w", "y")], [tensor("x")], [tensor("y", ["N", 500_000])], weights)
    page = os.sysconf("SC_PAGE_SIZE")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page

    # The allocator keeps some of what was freed; a leak would be another 6 MB with every load.
    for _ in range(6):
        load(file).close()
    before = resident()
    for _ in range(10):
        load(file).close()
    assert resident() - before < 40_000_000


# ---------------------------------------------------------------- what is known, and what is left


def resident() -> int:
    found = usage(os.getpid())
    assert found is not None
    return found.rss_bytes


def softmax_over_rows(path: Path) -> Path:
    """A model whose rows influence each other."""
    return write(path, [node("Softmax", "x", "y", axis=0)], [tensor("x")], [tensor("y")])


def test_what_is_known_is_not_proved_again(file: Path) -> None:
    proved = load(identity(file)).spec
    # A spec that the proof would refute is only taken by who does not prove.
    container = KIND.load(softmax_over_rows(file), ModelConfig(), proved)
    assert container.spec == proved
    assert KIND.load(file, ModelConfig()).spec.why_not_batched.startswith("rows influence each other")


@pytest.mark.parametrize(
    "known",
    [
        {"inputs": (TensorSpec("x", "FP32", (-1, 4)),)},
        {"inputs": (TensorSpec("x", "FP64", (-1, 3)),)},
        {"inputs": (TensorSpec("z", "FP32", (-1, 3)),)},
        {"inputs": ()},
        {"outputs": (TensorSpec("y", "FP32", (-1,)),)},
        {"outputs": (TensorSpec("y", "FP32", (-1, 3)),) * 2},
        {"outputs": ()},
        {"platform": "other"},
        {"piece_rows": 7},
        {"streams": True},
    ],
)
def test_what_is_known_of_another_file_is_proved_again(file: Path, known: dict[str, Any]) -> None:
    proved = load(identity(file)).spec
    assert KIND.load(file, ModelConfig(), msgspec.structs.replace(proved, **known)).spec == proved
    refuted = KIND.load(softmax_over_rows(file), ModelConfig(), msgspec.structs.replace(proved, **known)).spec
    assert not refuted.batched


def test_a_rank_that_only_runs_tell_may_be_known(file: Path) -> None:
    nodes = [
        node("Shape", "x", "shape"),
        node("ReduceMax", "x", "largest", keepdims=0),
        node("Mul", "largest zero", "nothing"),
        node("Add", "nothing two", "end"),
        node("Cast", "end", "whole", to=TensorProto.INT64),
        node("Slice", "shape start whole", "again"),
        node("Reshape", "x again", "y"),
    ]
    weights = [constant("zero", [0]), constant("two", [2]), constant("start", [0], np.int64)]
    path = write(file, nodes, [tensor("x")], [tensor("y", None)], weights)
    proved = load(path).spec
    assert proved.batched, proved.why_not_batched
    assert proved.outputs[0].shape == (-1, -1)
    again = msgspec.structs.replace(proved, batched=False, why_not_batched="it is taken as it is")
    assert KIND.load(path, ModelConfig(), again).spec == again


def test_settings_that_what_is_known_refutes_are_refused(file: Path) -> None:
    proved = load(softmax_over_rows(file)).spec
    with pytest.raises(ConfigurationError, match="cannot be batched: rows influence each other"):
        KIND.load(file, ModelConfig(batching=BatchingConfig(max_batch_size=4)), proved)


def test_weights_in_another_file_are_part_of_what_was_proved(file: Path) -> None:
    weights = file.parent / "w.bin"
    file.parent.mkdir()
    weights.write_bytes(np.array([1, 2, 3], np.float32).tobytes())
    graph = [node("Mul", "x w", "y")]
    write(file, graph, [tensor("x")], [tensor("y")], [outside("w.bin")])
    place = profiles.place("onnx", file, ModelConfig())
    assert place is not None
    assert set(profiles.files(place) or ()) == {"model.onnx", "w.bin"}


def test_what_the_largest_run_took_is_free_again(file: Path) -> None:
    small = load(identity(file.with_name("small") / "model.onnx"))
    path = write(
        file,
        [node("Exp", "x", "e"), node("Exp", "e", "y")],
        [tensor("x", ("N", 1_000_000))],
        [tensor("y", ("N", 1_000_000))],
    )
    container = load(path, ModelConfig(warmup=False))
    rows = np.zeros((30, 1_000_000), np.float32)
    before = resident()
    container.execute([rows])
    container.close()
    assert resident() - before < 20_000_000
    (got,) = small.execute([np.ones((2, 3), np.float32)])
    assert got.tolist() == [[1.0] * 3] * 2


def test_models_share_what_they_compute_with(file: Path) -> None:
    path = write(
        file,
        [node("Exp", "x", "e"), node("Exp", "e", "y")],
        [tensor("x", ("N", 1_000_000))],
        [tensor("y", ("N", 1_000_000))],
    )
    rows = np.zeros((4, 1_000_000), np.float32)
    containers = [load(path) for _ in range(12)]
    containers[0].execute([rows])
    before = resident()
    for container in containers[1:]:
        container.execute([rows])
    assert resident() - before < 60_000_000
