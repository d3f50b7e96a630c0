"""Models that tests of processes serve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import onnx_models as models


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    """A model that gives its FP32[N,4] rows back at once."""
    return models.echo(tmp_path / "echo.onnx", "FP32", ("N", 4))


@pytest.fixture
def slow(tmp_path: Path) -> Callable[[float], Path]:
    """Makes a model `slow` that takes one row of four and so many milliseconds; it is ready without a run."""

    def make(milliseconds: float) -> Path:
        model = models.slow(tmp_path / "slow" / "model.onnx", milliseconds, rows=1)
        (model.parent / "model.yaml").write_text("warmup: false\n")
        return model.parent

    return make
