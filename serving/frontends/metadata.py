"""What the Open Inference Protocol says of the server and its models, in its JSON form; every transport tells the same.

Source: Open Inference Protocol; extensions as Triton names them.
"""

from __future__ import annotations

from typing import Any, Final

import serving
from serving.contract import TensorSpec
from serving.runtime.dataplane import DataPlane
from serving.runtime.invocation import Head

EXTENSIONS: Final = (
    "binary_tensor_data",
    "classification",
    "logging",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "statistics",
    "trace",
)


def server() -> dict[str, Any]:
    """Name, version and extensions of the server."""
    return {"name": "serving", "version": serving.__version__, "extensions": list(EXTENSIONS)}


async def model(plane: DataPlane, head: Head) -> dict[str, Any]:
    """Inputs, outputs and versions of what a head names; a target is loaded to know them. Raises `ServingError`s."""
    found = (await plane.settled(head)).model
    served = plane.snapshot.versions.get(found.name, {found.version: found})
    return {
        "name": found.name,
        "versions": [head.version] if head.version else list(reversed(served)),
        "platform": found.spec.platform,
        "inputs": [_tensor(spec) for spec in found.spec.inputs],
        "outputs": [_tensor(spec) for spec in found.spec.outputs],
    }


def is_ready(plane: DataPlane, head: Head) -> bool:
    """Whether requests to what a head names are answered; a multi-model endpoint is ready whatever of it is loaded."""
    snapshot = plane.snapshot
    takes_targets = head.name in snapshot.multi and head.target_model is None and head.version is None
    return takes_targets or snapshot.loaded(head)


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
