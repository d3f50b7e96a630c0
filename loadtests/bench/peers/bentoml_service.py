"""Imported by BentoML in its own environment: one ONNX model, a JSON row in, a JSON row out.

`BENCH_MODEL` is the file, `BENCH_BATCH` the largest batch.
"""

from __future__ import annotations

import os

import bentoml  # type: ignore[import-not-found,unused-ignore]
import numpy as np
from onnx_model import OnnxModel  # type: ignore[import-not-found,unused-ignore]

BATCH = int(os.environ["BENCH_BATCH"])


@bentoml.service(workers=1, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Service:
    """Rows come as the first dimension of one array; BentoML's dispatcher merges them where the batch is above 1."""

    def __init__(self) -> None:
        self.model = OnnxModel(os.environ["BENCH_MODEL"])

    @bentoml.api(batchable=BATCH > 1, max_batch_size=max(2, BATCH), max_latency_ms=1000)  # type: ignore[untyped-decorator,unused-ignore]
    def predict(self, rows: np.ndarray) -> np.ndarray:
        """The answers, one row each."""
        answers: np.ndarray = self.model.run(rows)
        return answers
