"""Answers as the clients read them, against those of the model's own library."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tests.support.notebook import Rows

CLOSE = 1e-6


def numbers(answer: Any) -> list[float]:
    """All numbers of an answer in their order: CSV as one text or in fields, JSON as the containers wrap it, arrays."""
    if isinstance(answer, str):
        return [float(field) for line in answer.split("\n") if line for field in line.split(",")]
    if isinstance(answer, dict):
        (answer,) = answer.values()
    if isinstance(answer, Iterable):
        return [number for each in answer for number in numbers(each)]
    return [float(answer)]


def close(answer: Any, expected: Rows) -> None:
    """The same but for what the text of a number leaves out."""
    np.testing.assert_allclose(numbers(answer), expected.ravel(), rtol=0, atol=CLOSE)


def same(answer: Any, expected: Rows) -> None:
    """The same to the last bit."""
    np.testing.assert_array_equal(np.array(numbers(answer), expected.dtype), expected.ravel())
