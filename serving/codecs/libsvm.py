"""`text/libsvm`: a row a line as `[label] [qid:n] index:value ...`, for models of one float input of shape [N, k].

Labels and query ids are read over, and so is what follows a `#`. Indices count from 1 where the smallest one of the
request is at least 1, else from 0: SageMaker's XGBoost container tells them apart by that. What a row leaves out is NaN
for a model of the convention `missing`, else 0.
Sources: LIBSVM (README, file format); SageMaker's XGBoost container (algorithm mode).
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Final, NoReturn

import numpy as np

from serving.codecs import sparse
from serving.codecs.base import Buffer, Decode, Decoded
from serving.codecs.plan import InputPlan, Tensor
from serving.datatypes import FLOATS, NUMPY
from serving.errors import InvalidInput, MalformedBody

MEDIA_TYPES: Final = ("text/libsvm", "text/x-libsvm")

_MOST_DIGITS: Final = 9


def readable(plan: InputPlan) -> bool:
    """Whether libsvm can carry the model's inputs."""
    tensor = plan.single
    return tensor is not None and plan.batched and len(tensor.shape) == 2 and tensor.datatype in FLOATS


def decoder(plan: InputPlan) -> Decode:
    """Decoder for a model that is `readable`."""
    tensor = plan.only("text/libsvm")
    label = f"input '{tensor.name}'"
    width = tensor.shape[1]
    dtype = NUMPY[tensor.datatype]

    def decode(body: Buffer) -> Decoded:
        lines, sizes, indices, numbers = _entries(bytes(body))
        columns = np.array(indices, np.int64)
        offset = 1 if indices and min(indices) >= 1 else 0
        columns -= offset
        rows = np.repeat(np.arange(len(sizes)), sizes)
        shape = (len(sizes), width if width >= 0 else max(indices, default=0) - offset + 1)
        if indices and columns.max() >= shape[1]:
            at = int(np.argmax(columns >= shape[1]))
            raise InvalidInput(
                f"{label}: line {lines[rows[at]]} has index {indices[at]}; the input has {shape[1]} columns,"
                f" {offset} to {shape[1] - 1 + offset} (indices count from {offset} here)"
            )
        sparse.check_size(tensor, *shape)
        found = np.full(shape, sparse.left_out(plan, tensor), dtype)
        wide = np.array(numbers, np.float64)
        with np.errstate(over="ignore"):
            narrow = wide.astype(dtype)
        lost = np.isinf(narrow) & np.isfinite(wide)
        if lost.any():
            at = int(np.argmax(lost))
            raise InvalidInput(
                f"{label}: line {lines[rows[at]]}, index {indices[at]} is {numbers[at]}, out of range for {tensor.datatype}"
            )
        found[rows, columns] = narrow
        return *plan.assemble([Tensor(tensor.name, None, shape, found.tobytes())]), None

    return decode


def _entries(text: bytes) -> tuple[list[int], list[int], list[int], list[float]]:
    """For each row its line and how many entries it has; for each entry its index and value."""
    lines, sizes = [], []
    indices: list[int] = []
    numbers: list[float] = []
    for line, content in enumerate(text.rstrip().split(b"\n"), 1):
        data, comment, _ = content.partition(b"#")
        tokens = data.split()
        if not tokens:
            if comment:
                continue
            raise MalformedBody(
                f"line {line} is empty; '[label] index:value ...' was expected"
                if text.strip()
                else "the body is empty; lines of '[label] index:value ...' were expected"
            )
        before = len(indices)
        if b":" not in tokens[0]:
            _number(tokens.pop(0), line, "the label")
        if tokens and tokens[0].startswith(b"qid:"):
            _index(tokens.pop(0).partition(b":")[2], line)
        for token in tokens:
            index, colon, value = token.partition(b":")
            if not colon:
                _refuse(line, token, "index:value was expected")
            indices.append(_index(index, line))
            numbers.append(_number(value, line, f"index {indices[-1]}"))
        mine = indices[before:]
        if len(set(mine)) != len(mine):
            raise MalformedBody(f"line {line} has index {Counter(mine).most_common(1)[0][0]} twice")
        lines.append(line)
        sizes.append(len(mine))
    if not lines:
        raise MalformedBody("the body holds nothing but comments; lines of '[label] index:value ...' were expected")
    return lines, sizes, indices, numbers


def _index(text: bytes, line: int) -> int:
    if not text.isdigit() or len(text) > _MOST_DIGITS:
        _refuse(line, text, f"an index is a whole number of at most {_MOST_DIGITS} digits")
    return int(text)


def _number(text: bytes, line: int, what: str) -> float:
    try:
        # Python takes 1_000 for a number, and nobody else does.
        found = float(text.replace(b"_", b"x"))
    except ValueError:
        _refuse(line, text, f"{what} is to be a number")
    if math.isinf(found) and not text[-1:].isalpha():
        _refuse(line, text, f"{what} is out of range")
    return found


def _refuse(line: int, text: bytes, expected: str) -> NoReturn:
    raise MalformedBody(f"line {line} has '{text[:48].decode('utf-8', 'replace')}'; {expected}")
