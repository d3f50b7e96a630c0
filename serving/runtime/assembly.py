"""Requests to the arrays of one batch, and back: the only place where callers' rows meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from serving.codecs.base import Column
from serving.contract import Array, ModelSpec
from serving.datatypes import BYTES, NUMPY
from serving.errors import ModelFailure
from serving.runtime.batcher import Batch
from serving.runtime.invocation import Invocation


class Assembler:
    """Builds the inputs of a batch for one model and cuts its outputs, row for row."""

    def __init__(self, spec: ModelSpec) -> None:
        self.batched = spec.batched
        skip = 1 if spec.batched else 0
        self._inputs = [(NUMPY[spec_.datatype], spec_.shape[skip:], spec_.datatype == BYTES) for spec_ in spec.inputs]
        self._output_names = [output.name for output in spec.outputs]

    def join(self, batch: Batch[Invocation]) -> list[Array]:
        """The batch's inputs, `batch.run_rows` rows each: the requests' rows in order, then padding."""
        items = batch.items
        signature: Any = batch.signature
        padding = batch.run_rows - batch.rows
        arrays: list[Array] = []
        for position, (dtype, fixed, is_bytes) in enumerate(self._inputs):
            tail = fixed if signature is None else signature[position]
            shape = (batch.run_rows, *tail) if self.batched else tail
            if is_bytes:
                arrays.append(_objects([item.columns[position] for item in items], shape))
                continue
            if len(items) == 1:
                buffer: Any = items[0].columns[position]
            else:
                buffer = b"".join([item.columns[position] for item in items])  # type: ignore[misc]
            if padding:
                buffer = b"".join((buffer, bytes(len(buffer) // batch.rows * padding)))
            arrays.append(np.frombuffer(buffer, dtype).reshape(shape))
        return arrays

    def alone(self, rows: int, columns: Sequence[Column], signature: Any) -> list[Array]:
        """The inputs of one request by itself."""
        arrays: list[Array] = []
        for position, (dtype, fixed, is_bytes) in enumerate(self._inputs):
            tail = fixed if signature is None else signature[position]
            shape = (rows, *tail) if self.batched else tail
            column: Any = columns[position]
            arrays.append(_objects([column], shape) if is_bytes else np.frombuffer(column, dtype).reshape(shape))
        return arrays

    def check(self, outputs: Sequence[Array], rows: int) -> None:
        """Refuses outputs that do not hold one row for each input row; they are never split by guess."""
        if not self.batched:
            return
        for name, output in zip(self._output_names, outputs, strict=True):
            if output.ndim == 0 or output.shape[0] != rows:
                got = "a scalar" if output.ndim == 0 else f"{output.shape[0]} rows"
                raise ModelFailure(
                    f"output '{name}' came back as {got} for a batch of {rows} rows; the batch was thrown away because "
                    "its rows cannot be told apart (set batching.max_batch_size to 1 for this model)"
                )


def _objects(columns: Sequence[Column], shape: tuple[int, ...]) -> Array:
    flat = [element for column in columns for element in column]
    count = int(np.prod(shape))
    flat.extend([b""] * (count - len(flat)))
    array = np.empty(count, object)
    array[:] = flat
    return array.reshape(shape)
