"""A graph that keeps state, run step by step over a sequence: one part of the answer for each chunk of the input."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from containers.onnx import signature
from containers.onnx.session import plain, shrink_arena
from serving.contract import Array, ModelConfig, ModelSpec, RecurrentConfig, TensorSpec
from serving.datatypes import BYTES, NUMPY
from serving.errors import ArtifactError, ConfigurationError, InvalidInput, ModelFailure


class RecurrentContainer:
    """A graph whose state lives as long as one request. Implements `serving.contract.StreamingContainer`.

    The input is the whole sequence [elements], the last chunk padded with zeros; a part holds the graph's outputs of one
    step, an answer as a whole those of all steps, one after the other along the first dimension.
    """

    def __init__(self, session: Any, spec: ModelSpec, config: RecurrentConfig, fixed: Mapping[str, Array]) -> None:
        self.spec = spec
        self._session = session
        self._config = config
        self._dtype = NUMPY[spec.inputs[0].datatype]
        self._fixed = fixed
        self._state = [name for name in fixed if name in config.state]
        self._outputs = [output.name for output in spec.outputs] + [config.state[name] for name in self._state]

    def execute(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """All steps; see `serving.contract.Container`."""
        return [np.concatenate(column) for column in zip(*self.stream(inputs), strict=True)]

    def stream(self, inputs: Sequence[Array]) -> Generator[Sequence[Array], None, None]:
        """A step a part; see `serving.contract.StreamingContainer`."""
        (sequence,) = inputs
        if not sequence.size:
            raise InvalidInput(f"input '{self.spec.inputs[0].name}' is empty; at least one element was expected")
        chunk, context = self._config.chunk, self._config.context
        visible = len(self.spec.outputs)
        feed = dict(self._fixed)
        before = np.zeros(context, self._dtype)
        for start in range(0, sequence.size, chunk):
            step = np.zeros((1, context + chunk), self._dtype)
            part = sequence[start : start + chunk]
            step[0, :context] = before
            step[0, context : context + part.size] = part
            before = step[0, chunk:]
            feed[self._config.input] = step
            outputs = self._run(feed)
            feed.update(zip(self._state, outputs[visible:], strict=True))
            yield outputs[:visible]

    def close(self) -> None:
        """Frees the session, once the step in progress, if any, has ended."""
        self._session = None
        self._fixed = {}
        shrink_arena()

    def _run(self, feed: Mapping[str, Array]) -> Sequence[Array]:
        try:
            outputs: Sequence[Array] = self._session.run(self._outputs, feed, None)
        except Exception as error:
            raise ModelFailure(f"the model failed while it ran: {plain(error)}") from error
        return outputs


def load(
    session: Any, artifact: Path, model: ModelConfig, config: RecurrentConfig, known: ModelSpec | None = None
) -> RecurrentContainer:
    """The container of a graph, proved by two steps over zeros unless it is `known`. Raises `ConfigurationError` or `ArtifactError`."""
    where = f"{artifact}: onnx.recurrent"
    if model.batching.max_batch_size not in (None, 1):
        raise ConfigurationError(
            f"{artifact}: max_batch_size is {model.batching.max_batch_size}, but a recurrent model is not batched; leave it out"
        )
    if model.inputs:
        raise ConfigurationError(f"{where} says what the inputs are; leave `inputs` out")
    signed = signature.read(session, artifact, model)
    inputs = {tensor.name: tensor for tensor in signed.inputs}
    outputs = {tensor.name: tensor for tensor in signed.outputs}
    _check_names(where, config, inputs, outputs)
    sequence = inputs[config.input]
    if sequence.datatype == BYTES or len(sequence.shape) != 2:
        raise ConfigurationError(
            f"{where}: input '{config.input}' is {sequence.datatype}{list(sequence.shape)}; numbers of shape [1, elements] were expected"
        )
    if config.sample_rate and sequence.datatype != "FP32":
        raise ConfigurationError(f"{where}: sound is FP32, and input '{config.input}' is {sequence.datatype}")
    fixed = {name: np.zeros(_filled(inputs[name].shape), NUMPY[inputs[name].datatype]) for name in config.state}
    for name, value in config.constants.items():
        fixed[name] = np.full(_filled(inputs[name].shape), value, NUMPY[inputs[name].datatype])
    spec = ModelSpec(
        inputs=(TensorSpec(sequence.name, sequence.datatype, (-1,), sample_rate=config.sample_rate),),
        outputs=tuple(
            msgspec.structs.replace(tensor, shape=(-1, *tensor.shape[1:]))
            for tensor in signed.outputs
            if tensor.name not in config.state.values()
        ),
        platform="onnxruntime_onnx",
        batched=False,
        why_not_batched="its answer to one chunk depends on the chunks before it",
        streams=True,
    )
    container = RecurrentContainer(session, spec, config, fixed)
    if known != spec:
        _prove(container, where, config)
    return container


def _check_names(
    where: str, config: RecurrentConfig, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
) -> None:
    """Every input of the graph is the sequence, state or a constant, once; an output is left to answer with."""
    named = [config.input, *config.state, *config.constants]
    for name in named:
        if name not in inputs:
            raise ConfigurationError(f"{where} names the input '{name}'; the model has {_list(inputs)}")
        if named.count(name) > 1:
            raise ConfigurationError(f"{where} names the input '{name}' twice")
        if inputs[name].datatype == BYTES:
            raise ConfigurationError(f"{where} names the input '{name}', which holds strings; numbers were expected")
    for name in inputs:
        if name not in named:
            raise ConfigurationError(
                f"{where} does not say what the input '{name}' is; name it in `state` or `constants`"
            )
    for name in config.state.values():
        if name not in outputs:
            raise ConfigurationError(f"{where} names the output '{name}'; the model has {_list(outputs)}")
    if len(set(config.state.values())) == len(outputs):
        raise ConfigurationError(f"{where}: every output is state, and none is left to answer with")
    for name, output in outputs.items():
        if name not in config.state.values() and not output.shape:
            raise ConfigurationError(f"{where}: output '{name}' is a scalar; one with a first dimension was expected")


def _prove(container: RecurrentContainer, where: str, config: RecurrentConfig) -> None:
    zeros = np.zeros(2 * config.chunk, NUMPY[container.spec.inputs[0].datatype])
    try:
        container.execute([zeros])
    except ModelFailure as error:
        raise ArtifactError(
            f"{where}: two steps over zeros, {config.context} + {config.chunk} elements each, do not run: {error.message}"
        ) from error


def _filled(shape: Sequence[int]) -> tuple[int, ...]:
    """A state's or constant's shape, where what varies is 1: one sequence at a time."""
    return tuple(size if size >= 0 else 1 for size in shape)


def _list(names: Mapping[str, TensorSpec]) -> str:
    return ", ".join(f"'{name}'" for name in names)
