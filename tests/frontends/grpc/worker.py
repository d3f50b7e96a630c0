"""A worker's servicer over a real data plane, and what a transport and the rest of a server are to it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import tritonclient.grpc.service_pb2 as pb

from serving.codecs.plan import InputPlan
from serving.contract import Array, Container, ModelConfig, ModelSpec, TensorSpec
from serving.control.call import Answer, Request
from serving.errors import ServingError
from serving.frontends.grpc import protocol
from serving.frontends.grpc.call import Call
from serving.frontends.grpc.servicer import Servicer
from serving.frontends.http.faces import Faces
from serving.frontends.http.head import Guard
from serving.frontends.http.lane_state import LaneState
from serving.processes.adjustments import Adjustments
from serving.processes.channel import Ask
from serving.runtime.costs import Costs
from serving.runtime.dataplane import DataPlane
from serving.runtime.inference_counts import inference_counts
from serving.runtime.loading import load
from serving.runtime.model import Model, Pulse
from serving.runtime.multi_model import MultiModelEndpoint
from serving.runtime.routing import Endpoint, Snapshot
from serving.runtime.statistics import VariantStatistics
from serving.runtime.wiring import EndpointWiring
from serving.settings import Settings

WITHIN_S: Final = 20.0

_X: Final = TensorSpec("x", "FP32", (-1, 1))
_Y: Final = TensorSpec("y", "FP32", (-1, 1))
_PARTS: Final = TensorSpec("parts", "INT64", (-1,))
_NUMBER: Final = TensorSpec("number", "INT64", (-1,))


class Gated:
    """Doubles `x` FP32[N,1] once its gate is open; a value of 13 fails."""

    def __init__(self) -> None:
        self.spec = ModelSpec((_X,), (_Y,), platform="gated", batched=True)
        self.gate = threading.Event()
        self.gate.set()
        self.runs = 0

    def execute(self, inputs: Sequence[Array]) -> Sequence[Array]:
        self.runs += 1
        assert self.gate.wait(WITHIN_S)
        if 13.0 in inputs[0]:
            raise RuntimeError("thirteen")
        return [inputs[0] * 2]

    def close(self) -> None:
        """Nothing to free."""


class Counting:
    """Streams 0, 1, ... `parts[0]` - 1, for ever where that is negative; the part `parts[1]`, if any, fails."""

    def __init__(self) -> None:
        self.spec = ModelSpec((_PARTS,), (_NUMBER,), platform="counting", batched=False, streams=True)
        self.made = 0
        self.ended = 0

    def execute(self, inputs: Sequence[Array]) -> Sequence[Array]:
        return [np.concatenate([part[0] for part in self.stream(inputs)])]

    def stream(self, inputs: Sequence[Array]) -> Generator[Sequence[Array], None, None]:
        asked = inputs[0].tolist()
        number = 0
        try:
            while number != asked[0]:
                if number in asked[1:]:
                    raise RuntimeError("no such part")
                self.made += 1
                yield [np.array([number])]
                number += 1
        finally:
            self.ended += 1

    def close(self) -> None:
        """Nothing to free."""


class Whole:
    """Implements `Admin` for a server of one worker: what it serves is counted and can be set; of its repository it knows
    what it was asked, and fails as it is told to.
    """

    def __init__(self, settings: Settings, served: list[Endpoint]) -> None:
        self._served = served
        self._adjustments = Adjustments(settings, self._wired)
        self.asked: list[tuple[str, str | None, bytes]] = []
        self.error: ServingError | None = None
        self.rows: list[dict[str, Any]] = [
            {"name": "m", "version": "2", "state": "READY", "reason": ""},
            {"name": "n"},
        ]

    async def metrics(self) -> bytes:
        return b""

    async def models(self, name: str | None) -> bytes:
        return b"[]"

    async def api(self, request: Request) -> Answer:
        raise NotImplementedError

    def _wired(self) -> tuple[EndpointWiring, ...]:
        return tuple(EndpointWiring(one.name, one.variant, "", "", ModelConfig()) for one in self._served)

    async def statistics(self, name: str | None) -> bytes:
        wanted = [one for one in self._served if name in (None, one.name)]
        return orjson.dumps([inference_counts(one.name, one.model, one.statistics, 0) for one in wanted])

    async def setting(self, what: str, name: str | None, changes: bytes) -> bytes:
        return self._adjustments.carry_out(Ask(0, what, name, changes))[0]

    async def repository(self, what: str, name: str | None, parameters: bytes) -> bytes:
        self.asked.append((what, name, parameters))
        if self.error is not None:
            raise self.error
        return orjson.dumps(self.rows) if what == "index" else b""

    async def container(self, what: str, name: str | None, parameters: bytes) -> bytes:
        raise NotImplementedError


class Worker:
    """One worker with the models that a test gives it."""

    def __init__(self, directory: Path, plane: DataPlane | None = None, **settings: Any) -> None:
        self.settings = Settings(state_dir=directory, **settings)
        self.plane = plane or DataPlane()
        self.lane = LaneState(self.plane, Faces("us-east-1", "123456789012"), Guard(("*",), ()), self.settings)
        self.served: list[Endpoint] = []
        self.admin = Whole(self.settings, self.served)
        self.servicer = Servicer(self.lane, self.admin, self.settings)
        self._pulse = Pulse()

    def serve(self, name: str, container: Container, **config: Any) -> VariantStatistics:
        """Puts a model in force beside the others."""
        model = Model(container, ModelConfig(name=name, **config), Costs(), self._pulse)
        statistics = VariantStatistics(name, "v1")
        self.served.insert(0, Endpoint(name, "v1", model, InputPlan(container.spec, name), statistics))
        self.wire()
        return statistics

    def serve_onnx(self, name: str, file: Path, **config: Any) -> VariantStatistics:
        """The same with an ONNX model."""
        container, _ = load("onnx", file, ModelConfig(name=name, **config), self.settings)
        return self.serve(name, container, **config)

    def wire(self, multi: Sequence[MultiModelEndpoint] = ()) -> None:
        """Puts what is served in force."""
        self.plane.swap(Snapshot(self.plane.snapshot.version + 1, self.served, None, multi=multi))
        self.servicer.forget()

    async def ask(self, name: str, message: Any = None, /, *, timeout_s: float | None = None, **fields: Any) -> Any:
        """What a unary method of the service answers to a message, or to one of these fields."""
        method = protocol.methods()[name]
        request = method.request(**fields) if message is None else message
        unary = self.servicer.find(protocol.PREFIX + name).unary
        assert unary is not None
        async with asyncio.timeout(WITHIN_S):
            return method.response.FromString(await unary(request.SerializeToString(), Call(timeout_s)))

    def stream(self, path: str = f"{protocol.PREFIX}ModelStreamInfer", **said: Any) -> Stream:
        """Opens a stream; `said` is of its `Call`."""
        rpc = self.servicer.find(path).stream
        assert rpc is not None
        return Stream(rpc, Call(**said))

    async def close(self) -> None:
        """Ends all models."""
        for endpoint in self.served:
            ended = asyncio.Event()
            endpoint.model.close(ended.set)
            await asyncio.wait_for(ended.wait(), WITHIN_S)
        assert self.lane.in_flight_bytes == 0


class Stream:
    """A stream as its client sees it: requests are sent, answers read, and either side ended."""

    def __init__(self, rpc: Any, call: Call) -> None:
        self._requests: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.taken = 0
        self._answers = rpc(self._bodies(), call)

    async def _bodies(self) -> AsyncIterator[bytes]:
        while (body := await self._requests.get()) is not None:
            if isinstance(body, Exception):
                raise body
            self.taken += 1
            yield body

    def send(self, *messages: Any) -> None:
        """Sends requests: messages, or bytes that may be none."""
        for message in messages:
            self._requests.put_nowait(message if isinstance(message, bytes) else message.SerializeToString())

    def half_close(self) -> None:
        """Sends no more."""
        self._requests.put_nowait(None)

    def breaks(self, error: Exception) -> None:
        """The transport cannot read on."""
        self._requests.put_nowait(error)

    async def read(self) -> bytes | None:
        """The next answer's bytes; None at the end. Raises the `ServingError` that ended the stream."""
        body: bytes | None = await asyncio.wait_for(anext(self._answers, None), WITHIN_S)
        return body

    async def next(self) -> Any:
        """The next answer of ModelStreamInfer."""
        body = await self.read()
        return None if body is None else pb.ModelStreamInferResponse.FromString(body)

    async def rest(self) -> list[Any]:
        """All that is still to come once no more is sent."""
        self.half_close()
        found = []
        while (one := await self.next()) is not None:
            found.append(one)
        return found

    async def leave(self) -> None:
        """The client hangs up."""
        await asyncio.wait_for(self._answers.aclose(), WITHIN_S)


def request(model: str, value: float = 1.0, *, name: str = "x", **fields: Any) -> Any:
    """A ModelInferRequest of one row of one FP32 value."""
    tensor = pb.ModelInferRequest.InferInputTensor(name=name, datatype="FP32", shape=[1, 1])
    raw = [np.array([value], np.float32).tobytes()]
    return pb.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=raw, **fields)


def counting(model: str, *asked: int, final: bool = False, **fields: Any) -> Any:
    """A ModelInferRequest to a `Counting` model."""
    tensor = pb.ModelInferRequest.InferInputTensor(name="parts", datatype="INT64", shape=[len(asked)])
    raw = [np.array(asked, np.int64).tobytes()]
    made = pb.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=raw, **fields)
    if final:
        made.parameters["triton_enable_empty_final_response"].bool_param = True
    return made


def numbers(response: Any, datatype: Any = np.float32) -> list[float]:
    """The values of an answer's only output."""
    (raw,) = response.raw_output_contents
    values: list[float] = np.frombuffer(raw, datatype).tolist()
    return values


def is_final(answer: Any) -> bool:
    """What the answer of a stream says of itself."""
    final: bool = answer.infer_response.parameters["triton_final_response"].bool_param
    return final


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what threads and timers bring about."""
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - threads and timers change it
            await asyncio.sleep(0.001)
