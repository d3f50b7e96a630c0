"""The ONNX container: loads a graph into ONNX Runtime, proves what it can do, and runs batches."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import string_at
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from containers.onnx import proof, recurrent, signature
from containers.onnx.session import open_session, plain, runtime, shrink_arena
from serving.contract import Array, ModelConfig, ModelSpec
from serving.datatypes import BYTES, NUMPY
from serving.errors import ArtifactError, ConfigurationError, InvalidInput, ModelFailure

BF16 = "BF16"

_ONNX_BFLOAT16 = 16


class OnnxContainer:
    """A loaded graph whose tensors numpy and ONNX Runtime both know: arrays go in and come out as they are."""

    def __init__(self, session: Any, spec: ModelSpec) -> None:
        self.spec = spec
        self._session = session
        self._run = session.run
        self._inputs = tuple(tensor.name for tensor in spec.inputs)
        self._outputs = [tensor.name for tensor in spec.outputs]

    def execute(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """Runs one batch; see `serving.contract.Container`."""
        try:
            outputs: Sequence[Array] = self._run(self._outputs, dict(zip(self._inputs, inputs, strict=True)), None)
        except Exception as error:
            raise _failure(error) from error
        return outputs

    def close(self) -> None:
        """Frees the session once the run in progress, if any, has ended."""
        self._session = None
        self._run = _closed
        shrink_arena()


class TextContainer(OnnxContainer):
    """A graph with strings, which are text in ONNX and bytes in the protocol."""

    def __init__(self, session: Any, spec: ModelSpec) -> None:
        super().__init__(session, spec)
        self._text_inputs = [position for position, tensor in enumerate(spec.inputs) if tensor.datatype == BYTES]
        self._text_outputs = [position for position, tensor in enumerate(spec.outputs) if tensor.datatype == BYTES]

    def execute(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """Runs one batch; BYTES elements that are not UTF-8 are an `InvalidInput`."""
        arrays = list(inputs)
        for position in self._text_inputs:
            arrays[position] = _text(arrays[position], self._inputs[position])
        outputs = list(super().execute(arrays))
        for position in self._text_outputs:
            outputs[position] = _bytes(outputs[position])
        return outputs


class Bfloat16Container(OnnxContainer):
    """A graph with bfloat16, which ONNX Runtime does not exchange with numpy: the bits go over as they are."""

    def __init__(self, session: Any, spec: ModelSpec) -> None:
        super().__init__(session, spec)
        self._run = session.run_with_ort_values
        ort_value = runtime().OrtValue
        self._from_numpy = ort_value.ortvalue_from_numpy
        self._from_bits = ort_value.ortvalue_from_numpy_with_onnx_type

    def execute(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """Runs one batch; see `serving.contract.Container`."""
        try:
            feed = {
                tensor.name: self._from_bits(array.view(np.uint16), _ONNX_BFLOAT16)
                if tensor.datatype == BF16
                else self._from_numpy(array)
                for tensor, array in zip(self.spec.inputs, inputs, strict=True)
            }
            values = self._run(self._outputs, feed)
            return [_array(value, tensor.datatype) for value, tensor in zip(values, self.spec.outputs, strict=True)]
        except Exception as error:
            raise _failure(error) from error


class OnnxKind:
    """How ONNX models are recognised and loaded; see `serving.contract.ContainerKind`."""

    def artifact(self, path: Path) -> Path | None:
        """`path` where it is a `.onnx` file; in a directory `model.onnx`, or else the only `.onnx` file."""
        if path.is_file():
            return path if path.suffix == ".onnx" else None
        usual = path / "model.onnx"
        if usual.is_file():
            return usual
        found = sorted(file for file in path.glob("*.onnx") if file.is_file() and not file.name.startswith("."))
        if len(found) > 1:
            raise ArtifactError(
                f"{path} holds {len(found)} .onnx files ({', '.join(file.name for file in found)}); "
                "name the one to serve model.onnx"
            )
        return found[0] if found else None

    def load(
        self, artifact: Path, config: ModelConfig, known: ModelSpec | None = None
    ) -> OnnxContainer | recurrent.RecurrentContainer:
        """Loads a graph and proves whether its rows may be merged, unless that is `known`.

        Raises `ArtifactError` for a file or a signature that cannot be served, `ConfigurationError` for settings that
        do not fit it, and `MissingExtra`.
        """
        session = open_session(artifact, config.onnx)
        if config.onnx.recurrent is not None:
            return recurrent.load(session, artifact, config, config.onnx.recurrent, known)
        signed = signature.read(session, artifact, config)
        container = _container_type(signed, artifact)
        if known is None or not _fits(known, signed):
            # A container of its own for the proof, which runs before the spec is whole.
            draft = container(session, _spec(signed, proof.Proof(batched=False, why_not="", outputs=signed.outputs)))
            known = _spec(signed, proof.prove(draft.execute, signed))
        asked = config.batching.max_batch_size if config.batching.merge_requests else None
        if asked is not None and asked > 1 and not known.batched:
            raise ConfigurationError(
                f"{artifact}: max_batch_size is {asked}, but the model cannot be batched: {known.why_not_batched}; "
                "leave it out or set it to 1"
            )
        return container(session, known)


def _container_type(signed: signature.Signature, artifact: Path) -> type[OnnxContainer]:
    types_in = {tensor.datatype for tensor in signed.inputs}
    types = types_in | {tensor.datatype for tensor in signed.outputs}
    if BF16 in types:
        if BYTES in types_in:
            raise ArtifactError(
                f"{artifact}: the model has both a string input and a bfloat16 tensor, which ONNX Runtime's Python "
                "interface cannot run together"
            )
        return Bfloat16Container
    return TextContainer if BYTES in types else OnnxContainer


def _spec(signed: signature.Signature, verdict: proof.Proof) -> ModelSpec:
    return ModelSpec(
        inputs=signed.inputs,
        outputs=verdict.outputs,
        platform="onnxruntime_onnx",
        batched=verdict.batched,
        why_not_batched=verdict.why_not,
    )


def _fits(known: ModelSpec, signed: signature.Signature) -> bool:
    """Whether that spec may have been proved of a graph with this signature."""
    outputs = tuple(
        # Only the proof's runs tell the rank of some outputs.
        spec if spec.shape else msgspec.structs.replace(spec, shape=proved.shape)
        for spec, proved in zip(signed.outputs, known.outputs, strict=False)
    )
    verdict = proof.Proof(batched=known.batched, why_not=known.why_not_batched, outputs=outputs)
    return len(known.outputs) == len(signed.outputs) and known == _spec(signed, verdict)


def _text(array: Array, name: str) -> Array:
    text = np.empty(array.size, object)
    for position, element in enumerate(array.ravel()):
        try:
            text[position] = element.decode()
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"element {position} of input '{name}' is not UTF-8 ({error.reason} at byte {error.start}), "
                "which the strings of an ONNX model are"
            ) from error
    return text.reshape(array.shape)


def _bytes(array: Array) -> Array:
    elements = np.empty(array.size, object)
    elements[:] = [element.encode() for element in array.ravel()]
    return elements.reshape(array.shape)


def _array(value: Any, datatype: str) -> Array:
    if datatype == BF16:
        # Neither numpy() nor DLPack knows the type on this side.
        bits = string_at(value.data_ptr(), value.tensor_size_in_bytes())
        return np.frombuffer(bits, NUMPY[BF16]).reshape(value.shape())
    array: Array = value.numpy()
    return _bytes(array) if datatype == BYTES else array


def _failure(error: Exception) -> ModelFailure:
    return ModelFailure(f"the model failed while it ran: {plain(error)}")


def _closed(*_: object) -> Any:
    raise RuntimeError("the model is closed")
