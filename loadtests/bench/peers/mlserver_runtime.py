"""Imported by MLServer in its own environment: one ONNX model as a custom runtime with numpy tensors."""

from __future__ import annotations

from mlserver import MLModel  # type: ignore[import-not-found,unused-ignore]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found,unused-ignore]
from mlserver.types import (  # type: ignore[import-not-found,unused-ignore]
    InferenceRequest,
    InferenceResponse,
)
from onnx_model import OnnxModel  # type: ignore[import-not-found,unused-ignore]


class Runtime(MLModel):  # type: ignore[misc,unused-ignore]
    """MLServer's adaptive batching merges the requests."""

    async def load(self) -> bool:
        """Loads `parameters.uri`."""
        self.model = OnnxModel(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Runs the one input of the request."""
        answer = self.model.run(NumpyCodec.decode_input(payload.inputs[0]))
        output = NumpyCodec.encode_output(self.model.output_name, answer)
        return InferenceResponse(model_name=self.name, outputs=[output])
