"""Rows given by their entries: what a row leaves out is 0, or NaN for a model of the convention `missing`."""

from __future__ import annotations

from typing import Final

import numpy as np

from serving.codecs.plan import InputPlan
from serving.contract import TensorSpec
from serving.datatypes import FLOATS
from serving.errors import InvalidInput

MOST_BYTES: Final = 64 << 20
"""Of the filled rows of one request, as float64: a few bytes of a body could ask for any number."""


def left_out(plan: InputPlan, tensor: TensorSpec) -> float:
    """What stands for a value that a row leaves out."""
    return np.nan if plan.spec.conventions.missing and tensor.datatype in FLOATS else 0.0


def check_size(tensor: TensorSpec, rows: int, width: int) -> None:
    """Raises `InvalidInput` for more rows than are filled up at once."""
    if rows * width * 8 > MOST_BYTES:
        raise InvalidInput(
            f"input '{tensor.name}' would have {rows} rows of {width} values with all that they leave out;"
            f" at most {MOST_BYTES // 8} values are filled up, send fewer rows at once"
        )
