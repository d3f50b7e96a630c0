"""What becomes of each field of Triton's model configuration: the source of the tables in docs/triton.md.

`python -m serving.objects.pbtxt_fields` writes them anew. A field that is refused or ignored speaks for all that is inside
it; of any other message each field is listed. The reader refuses what is not listed, so a field that Triton adds later is
noticed and never dropped in silence.
Source: Triton's model configuration (model_config.proto) and its ONNX Runtime backend's parameters.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import Enum
from typing import Final, NamedTuple


class Effect(Enum):
    """What becomes of a field that a file sets."""

    HONOURED = "honoured"
    IGNORED = "ignored, with a warning"
    REFUSED = "refused"


class Field(NamedTuple):
    """The effect, and in a few words how it is honoured, what is so instead, or what to do."""

    effect: Effect
    note: str = ""

    @property
    def plain(self) -> str:
        """The note without its marks."""
        return self.note.replace("`", "")


H, I, R = Effect.HONOURED, Effect.IGNORED, Effect.REFUSED  # noqa: E741

_GPU: Final = "there are no settings of the CUDA provider here"
_TENSORRT: Final = "only TensorRT knows it"
_ROWS: Final = "without the batch dimension where `max_batch_size` is over 0; a dimension that varies may be fixed"

FIELDS: Final[Mapping[str, Field]] = {
    "name": Field(H, "the model's name; without it the folder's. Triton wants both to be the same"),
    "platform": Field(H, "`onnxruntime_onnx`; any other is refused"),
    "backend": Field(H, "`onnxruntime`; any other is refused"),
    "runtime": Field(R, "no library is loaded at a model's word"),
    "version_policy.latest.num_versions": Field(H),
    "version_policy.all": Field(H),
    "version_policy.specific.versions": Field(H),
    "max_batch_size": Field(
        H, "rows of a run; larger requests run in pieces. Without `dynamic_batching` each request runs by itself"
    ),
    "input.name": Field(H, "checked against the model; inputs that are not listed are served as the model has them"),
    "input.data_type": Field(H, "checked against the model"),
    "input.format": Field(H, "`FORMAT_NHWC` and `FORMAT_NCHW` need three `dims`; nothing else depends on it"),
    "input.dims": Field(H, f"checked against the model, {_ROWS}"),
    "input.reshape": Field(R, "`dims` have to be the model's own"),
    "input.is_shape_tensor": Field(R, _TENSORRT),
    "input.allow_ragged_batch": Field(R, "requests of different shapes run in different batches"),
    "input.optional": Field(R, "every request brings all inputs"),
    "input.is_non_linear_format_io": Field(R, _TENSORRT),
    "output.name": Field(H, "checked against the model; outputs that are not listed are served too"),
    "output.data_type": Field(H, "checked against the model"),
    "output.dims": Field(H, f"checked against the model, {_ROWS}"),
    "output.reshape": Field(R, "`dims` have to be the model's own"),
    "output.label_filename": Field(
        H, "a line for each class, beside `config.pbtxt`, for the classification extension; no override can name one"
    ),
    "output.is_shape_tensor": Field(R, _TENSORRT),
    "output.is_non_linear_format_io": Field(R, _TENSORRT),
    "batch_input": Field(R, "no input is made up by the server"),
    "batch_output": Field(R, "rows are given back to their callers by their number alone"),
    "optimization.graph.level": Field(H, "-1 basic, 0 all, 1 extended, 2 none"),
    "optimization.priority": Field(I, "instances share the processor as the system lets them"),
    "optimization.cuda": Field(R, _GPU),
    "optimization.execution_accelerators": Field(R, "`onnx.providers` in a `model.yaml` names execution providers"),
    "optimization.input_pinned_memory": Field(I, "inputs are not copied to a device by the server"),
    "optimization.output_pinned_memory": Field(I, "outputs are not copied from a device by the server"),
    "optimization.gather_kernel_buffer_threshold": Field(I, "batches are put together in host memory"),
    "optimization.eager_batching": Field(I, "a batch is formed when a slot is free"),
    "dynamic_batching": Field(H, "requests are merged; needs a `max_batch_size`"),
    "dynamic_batching.preferred_batch_size": Field(H, "rows"),
    "dynamic_batching.max_queue_delay_microseconds": Field(H),
    "dynamic_batching.preserve_ordering": Field(H, "with one instance; with several it is refused"),
    "dynamic_batching.priority_levels": Field(H, "1024 at most"),
    "dynamic_batching.default_priority_level": Field(H, "0: the one in the middle"),
    "dynamic_batching.default_queue_policy.timeout_action": Field(H, "`REJECT`; `DELAY` is refused"),
    "dynamic_batching.default_queue_policy.default_timeout_microseconds": Field(
        H, "of the whole request, not of its time in the queue alone; 60 s where nothing is said"
    ),
    "dynamic_batching.default_queue_policy.allow_timeout_override": Field(
        H, "requests may always ask for less time, never for more; false, next to a default, is warned of"
    ),
    "dynamic_batching.default_queue_policy.max_queue_size": Field(I, "the queue is bound by the predicted wait"),
    "dynamic_batching.priority_queue_policy": Field(R, "all priorities have the default's timeout"),
    "sequence_batching": Field(R, "sequences are not built yet"),
    "ensemble_scheduling": Field(R, "ensembles are not built yet"),
    "instance_group.name": Field(I, "instances have no names"),
    "instance_group.kind": Field(
        H,
        "`KIND_CPU`, `KIND_AUTO` (the CPU, unless `gpus` are named), or `KIND_GPU`: the CUDA provider, an error where it "
        "does not work; `KIND_MODEL` and mixtures are refused",
    ),
    "instance_group.count": Field(
        H, "slots in all groups together, in each worker; 1 where nothing is said (Triton runs ONNX on CPUs with 2)"
    ),
    "instance_group.rate_limiter": Field(R, "a slot is free as soon as its run has ended"),
    "instance_group.gpus": Field(H, "GPU 0; others are refused"),
    "instance_group.secondary_devices": Field(R, "there are none"),
    "instance_group.profile": Field(I, _TENSORRT),
    "instance_group.passive": Field(R, "every instance serves"),
    "instance_group.host_policy": Field(R, "there are none"),
    "default_model_filename": Field(H, "a plain name"),
    "cc_model_filenames": Field(R, "one file serves every machine; name it with `default_model_filename`"),
    "metric_tags": Field(I, "metrics carry the model's name"),
    "parameters": Field(H, "by their key, below"),
    "model_warmup": Field(I, "every model is warmed up with zeros"),
    "model_operations": Field(R, "no library is loaded at a model's word"),
    "model_transaction_policy.decoupled": Field(R, "the ONNX model of a config.pbtxt gives one answer to a request"),
    "model_repository_agents": Field(R, "no library is loaded at a model's word"),
    "response_cache.enable": Field(H, "within the server's `--response-cache-bytes`, without which it is an error"),
    "model_metrics": Field(I, "metrics carry the model's name, and have buckets of their own"),
}
"""By path from the top of the message; a map is one field."""

MESSAGES: Final = frozenset(path[:place] for path in FIELDS for place, char in enumerate(path) if char == ".")
"""The messages whose fields are listed one by one."""

_CUDA: Final = Field(R, _GPU)

PARAMETERS: Final[Mapping[str, Field]] = {
    "intra_op_thread_count": Field(H, "1 where nothing is said or 0; Triton then takes one for each core"),
    "execution_mode": Field(H, "0 sequential, 1 parallel"),
    "inter_op_thread_count": Field(I, "it is 1"),
    "enable_mem_arena": Field(I, "all models share one arena"),
    "enable_mem_pattern": Field(I, "it is ONNX Runtime's usual"),
    "memory.enable_memory_arena_shrinkage": Field(I, "the arena is shrunk when a model goes"),
    "share_session_between_instances": Field(I, "all instances run in one session"),
    "cudnn_conv_algo_search": _CUDA,
    "gpu_mem_limit": _CUDA,
    "arena_extend_strategy": _CUDA,
    "do_copy_in_default_stream": _CUDA,
}
"""The keys that Triton's ONNX Runtime backend reads."""

SESSION_OPTIONS: Final = ("session.", "optimization.", "mlas.")
"""How the keys of ONNX Runtime's session options begin."""

SESSION_OPTION: Final = Field(
    H, "a session option of ONNX Runtime; one that `onnx.session_options` may not have is refused"
)

OTHER_PARAMETER: Final = Field(I, "nothing reads it")


def parameter(key: str) -> Field:
    """What becomes of a parameter."""
    if key in PARAMETERS:
        return PARAMETERS[key]
    return SESSION_OPTION if key.startswith(SESSION_OPTIONS) else OTHER_PARAMETER


def tables() -> str:
    """Both tables, as Markdown."""
    keys = [(f"`{key}`", field) for key, field in PARAMETERS.items()]
    keys.append((", ".join(f"`{prefix}*`" for prefix in SESSION_OPTIONS), SESSION_OPTION))
    keys.append(("any other", OTHER_PARAMETER))
    fields = [(f"`{path}`", field) for path, field in FIELDS.items()]
    return f"{_table('Field', fields)}\n{_table('Key of `parameters`', keys)}"


def _table(title: str, rows: list[tuple[str, Field]]) -> str:
    lines = [f"| {name} | {field.effect.value} | {field.note} |\n" for name, field in rows]
    return "".join([f"| {title} | Effect | Note |\n|--|--|--|\n", *lines])


if __name__ == "__main__":
    sys.stdout.write(tables())
