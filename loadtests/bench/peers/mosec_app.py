"""Run by mosec's environment: one ONNX model over mosec, JSON list in, JSON list out.

`BENCH_MODEL` is the file, `BENCH_BATCH` the largest batch; mosec reads its own flags from the command line.
"""

from __future__ import annotations

import os
from typing import Any

from mosec import Server, Worker  # type: ignore[import-not-found,unused-ignore]
from onnx_model import OnnxModel  # type: ignore[import-not-found,unused-ignore]

BATCH = int(os.environ["BENCH_BATCH"])


class Model(Worker):  # type: ignore[misc,unused-ignore]
    """Rows come one per request and mosec collects them."""

    def __init__(self) -> None:
        self.model = OnnxModel(os.environ["BENCH_MODEL"])

    def forward(self, data: Any) -> Any:
        """One row without batching, a list of rows with it."""
        return self.model.run(data).tolist() if BATCH > 1 else self.model.run([data])[0].tolist()


if __name__ == "__main__":
    server = Server()
    server.append_worker(Model, num=1, max_batch_size=BATCH, max_wait_time=1)
    server.run()
