"""Models whose answers tell which of them answered, and what changes them while they are served."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from tests.support.onnx_models import write


def adder(file: Path, number: float, width: int = 4) -> Path:
    """`x` FP32[N,width] comes back as `y`, with `number` added."""
    nodes = [helper.make_node("Add", ["x", "number"], ["y"])]
    shape = ("N", width)
    return write(file, [("x", "FP32", shape)], [("y", "FP32", shape)], nodes, number=np.array(number, np.float32))


def heavy(file: Path, number: float, weights: int) -> Path:
    """An `adder` of rows of four with so many bytes of weights, all zero, of which one is added too."""
    nodes = [
        helper.make_node("Mul", ["x", "nothing"], ["zero"]),
        helper.make_node("Cast", ["zero"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["weights", "index"], ["weight"]),
        helper.make_node("Add", ["x", "number"], ["sum"]),
        helper.make_node("Add", ["sum", "weight"], ["y"]),
    ]
    shape = ("N", 4)
    return write(
        file,
        [("x", "FP32", shape)],
        [("y", "FP32", shape)],
        nodes,
        weights=np.zeros(weights // 4, np.float32),
        number=np.array(number, np.float32),
        nothing=np.array(0, np.float32),
    )


def replace(file: Path, number: float) -> None:
    """Puts another `adder` in the place of one, at once."""
    other = adder(file.with_name(f".{file.name}.new"), number)
    other.rename(file)


def overwrite(file: Path, content: bytes) -> None:
    """Writes other content into the very file, as a careless copy does."""
    with file.open("r+b") as stream:
        stream.truncate(0)
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def version(model: Path, number: int) -> Path:
    """Adds a version directory, at once, whose model adds its number; gives the directory."""
    made = model.parent / f".{model.name}-{number}"
    adder(made / "model.onnx", number)
    model.mkdir(exist_ok=True)
    made.rename(model / str(number))
    return model / str(number)


def broken(model: Path, number: int) -> Path:
    """Adds a version directory whose model cannot be loaded."""
    made = model.parent / f".{model.name}-{number}"
    made.mkdir()
    (made / "model.onnx").write_bytes(b"this is no graph")
    made.rename(model / str(number))
    return model / str(number)


def remove(path: Path) -> None:
    """Deletes a model or a version."""
    shutil.rmtree(path)
