"""Run by LitServe's environment: one ONNX model, a JSON list in, a JSON list out.

Arguments: file, port, largest batch.
"""

from __future__ import annotations

import sys
from typing import Any

import litserve  # type: ignore[import-not-found,unused-ignore]
from onnx_model import OnnxModel  # type: ignore[import-not-found,unused-ignore]


class Api(litserve.LitAPI):  # type: ignore[misc,unused-ignore]
    """LitServe collects the rows and splits the answers itself; without batching it passes one request's row."""

    def setup(self, device: str) -> None:
        """Loads the model in the worker process."""
        self.model = OnnxModel(sys.argv[1])

    # Without annotations: LitServe builds the route's parameters from them.
    def decode_request(self, request):  # type: ignore[no-untyped-def]
        """The row."""
        return request["row"]

    def predict(self, rows: Any) -> Any:
        """A list of rows with batching, one row without."""
        return self.model.run(rows) if self.max_batch_size > 1 else self.model.run([rows])[0]

    def encode_response(self, answer):  # type: ignore[no-untyped-def]
        """The row of the answer."""
        return {"answer": answer.tolist()}


if __name__ == "__main__":
    batch = int(sys.argv[3])
    api = Api(max_batch_size=batch, batch_timeout=0.001 if batch > 1 else 0.0)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=1, generate_client_file=False, log_level="warning"
    )
