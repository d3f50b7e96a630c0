"""`ModelInfer` as the benchmark asks it: the message of a sample, and a client that looks at gRPC's status and the tensor."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Self

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from loadtests.bench.load import LoadFailed
from loadtests.bench.models import TOLERANCE, Array, BenchModel, Sample
from loadtests.bench.protocols import WrongAnswer

PATH: Final = "/inference.GRPCInferenceService/ModelInfer"
TIMEOUT_S: Final = 20.0
CHECKS_PER_S: Final = 20.0


def message(model: BenchModel, sample: Sample) -> bytes:
    """One row with raw contents."""
    tensor = service_pb2.ModelInferRequest.InferInputTensor(
        name=model.input_name, datatype=model.datatype, shape=[1, *sample.input.shape]
    )
    request = service_pb2.ModelInferRequest(
        model_name=model.name, inputs=[tensor], raw_input_contents=[sample.input.tobytes()]
    )
    serialized: bytes = request.SerializeToString()
    return serialized


class Client:
    """One connection that asks one question and compares every answer."""

    def __init__(self, port: int, model: BenchModel, sample: Sample) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        # Bytes in and out: the answer is read here, whatever the server's idea of it.
        self._call = self._channel.unary_unary(PATH)
        self._message = message(model, sample)
        self._model = model
        self._expected = sample.answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def ask(self) -> None:
        """One call. Raises `WrongAnswer` for any status but OK, and for a tensor other than the right one."""
        try:
            body: bytes = self._call(self._message, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise WrongAnswer(
                f"ModelInfer of {self._model.name} ended with {error.code()}: {error.details()}"
            ) from error
        check(service_pb2.ModelInferResponse.FromString(body), self._model, self._expected)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Asks at a low rate until the block ends. Raises `WrongAnswer` for the first wrong answer."""
        stopped = threading.Event()
        failure: list[Exception] = []
        asked = 0

        def run() -> None:
            nonlocal asked
            while not stopped.is_set() and not failure:
                try:
                    self.ask()
                    asked += 1
                except Exception as error:  # handed to the main thread below
                    failure.append(error)
                stopped.wait(1 / CHECKS_PER_S)

        thread = threading.Thread(target=run, name="grpc-checks")
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()
        if failure:
            raise failure[0]
        if not asked:
            raise LoadFailed("no call was checked while the load ran: the figure would mean nothing")


def check(response: Any, model: BenchModel, expected: Array) -> None:
    """Raises `WrongAnswer` unless the only output is the expected row in raw contents."""
    found = [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in response.outputs]
    wanted = [(model.output_name, "FP32", [1, *expected.shape])]
    if found != wanted or len(response.raw_output_contents) != 1:
        raise WrongAnswer(f"ModelInfer of {model.name} gave {found}; {wanted} in raw contents was expected")
    row = np.frombuffer(response.raw_output_contents[0], np.float32)
    if row.size != expected.size or not np.allclose(row, expected, rtol=0, atol=TOLERANCE):
        raise WrongAnswer(f"ModelInfer of {model.name} answered {row[:4]}; {expected[:4]} was expected")
