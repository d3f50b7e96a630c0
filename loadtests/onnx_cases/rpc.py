"""A question over gRPC: `ModelInfer` with raw contents, or with typed ones where the protocol has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

import grpc
from tritonclient.grpc import service_pb2

from loadtests.onnx_cases.case import Tensor
from loadtests.onnx_cases.wire import Refused, raw, read

PATH: Final = "/inference.GRPCInferenceService/ModelInfer"
TIMEOUT_S: Final = 60.0


_CONTENTS: Final = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The field of each datatype; FP16 and BF16 have none."""


class Rpc:
    """One connection. `typed`: inputs go as typed contents, but for questions with a 16-bit float, which stay raw."""

    def __init__(self, port: int, typed: bool) -> None:
        self._typed = typed
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._infer = self._channel.unary_unary(
            PATH, service_pb2.ModelInferRequest.SerializeToString, service_pb2.ModelInferResponse.FromString
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def infer(self, model: str, inputs: Sequence[Tensor], outputs: Sequence[str]) -> list[Tensor]:
        """The outputs in the order asked. Raises `Refused`."""
        request = service_pb2.ModelInferRequest(model_name=model)
        typed = self._typed and all(tensor.datatype in _CONTENTS for tensor in inputs)
        for tensor in inputs:
            entry = request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape)
            if typed:
                getattr(entry.contents, _CONTENTS[tensor.datatype]).extend(tensor.array.ravel().tolist())
            else:
                # The two forms must not be mixed within one message.
                request.raw_input_contents.append(raw(tensor))
        for name in outputs:
            request.outputs.add(name=name)
        try:
            answer = self._infer(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise Refused(f"{error.code().name}: {error.details()}") from error
        if len(answer.raw_output_contents) != len(answer.outputs):
            raise Refused(f"{len(answer.outputs)} outputs came with {len(answer.raw_output_contents)} raw contents")
        return [
            Tensor(tensor.name, tensor.datatype, read(data, tensor.datatype, list(tensor.shape)))
            for tensor, data in zip(answer.outputs, answer.raw_output_contents, strict=True)
        ]
