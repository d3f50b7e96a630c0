"""Run by pytriton's environment: one ONNX model behind the tritonserver that its wheel holds.

Arguments: file, the model's name, largest batch, HTTP port, gRPC port, metrics port.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from onnx_model import OnnxModel  # type: ignore[import-not-found,unused-ignore]
from pytriton.decorators import batch  # type: ignore[import-not-found,unused-ignore]
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor  # type: ignore[import-not-found,unused-ignore]
from pytriton.triton import Triton, TritonConfig  # type: ignore[import-not-found,unused-ignore]

if __name__ == "__main__":
    path, name, largest, *ports = sys.argv[1:]
    http_port, grpc_port, metrics_port = (int(port) for port in ports)
    model = OnnxModel(path)

    @batch  # type: ignore[untyped-decorator,unused-ignore]
    def infer(**inputs: Any) -> list[Any]:
        """All rows that Triton merged."""
        return [model.run(inputs[model.input_name])]

    config = TritonConfig(http_address="127.0.0.1", http_port=http_port, grpc_port=grpc_port, metrics_port=metrics_port)
    with Triton(config=config) as triton:
        triton.bind(
            model_name=name,
            infer_func=infer,
            inputs=[Tensor(name=model.input_name, dtype=model.dtype, shape=(model.input_width,))],
            outputs=[Tensor(name=model.output_name, dtype=np.float32, shape=(model.output_width,))],
            config=ModelConfig(max_batch_size=int(largest), batcher=DynamicBatcher()),
        )
        triton.serve()
