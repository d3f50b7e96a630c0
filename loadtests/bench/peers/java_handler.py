"""Loaded by the Python workers of multi-model-server and TorchServe, which share this interface: a JSON row in and out.

Both call `handle` once without data when they load the model, then with a list of merged requests.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from onnx_model import OnnxModel  # type: ignore[import-not-found,unused-ignore]

_loaded: list[OnnxModel] = []


def handle(requests: list[dict[str, Any]] | None, context: Any) -> list[Any]:
    """One answer for each of the merged requests, in their order."""
    if not _loaded:
        _loaded.append(OnnxModel(str(Path(context.system_properties["model_dir"]) / "model.onnx")))
    if not requests:
        return []
    answers = _loaded[0].run([_row(request["body"]) for request in requests])
    return [json.dumps(answer) for answer in answers.tolist()]


def _row(body: Any) -> Any:
    """TorchServe parses JSON itself, multi-model-server hands over the bytes."""
    return json.loads(bytes(body)) if isinstance(body, bytes | bytearray) else body
