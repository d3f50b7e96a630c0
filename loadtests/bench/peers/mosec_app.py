"""Run by mosec's environment: one ONNX model over mosec, JSON list in, JSON list out.

`BENCH_MODEL` is the file, `BENCH_BATCH` the largest batch; mosec reads its own flags from the command line.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnxruntime
from mosec import Server, Worker  # type: ignore[import-not-found,unused-ignore]

BATCH = int(os.environ["BENCH_BATCH"])


class Model(Worker):  # type: ignore[misc,unused-ignore]
    """A session with one thread; rows come one per request and mosec collects them."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options)
        source = self.session.get_inputs()[0]
        self.input_name = source.name
        self.dtype = np.int64 if source.type == "tensor(int64)" else np.float32

    def forward(self, data: Any) -> Any:
        """One row without batching, a list of rows with it."""
        rows = np.array(data if BATCH > 1 else [data], dtype=self.dtype)
        answers = self.session.run(None, {self.input_name: rows})[0].tolist()
        return answers if BATCH > 1 else answers[0]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Model, num=1, max_batch_size=BATCH, max_wait_time=1)
    server.run()
