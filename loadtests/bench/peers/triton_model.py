"""Run by tritonserver's own Python backend as a model's `model.py`: ONNX Runtime in the backend's process.

`BENCH_MODEL` is the model's file, `BENCH_PEERS` this folder: the backend's interpreter does not read `PYTHONPATH`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import triton_python_backend_utils as triton  # type: ignore[import-not-found,unused-ignore]

sys.path.append(os.environ["BENCH_PEERS"])
from onnx_model import OnnxModel  # type: ignore[import-not-found,unused-ignore]


class TritonPythonModel:
    """Triton hands over the requests that its dynamic batcher merged; they run as one batch."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the model."""
        self.model = OnnxModel(os.environ["BENCH_MODEL"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request, each with as many rows as it brought."""
        name = self.model.input_name
        parts = [triton.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
        ends = np.cumsum([len(part) for part in parts])
        answers = self.model.run(np.concatenate(parts))
        return [
            triton.InferenceResponse([triton.Tensor(self.model.output_name, rows)])
            for rows in np.split(answers, ends[:-1])
        ]
