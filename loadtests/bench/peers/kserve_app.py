"""Run by the KServe SDK's environment: one ONNX model over the v1 protocol.

Arguments: file, the model's name, HTTP port. The SDK binds every interface and leaves no choice.
"""

from __future__ import annotations

import sys
from typing import Any

import kserve  # type: ignore[import-not-found,unused-ignore]
from onnx_model import OnnxModel  # type: ignore[import-not-found,unused-ignore]


class Model(kserve.Model):  # type: ignore[misc,unused-ignore]
    """Runs each request by itself: the SDK leaves batching to a sidecar."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        self.model = OnnxModel(path)
        self.ready = True

    async def predict(self, payload: dict[str, Any], headers: Any = None, response_headers: Any = None) -> Any:
        """The v1 answer."""
        return {"predictions": self.model.run(payload["instances"]).tolist()}


if __name__ == "__main__":
    path, name, port = sys.argv[1:]
    server = kserve.ModelServer(
        http_port=int(port), enable_grpc=False, workers=1, enable_docs_url=False, access_log_format=None
    )
    server.start([Model(name, path)])
