"""Many small models that can be told apart: each multiplies its input FP32[N,4] by a number of its own."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from onnx import helper

from tests.support import onnx_models

ROWS = [[1.0, 2.0, 3.0, 4.0], [0.5, -1.0, 0.0, 2.0]]


def graph(folder: Path, scale: float, *, weights: int = 0) -> Path:
    """The model as a file, at least `weights` bytes large."""
    inputs, outputs = [("x", "FP32", ("N", 4))], [("y", "FP32", ("N", 4))]
    nodes = [helper.make_node("Mul", ["x", "scale"], ["y"])]
    constants = {"scale": np.float32(scale)}
    if weights:
        # Takes part in the answer, or it would be left out of the session: adds a zero that each row chooses.
        constants["ballast"] = np.zeros(max(weights // 4, 4), np.float32)
        nodes = [
            helper.make_node("ArgMax", ["x"], ["place"], axis=1, keepdims=1),
            helper.make_node("Gather", ["ballast", "place"], ["zero"]),
            helper.make_node("Mul", ["x", "scale"], ["scaled"]),
            helper.make_node("Add", ["scaled", "zero"], ["y"]),
        ]
    return onnx_models.write(folder / "model.onnx", inputs, outputs, nodes, **constants)


def archive(folder: Path, scale: float, *, weights: int = 0) -> bytes:
    """The model as the `model.tar.gz` that a multi-model endpoint loads."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(graph(folder, scale, weights=weights), "model.onnx")
    return packed.getvalue()


def answer(scale: float) -> list[list[float]]:
    """What the model says to `ROWS`."""
    return [[scale * value for value in row] for row in ROWS]
