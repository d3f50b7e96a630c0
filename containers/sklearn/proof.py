"""Proves by running it what an estimator answers, and that a row's answer does not depend on its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from containers.sklearn.features import Features
from serving.contract import Array
from serving.datatypes import BYTES, NUMPY
from serving.errors import ServingError

ROWS: Final = 3
SEED: Final = 7

RTOL: Final = 1e-5
ATOL: Final = 1e-7
"""What the order of sums in a matrix product may change: some estimators work in 32 bits."""

Run = Callable[[Sequence[Array]], Array]


def tried(run: Run, features: Features) -> tuple[list[list[Array]], list[Array], str]:
    """Rows that the estimator takes, one at a time, with their answers; without any, why it does not."""
    failure = ""
    for rows in _candidates(features):
        try:
            return rows, [run(row) for row in rows], ""
        except ServingError as error:
            failure = failure or error.message
    return [], [], failure


def runs(run: Run, features: Features) -> bool:
    """Whether the estimator takes a row of zeros: one that needs wider numbers takes none, and is told by it."""
    row = [_array(features, position, _constant(0), 0) for position in range(len(features.specs))]
    try:
        run(row)
    except ServingError:
        return False
    return True


def why_not_batched(run: Run, rows: list[list[Array]], answers: list[Array]) -> str:
    """Why rows may not be merged; "" where they may."""
    for number, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        if not answer.ndim or len(answer) != 1:
            return f"it answers one row with an array of shape {list(answer.shape)}"
        if not _same(run(row), answer):
            return f"row {number} of random values has another answer each time"
    if all(_equal(row, rows[0]) for row in rows):
        return "none of the random rows that were tried is taken, so that it cannot be proved that rows are independent"
    order = [*range(len(rows)), 0]
    try:
        together = run([np.concatenate([rows[number][column] for number in order]) for column in range(len(rows[0]))])
    except ServingError as error:
        return f"it runs with 1 row but not with {len(order)}: {error.message}"
    if not together.ndim or len(together) != len(order):
        return f"it answers {len(order)} rows with an array of shape {list(together.shape)}"
    for place, number in enumerate(order):
        if not _same(together[place : place + 1], answers[number]):
            return f"rows influence each other: row {place} in a batch of {len(order)} is not what the row gets alone"
    return ""


def takes_missing(run: Run, row: list[Array]) -> bool:
    """Whether numbers may be missing: the estimator takes a row without any, and answers it."""
    without = [np.full_like(value, np.nan) if value.dtype.kind == "f" else value for value in row]
    if all(value.dtype.kind != "f" for value in row):
        return False
    try:
        run(without)
    except ServingError:
        return False
    return True


def _candidates(features: Features) -> Iterator[list[list[Array]]]:
    """Several rows each time: random ones first, and then plainer ones, which more estimators take."""
    random = np.random.default_rng(SEED)
    for numbers in (random.standard_normal, random.random, partial(random.integers, 0, 3)):
        yield [[_array(features, position, _sized(numbers), row) for position in range(len(features.specs))]
               for row in range(ROWS)]  # fmt: skip
    for number in (0, 1, 2):
        filled = _constant(number)
        yield [[_array(features, position, filled, row) for position in range(len(features.specs))] for row in range(2)]


def _sized(numbers: Callable[..., Any]) -> Callable[[Any], Array]:
    return lambda shape: np.asarray(numbers(size=shape))


def _constant(number: float) -> Callable[[Any], Array]:
    return lambda shape: np.full(shape, number, np.float64)


def _array(features: Features, position: int, numbers: Callable[[Any], Array], row: int) -> Array:
    """One row of one input: texts that the estimator knows, or numbers. Read-only, as callers' rows may be."""
    spec = features.specs[position]
    shape = (1, *spec.shape[1:])
    if spec.datatype == BYTES:
        array = np.empty(shape, object)
        several = len(features.specs) > 1
        texts = [features.texts[position]] if several or features.whole else features.texts
        array.reshape(-1)[:] = [(known or ("1",))[row % len(known or ("1",))].encode() for known in texts]
        return array
    array = np.asarray(numbers(shape))
    dtype = NUMPY[spec.datatype]
    array = array.astype(dtype) if dtype.kind == "f" else np.abs(array).astype(dtype)
    array.flags.writeable = False
    return array


def _equal(one: list[Array], other: list[Array]) -> bool:
    return all(np.array_equal(value, also) for value, also in zip(one, other, strict=True))


def _same(one: Array, other: Array) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    return bool(np.allclose(one, other, rtol=RTOL, atol=ATOL, equal_nan=True))
