"""Imported by the peers' apps in their own environments: one ONNX model on one thread."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime


class OnnxModel:
    """A session with the names and the dtype of its only input and output."""

    def __init__(self, path: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        source, target = self.session.get_inputs()[0], self.session.get_outputs()[0]
        self.input_name, self.input_width = source.name, source.shape[1]
        self.output_name, self.output_width = target.name, target.shape[1]
        self.dtype = np.int64 if source.type == "tensor(int64)" else np.float32

    def run(self, rows: Any) -> Any:
        """The answers to some rows, one row each."""
        return self.session.run([self.output_name], {self.input_name: np.asarray(rows, dtype=self.dtype)})[0]
