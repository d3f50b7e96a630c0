"""`serving check`: what a person reads of a model that is served, and of one that is not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from serving.cli.check import check as command
from tests.containers.graphs import doubled, identity, node, tensor, write


def check(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_a_model_that_is_served(tmp_path: Path) -> None:
    path = doubled(tmp_path / "fraud" / "model.onnx")
    (path.parent / "model.yaml").write_text(
        "version: 4\nbatching: {max_batch_size: 8, max_queue_delay_us: 50}\nonnx: {intra_op_threads: 2}\n"
        "inputs: [{name: x, features: [a, b, c]}]\n"
    )
    result = check(path.parent)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "fraud: served, version 4",
        f"  artifact  {path}",
        "  container onnx (onnxruntime_onnx)",
        "  input     x FP32[any, 3], features a, b, c",
        "  output    y FP32[any, 3]",
        "  batching  up to 8 rows of different requests run together, waiting up to 50 us",
        "  settings  batching.max_batch_size=8, batching.max_queue_delay_us=50, onnx.intra_op_threads=2",
    ]


def test_a_model_that_cannot_be_batched_is_told_why(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", [node("Softmax", "x", "y", axis=0)], [tensor("x")], [tensor("y")])
    result = check(path)
    assert result.exit_code == 0, result.output
    assert "  batching  no: rows influence each other" in result.output
    assert "  settings  all as by default" in result.output


def test_an_archive_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doubled(tmp_path / "in" / "model.onnx")
    archive = tmp_path / "m.tar.gz"
    subprocess.run(["tar", "-czf", archive, "-C", tmp_path / "in", "."], check=True)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    result = check(archive, "--name", "other")
    assert result.exit_code == 0, result.output
    assert "other: served, version 1" in result.output
    assert f"  artifact  {archive}" in result.output
    assert list(scratch.iterdir()) == []


def test_triton_warnings_and_names_are_shown(tmp_path: Path) -> None:
    path = identity(tmp_path / "net_onnx" / "1" / "model.onnx")
    (tmp_path / "net_onnx" / "config.pbtxt").write_text(
        'max_batch_size: 4 input { name: "x" data_type: TYPE_FP32 dims: 3 }'
    )
    result = check(path.parents[1])
    assert result.exit_code == 0, result.output
    assert "  batching  off: each request runs alone" in result.output
    assert "  warning   config.pbtxt: there is no dynamic_batching" in result.output
    assert "  warning   'net_onnx' is no SageMaker endpoint name" in result.output


def test_a_folder_of_models_is_checked_whole(tmp_path: Path) -> None:
    doubled(tmp_path / "a" / "model.onnx")
    doubled(tmp_path / "b.onnx")
    doubled(tmp_path / "c.onnx")
    result = check(tmp_path)
    assert [line for line in result.output.splitlines() if "served" in line] == [
        "a: served, version 1",
        "b: served, version 1",
        "c: served, version 1",
    ]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda path: path / "gone", "there is no such file or directory"),
        (lambda path: path, "holds no model"),
        (lambda path: (path / "m.onnx").write_text("text") and path / "m.onnx", "cannot be loaded by ONNX Runtime"),
        (lambda path: (path / "m.tar.gz").write_text("text") and path / "m.tar.gz", "is not a gzip file"),
        (
            lambda path: (
                (doubled(path / "m" / "model.onnx").parent / "model.yaml").write_text("slotz: 1") and path / "m"
            ),
            "unknown field slotz",
        ),
        (
            lambda path: (
                (identity(path / "m" / "model.onnx", shape=[1, 3]).parent / "model.yaml").write_text(
                    "batching: {max_batch_size: 4}"
                )
                and path / "m"
            ),
            "max_batch_size is 4, but the model cannot be batched: the first dimension of input 'x' is fixed at 1",
        ),
        (
            lambda path: (
                (doubled(path / "m" / "model.onnx").parent / "model.yaml").write_text(
                    "batching: {max_batch_size: 4, preferred_batch_sizes: [8]}"
                )
                and path / "m"
            ),
            "8",
        ),
    ],
)
def test_what_is_not_served_is_told_in_one_line(tmp_path: Path, build: object, message: str) -> None:
    assert callable(build)
    result = check(build(tmp_path))
    assert result.exit_code == 1
    assert message in result.output
    assert len(result.output.splitlines()) == 1
    assert result.output.startswith("Error: ")
