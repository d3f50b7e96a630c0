"""Proves by running it that a model may be batched: an output row for each input row, and rows that ignore each other.

A symbolic first dimension only says that the graph takes any number there: graphs with a softmax or a mean over the
rows, or with a fixed reshape inside, have one too. Nothing is split by guess later, so it is tried here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from containers.onnx.signature import Signature
from serving.contract import Array, TensorSpec
from serving.datatypes import BYTES, FLOATS, NUMPY
from serving.errors import ServingError

SIZES: Final = (16, 8, 32, 64, 128, 1, 224)
"""What dimensions that vary, other than the rows, are tried with: the first that the model runs with is kept."""

ROWS: Final = (2, 3)
"""Batches whose rows are compared with the same rows alone."""

TOLERANCES: Final = {"FP16": 1e-2, "BF16": 5e-2}
"""Absolute and relative tolerance of an output's rounding; others' are `RTOL` and `ATOL`."""

RTOL: Final = 1e-3
ATOL: Final = 1e-4

SEED: Final = 7

MOST_RANDOM: Final = 100_003
"""Random values in a row. A prime, so that a long row does not repeat in step with its shape."""

Run = Callable[[Sequence[Array]], Sequence[Array]]


class Proof(msgspec.Struct, frozen=True):
    """Whether rows may be merged, why not, and the outputs with what the runs told of their shapes."""

    batched: bool
    why_not: str
    outputs: tuple[TensorSpec, ...]


class _Refuted(Exception):
    """The model cannot be batched; the text says why."""


def prove(run: Run, signature: Signature) -> Proof:
    """Runs the model with 1 to 3 rows of zeros and of random values, and compares."""
    outputs = signature.outputs
    try:
        _declared_to_vary(signature)
        inputs, alone = _runnable(run, signature)
        outputs = _ranked(outputs, alone)
        _repeat(run, outputs, inputs, alone)
        for rows in ROWS:
            _compare(run, outputs, [np.repeat(value, rows, axis=0) for value in inputs], [alone] * rows)
        _compare_random(run, outputs, inputs)
    except (_Refuted, ServingError) as refuted:
        return Proof(batched=False, why_not=str(refuted), outputs=outputs)
    return Proof(batched=True, why_not="", outputs=outputs)


def _declared_to_vary(signature: Signature) -> None:
    for role, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for spec in specs:
            # ONNX Runtime shows an output of unknown rank like a scalar: the runs will tell.
            if not spec.shape and role == "input":
                raise _Refuted(f"input '{spec.name}' is a scalar, which has no dimension that counts rows")
            if spec.shape and spec.shape[0] != -1:
                raise _Refuted(f"the first dimension of {role} '{spec.name}' is fixed at {spec.shape[0]}")


def _runnable(run: Run, signature: Signature) -> tuple[list[Array], Sequence[Array]]:
    """One row that the model runs with, and its answer."""
    failure = ""
    for size in SIZES if any(-1 in spec.shape[1:] for spec in signature.inputs) else SIZES[:1]:
        for number, text in ((0, b""), (1, b"1")):
            inputs = [
                np.full(
                    _shape(spec, symbols, signature, size), text if spec.datatype == BYTES else number, _dtype(spec)
                )
                for spec, symbols in zip(signature.inputs, signature.symbols, strict=True)
            ]
            try:
                return inputs, run(inputs)
            except ServingError as error:
                failure = failure or error.message
    raise _Refuted(f"it could not be tried out, because it does not run with zeros: {failure}")


def _shape(spec: TensorSpec, symbols: tuple[str | None, ...], signature: Signature, size: int) -> tuple[int, ...]:
    """One row's shape; dimensions named like a first dimension are 1 with it."""
    rows = {names[0] for names in signature.symbols if names and names[0]}
    inner = ((own if own != -1 else 1 if name in rows else size) for own, name in _pairs(spec, symbols))
    return (1, *inner)


def _pairs(spec: TensorSpec, symbols: tuple[str | None, ...]) -> Iterator[tuple[int, str | None]]:
    # The operator may have given a shape to an input that the graph leaves open.
    names = symbols if len(symbols) == len(spec.shape) else ("",) * len(spec.shape)
    return zip(spec.shape[1:], names[1:], strict=True)


def _ranked(outputs: tuple[TensorSpec, ...], alone: Sequence[Array]) -> tuple[TensorSpec, ...]:
    return tuple(
        spec if spec.shape or not got.ndim else msgspec.structs.replace(spec, shape=(-1,) * got.ndim)
        for spec, got in zip(outputs, alone, strict=True)
    )


def _repeat(run: Run, outputs: Sequence[TensorSpec], inputs: Sequence[Array], alone: Sequence[Array]) -> None:
    """Refutes a model whose answers to one row differ, which leaves nothing to compare."""
    for spec, first, second in zip(outputs, alone, run(inputs), strict=True):
        if first.shape != second.shape or not _close(first, second, spec.datatype):
            raise _Refuted(f"output '{spec.name}' differs from run to run for the same row, so rows cannot be compared")


def _compare(
    run: Run, outputs: Sequence[TensorSpec], inputs: Sequence[Array], alone: Sequence[Sequence[Array]]
) -> None:
    """Runs the batch and holds each of its rows against the answer that the row got alone."""
    rows = len(alone)
    try:
        together = run(inputs)
    except ServingError as error:
        raise _Refuted(f"it runs with 1 row but not with {rows}: {error.message}") from error
    for position, spec in enumerate(outputs):
        got = together[position]
        if not got.ndim:
            raise _Refuted(f"output '{spec.name}' is a scalar whatever the number of rows")
        if got.shape[0] != rows:
            raise _Refuted(
                f"output '{spec.name}' has {_count(got.shape[0])} for {rows} input rows and "
                f"{_count(alone[0][position].shape[0])} for 1"
            )
        for row in range(rows):
            own = alone[row][position]
            if own.ndim == 0 or own.shape[0] != 1:
                raise _Refuted(f"output '{spec.name}' has shape {list(own.shape)} for 1 input row")
            if own.shape[1:] != got.shape[1:]:
                raise _Refuted(
                    f"output '{spec.name}' has rows of shape {list(got.shape[1:])} for {rows} input rows and of shape "
                    f"{list(own.shape[1:])} for 1"
                )
            if not _close(got[row], own[0], spec.datatype):
                raise _Refuted(
                    f"rows influence each other: row {row} of output '{spec.name}' in a batch of {rows} is not what "
                    "the same row gets alone (a softmax, mean or normalisation over the batch, or values quantised "
                    "over it?)"
                )


def _compare_random(run: Run, outputs: Sequence[TensorSpec], inputs: Sequence[Array]) -> None:
    """Compares distinct rows, as random as the model takes them: whole numbers may be indices into something small."""
    for largest in (9, 1, 0):
        random = np.random.default_rng(SEED)
        rows = [[_random(random, value, largest) for value in inputs] for _ in range(ROWS[-1])]
        try:
            alone = [run(row) for row in rows]
        except ServingError:
            continue
        _repeat(run, outputs, rows[0], alone[0])
        _compare(run, outputs, [np.concatenate(values) for values in zip(*rows, strict=True)], alone)
        return


def _random(random: np.random.Generator, like: Array, largest: int) -> Array:
    """Values for one row; a long row repeats a shorter stretch of them, which is as good and costs less."""
    count = min(like.size, MOST_RANDOM)
    if like.dtype != object and like.dtype.kind not in "biu":
        values: Array = np.asarray(random.standard_normal(count, np.float32))
    else:
        values = np.asarray(
            random.integers(0, min(largest, 1) if like.dtype == bool else largest, count, endpoint=True)
        )
    if like.dtype == object:
        texts = np.empty(count, object)
        texts[:] = [b"%d" % number for number in values]
        values = texts
    return np.resize(values.astype(like.dtype, copy=False), like.shape)


def _close(one: Array, other: Array, datatype: str) -> bool:
    if np.array_equal(one, other):
        return True
    if datatype not in FLOATS:
        return False
    tolerance = TOLERANCES.get(datatype)
    return np.allclose(
        one.astype(np.float64), other.astype(np.float64), rtol=tolerance or RTOL, atol=tolerance or ATOL, equal_nan=True
    )


def _dtype(spec: TensorSpec) -> np.dtype[Any]:
    return NUMPY[spec.datatype]


def _count(rows: int) -> str:
    return f"{rows} row{'' if rows == 1 else 's'}"
