"""The model configuration extension: what is in force of a served model, in the words of Triton's model configuration.

It is made of what was loaded and of the settings that hold for it, not of a file: what a `config.pbtxt` says and this server
does not do is not in it. Numbers of 64 bits are plain numbers, as Triton's REST answer has them.
Sources: Triton's model configuration extension; model_config.proto.
"""

from __future__ import annotations

from typing import Any, Final

from serving.contract import ModelConfig, TensorSpec, VersionPolicy
from serving.datatypes import BYTES
from serving.runtime.dataplane import DataPlane
from serving.runtime.invocation import Head
from serving.runtime.model import Model

ONNX: Final = "onnxruntime_onnx"
ONNX_BACKEND: Final = "onnxruntime"

GRAPH_LEVELS: Final = {"basic": -1, "all": 0, "extended": 1, "disabled": 2}

ON_GPU: Final = "CUDAExecutionProvider"


async def model_config(plane: DataPlane, head: Head) -> dict[str, Any]:
    """The JSON form of `inference.ModelConfig` for what a head names; a target is loaded for it.

    Raises the `ServingError` to answer with where nothing is served under that name and version.
    """
    return describe((await plane.settled(head)).model)


def describe(model: Model) -> dict[str, Any]:
    """The JSON form of `inference.ModelConfig` for a loaded model."""
    spec, config, policy = model.spec, model.config, model.batcher.policy
    is_onnx = spec.platform == ONNX
    said: dict[str, Any] = {
        "name": model.name,
        "platform": spec.platform,
        "backend": ONNX_BACKEND if is_onnx else config.container or spec.platform,
        "version_policy": _versions(config.version_policy),
        "max_batch_size": policy.max_rows if spec.batched else 0,
        "input": [_input(tensor, batched=spec.batched) for tensor in spec.inputs],
        "output": [_output(tensor, batched=spec.batched) for tensor in spec.outputs],
        "instance_group": [_instances(config, is_onnx=is_onnx)],
        "parameters": _parameters(config) if is_onnx else {},
        "model_transaction_policy": {"decoupled": spec.streams},
        "response_cache": {"enable": config.response_cache},
    }
    if policy.max_rows > 1 and policy.merge:
        said["dynamic_batching"] = {
            "preferred_batch_size": list(policy.preferred_rows),
            "max_queue_delay_microseconds": config.batching.max_queue_delay_us,
            "preserve_ordering": False,
            "priority_levels": policy.levels,
            "default_priority_level": model.priority,
            "default_queue_policy": {
                "timeout_action": "REJECT",
                "default_timeout_microseconds": round(policy.default_timeout_s * 1e6),
                "allow_timeout_override": True,
                "max_queue_size": 0,
            },
        }
    if is_onnx and config.onnx.graph_optimization_level in GRAPH_LEVELS:
        said["optimization"] = {"graph": {"level": GRAPH_LEVELS[config.onnx.graph_optimization_level]}}
    return said


def _versions(policy: VersionPolicy) -> dict[str, Any]:
    if policy.all:
        return {"all": {}}
    if policy.specific:
        return {"specific": {"versions": list(policy.specific)}}
    return {"latest": {"num_versions": policy.latest or 1}}


def _input(spec: TensorSpec, *, batched: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("is_shape_tensor", "allow_ragged_batch", "optional"), False)
    return {**_tensor(spec, batched=batched), "format": "FORMAT_NONE", **flags}


def _output(spec: TensorSpec, *, batched: bool) -> dict[str, Any]:
    return {**_tensor(spec, batched=batched), "label_filename": "", "is_shape_tensor": False}


def _tensor(spec: TensorSpec, *, batched: bool) -> dict[str, Any]:
    return {
        "name": spec.name,
        "data_type": "TYPE_STRING" if spec.datatype == BYTES else f"TYPE_{spec.datatype}",
        "dims": list(spec.shape[1:] if batched else spec.shape),
    }


def _instances(config: ModelConfig, *, is_onnx: bool) -> dict[str, Any]:
    on_gpu = is_onnx and ON_GPU in config.onnx.providers
    return {
        "kind": "KIND_GPU" if on_gpu else "KIND_CPU",
        "count": config.slots,
        "gpus": [0] if on_gpu else [],
    }


def _parameters(config: ModelConfig) -> dict[str, Any]:
    """What Triton's ONNX Runtime backend calls the settings of a session."""
    onnx = config.onnx
    values = {
        "intra_op_thread_count": str(onnx.intra_op_threads),
        "inter_op_thread_count": "1",
        "execution_mode": "1" if onnx.execution_mode == "parallel" else "0",
        **onnx.session_options,
    }
    return {key: {"string_value": value} for key, value in values.items()}
