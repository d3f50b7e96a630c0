"""Imported by MLServer in its own environment: one ONNX model as a custom runtime with numpy tensors."""

from __future__ import annotations

import numpy as np
import onnxruntime
from mlserver import MLModel  # type: ignore[import-not-found,unused-ignore]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found,unused-ignore]
from mlserver.types import (  # type: ignore[import-not-found,unused-ignore]
    InferenceRequest,
    InferenceResponse,
)


class OnnxModel(MLModel):  # type: ignore[misc,unused-ignore]
    """A session with one thread; MLServer's adaptive batching merges the requests."""

    async def load(self) -> bool:
        """Loads `parameters.uri`."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri, options)
        source = self.session.get_inputs()[0]
        self.input_name = source.name
        self.output_name = self.session.get_outputs()[0].name
        self.dtype = np.int64 if source.type == "tensor(int64)" else np.float32
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Runs the one input of the request."""
        rows = NumpyCodec.decode_input(payload.inputs[0]).astype(self.dtype, copy=False)
        answer = self.session.run([self.output_name], {self.input_name: rows})[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output(self.output_name, answer)])
