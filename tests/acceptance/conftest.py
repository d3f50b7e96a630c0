"""The models and servers that the clients under test call."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import onnx_models as models
from tests.support import server as support
from tests.support.server import Server


def echo_of(datatype: str) -> str:
    """The model that gives a tensor of that datatype back."""
    return f"echo-{datatype.lower()}"


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that echoes each datatype, and a few with other properties; `limited` has settings, `from_triton` Triton's."""
    root = tmp_path_factory.mktemp("repository")
    for datatype in models.ELEMENT_TYPES:
        models.echo(root / echo_of(datatype) / "model.onnx", datatype)
    models.arithmetic(root / "arithmetic" / "model.onnx")
    models.table(root / "table" / "model.onnx")
    models.echo(root / "limited" / "model.onnx", "FP32", ("N", 4))
    (root / "limited" / "model.yaml").write_text(
        """\
version: 3
inputs:
  - {name: x, features: [north, east, south, west]}
outputs:
  - {name: y, labels: [north, east, south, west]}
batching:
  priority_levels: 3
"""
    )
    models.echo(root / "from_triton" / "2" / "model.onnx", "FP32", ("N", 3))
    models.echo(root / "from_triton" / "1" / "model.onnx", "FP32", ("N", 5))
    (root / "from_triton" / "config.pbtxt").write_text(
        """\
name: "from_triton"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [3] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [3] }]
dynamic_batching { preferred_batch_size: [4, 8] max_queue_delay_microseconds: 100 }
"""
    )
    return root


@pytest.fixture(scope="session")
def model_server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the repository; tests must leave it as they found it."""
    state_dir = tmp_path_factory.mktemp("model-server") / "state"
    with support.running("--model-repository", repository, state_dir=state_dir) as server:
        yield server
