"""The cases as a model repository, batching off, and real servers that load it a part at a time."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from loadtests.bench import servers
from loadtests.bench.servers import Launch
from loadtests.onnx_cases.case import Case, Tensor, difference
from loadtests.onnx_cases.rest import Rest
from loadtests.onnx_cases.rpc import Rpc
from loadtests.onnx_cases.wire import Refused

REST: Final = "REST binary"
GRPC: Final = "gRPC raw contents"
TYPED: Final = "gRPC typed contents"

PART: Final = 250
"""Cases that one server loads: a load takes the longer the more are there already."""

SETTINGS: Final = "batching: {max_batch_size: 1}\n"


class Face(Protocol):
    """A way to ask."""

    def infer(self, model: str, inputs: Sequence[Tensor], outputs: Sequence[str]) -> list[Tensor]:
        """The outputs in the order asked. Raises `Refused`."""


def ask(cases: Sequence[Case], transport: str) -> Iterator[tuple[Case, Mapping[str, str]]]:
    """Each case with what is wrong with its answers over each face, "" where they are right.

    `transport` carries gRPC; "" leaves that face out. Raises `CannotStart`.
    """
    for start in range(0, len(cases), PART):
        yield from _part(cases[start : start + PART], transport)


def _part(cases: Sequence[Case], transport: str) -> Iterator[tuple[Case, Mapping[str, str]]]:
    with tempfile.TemporaryDirectory(prefix="onnx-cases-") as folder, contextlib.ExitStack() as stack:
        # ONNX's names are longer than a model's may be.
        named = {f"case-{number:04}": case for number, case in enumerate(cases)}
        for name, case in named.items():
            home = Path(folder) / "models" / name
            home.mkdir(parents=True)
            shutil.copy(case.model, home)
            (home / "model.yaml").write_text(SETTINGS)
        port = servers.free_port()
        command = [str(Path(sys.executable).parent / "serving"), "up", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--state-dir", str(Path(folder) / "state"), "--model-repository", str(Path(folder) / "models")]
        command += ["--model-control-mode", "explicit"]
        rest = stack.enter_context(Rest(port))
        faces: dict[str, Face] = {REST: rest}
        if transport:
            grpc_port = servers.free_port()
            command += ["--grpc-port", str(grpc_port), "--grpc-transport", transport]
            faces[GRPC] = stack.enter_context(Rpc(grpc_port, typed=False))
            faces[TYPED] = stack.enter_context(Rpc(grpc_port, typed=True))
        stack.enter_context(servers.running("serving", Launch(command, "/v2/health/live"), port))
        for name, case in named.items():
            try:
                rest.load(name)
            except Refused as refused:
                yield case, dict.fromkeys(faces, f"it is not loaded: {refused}")
                continue
            yield case, {face: _wrong(asked, name, case) for face, asked in faces.items()}


def _wrong(face: Face, name: str, case: Case) -> str:
    for question in case.questions:
        try:
            got = face.infer(name, question.inputs, [tensor.name for tensor in question.outputs])
        except Refused as refused:
            return f"it is refused: {refused}"
        wrong = difference(question.outputs, got, case.rtol, case.atol)
        if wrong:
            return wrong
    return ""
