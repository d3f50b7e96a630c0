"""Triton's config.pbtxt: what is taken over, what is warned of, what is refused, always by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serving.contract import BatchingConfig, ModelConfig, OnnxConfig, TensorConfig, VersionPolicy
from serving.errors import ConfigurationError
from serving.objects import pbtxt

WHOLE = """
name: "densenet_onnx"
platform: "onnxruntime_onnx"
max_batch_size: 16
input [{ name: "data_0" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 224, 224 ] }]
output [
  { name: "fc6_1" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" },
  { name: "text" data_type: TYPE_STRING dims: [ -1 ] }
]
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 250
  priority_levels: 3
  default_priority_level: 2
  default_queue_policy { default_timeout_microseconds: 1500000 allow_timeout_override: true }
}
instance_group [{ kind: KIND_CPU count: 2 }, { count: 1 }]
optimization { graph { level: 1 } }
parameters { key: "intra_op_thread_count" value { string_value: "4" } }
parameters { key: "execution_mode" value { string_value: "1" } }
"""


def read(directory: Path, text: str) -> pbtxt.TritonModel:
    file = directory / "config.pbtxt"
    file.write_text(text)
    return pbtxt.read(file)


def test_what_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\nother thing\n")
    model = read(tmp_path, WHOLE)
    assert model == pbtxt.TritonModel(
        config=ModelConfig(
            name="densenet_onnx",
            inputs=(TensorConfig(name="data_0", datatype="FP32", shape=(-1, 3, 224, 224)),),
            outputs=(
                TensorConfig(name="fc6_1", datatype="FP32", shape=(-1, 3), labels=("cat", "dog", "other thing")),
                TensorConfig(name="text", datatype="BYTES", shape=(-1, -1)),
            ),
            batching=BatchingConfig(
                max_batch_size=16,
                preferred_batch_sizes=(4, 8),
                max_queue_delay_us=250,
                priority_levels=3,
                default_priority=2,
                default_timeout_s=1.5,
            ),
            onnx=OnnxConfig(intra_op_threads=4, execution_mode="parallel", graph_optimization_level="extended"),
            slots=3,
        ),
        filename="",
        warnings=(),
    )


def test_an_empty_file_turns_merging_off(tmp_path: Path) -> None:
    assert read(tmp_path, "") == pbtxt.TritonModel(
        config=ModelConfig(batching=BatchingConfig(merge_requests=False)), filename="", warnings=()
    )


def test_without_batching_dims_hold_the_batch_dimension(tmp_path: Path) -> None:
    model = read(tmp_path, 'input { name: "x" data_type: TYPE_BF16 dims: [ -1, 3 ] } output { name: "y" }')
    assert model.config.inputs == (TensorConfig(name="x", datatype="BF16", shape=(-1, 3)),)
    assert model.config.outputs == (TensorConfig(name="y"),)


def test_without_dynamic_batching_requests_are_not_merged(tmp_path: Path) -> None:
    model = read(tmp_path, 'max_batch_size: 8 input { name: "x" data_type: TYPE_INT64 dims: 3 }')
    assert model.config.batching == BatchingConfig(max_batch_size=8, merge_requests=False)
    assert model.config.inputs[0].shape == (-1, 3)
    assert len(model.warnings) == 1
    assert (
        "requests are not merged, as in Triton; add `dynamic_batching { }` to merge up to 8 rows" in model.warnings[0]
    )


def test_dynamic_batching_with_nothing_in_it(tmp_path: Path) -> None:
    model = read(tmp_path, "max_batch_size: 8 dynamic_batching { }")
    assert model.config.batching == BatchingConfig(max_batch_size=8)
    assert model.warnings == ()


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("", VersionPolicy()),
        ("version_policy { all { } }", VersionPolicy(all=True)),
        ("version_policy { latest { num_versions: 3 } }", VersionPolicy(latest=3)),
        ("version_policy { latest { } }", VersionPolicy(latest=1)),
        ("version_policy { specific { versions: [ 1, 4 ] } }", VersionPolicy(specific=(1, 4))),
    ],
)
def test_version_policies(tmp_path: Path, text: str, policy: VersionPolicy) -> None:
    model = read(tmp_path, text)
    assert model.config.version_policy == policy
    assert model.warnings == ()


def test_gpu_instances_ask_for_the_cuda_provider(tmp_path: Path) -> None:
    model = read(tmp_path, "instance_group { kind: KIND_GPU gpus: [ 0 ] }")
    assert model.config.onnx.providers == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert model.config.slots == 1


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ('model_warmup { name: "w" batch_size: 1 }', "model_warmup has no effect"),
        ('metric_tags { key: "a" value: "b" }', "metric_tags has no effect"),
        ("optimization { priority: PRIORITY_MAX }", "optimization.priority has no effect"),
        ("optimization { eager_batching: true }", "optimization.eager_batching has no effect"),
        ("optimization { input_pinned_memory { enable: true } }", "optimization.input_pinned_memory has no effect"),
        (
            "max_batch_size: 2 dynamic_batching { default_queue_policy { max_queue_size: 9 } }",
            "max_queue_size has no effect: the queue is bound by the predicted wait",
        ),
        (
            "max_batch_size: 2 dynamic_batching { default_queue_policy { default_timeout_microseconds: 9 } }",
            "a request may ask for a shorter timeout all the same",
        ),
        ('parameters { key: "intra_op_thread_count" value { string_value: "0" } }', "0 means 1 thread here"),
        ('parameters { key: "inter_op_thread_count" value { string_value: "4" } }', "inter_op_thread_count has no eff"),
    ],
)
def test_what_has_no_effect_is_warned_of(tmp_path: Path, text: str, warning: str) -> None:
    (found,) = read(tmp_path, text).warnings
    assert found.startswith("config.pbtxt: ")
    assert warning in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('platform: "tensorrt_plan"', "platform is 'tensorrt_plan'; only onnxruntime_onnx can be served"),
        ('backend: "python"', "backend is 'python'; only onnxruntime can be served"),
        ("max_batch_size: -1", "max_batch_size is -1"),
        ("dynamic_batching { }", "dynamic_batching needs max_batch_size to be 1 or more"),
        ("sequence_batching { }", "sequence_batching cannot be honoured; take it out"),
        ("ensemble_scheduling { }", "ensemble_scheduling cannot be honoured"),
        ("model_transaction_policy { decoupled: true }", "model_transaction_policy: decoupled cannot be honoured"),
        ("batch_input { kind: BATCH_ELEMENT_COUNT }", "batch_input cannot be honoured"),
        ('batch_output { target_name: "y" }', "batch_output cannot be honoured"),
        ('runtime: "x"', "runtime cannot be honoured"),
        ('cc_model_filenames { key: "7.5" value: "m" }', "cc_model_filenames cannot be honoured"),
        ('model_operations { op_library_filename: "/lib/evil.so" }', "model_operations cannot be honoured"),
        ('model_repository_agents { agents { name: "a" } }', "model_repository_agents cannot be honoured"),
        ('input { name: "x" dims: 1 reshape { shape: [] } }', "input 'x': reshape cannot be honoured"),
        ('input { name: "x" allow_ragged_batch: true }', "input 'x': allow_ragged_batch cannot be honoured"),
        ('input { name: "x" optional: true }', "input 'x': optional cannot be honoured"),
        ('output { name: "y" is_shape_tensor: true }', "output 'y': is_shape_tensor cannot be honoured"),
        ('input { name: "x" dims: [ 4 ] format: FORMAT_NHWC }', r"is FORMAT_NHWC with dims \[4\]; three were expected"),
        ('input { name: "x" dims: [ 0 ] }', r"input 'x' has dims \[0\]"),
        ('input { name: "x" dims: [ -2 ] }', r"input 'x' has dims \[-2\]"),
        ('output { name: "y" label_filename: "../labels" }', "a file in the same directory was expected"),
        ('output { name: "y" label_filename: "gone.txt" }', "label_filename is 'gone.txt'"),
        ('default_model_filename: "../m.onnx"', "a plain file name is needed"),
        ('default_model_filename: "/m.onnx"', "a plain file name is needed"),
        (
            "max_batch_size: 2 dynamic_batching { preferred_batch_size: [ 0 ] }",
            r"Expected int >= 1 - at \$\.batching\.pref",
        ),
        (
            "max_batch_size: 2 dynamic_batching { priority_queue_policy { key: 1 value { } } }",
            "dynamic_batching: priority_queue_policy cannot be honoured",
        ),
        (
            "max_batch_size: 2 dynamic_batching { default_queue_policy { timeout_action: DELAY } }",
            "timeout_action is DELAY",
        ),
        (
            "max_batch_size: 2 dynamic_batching { preserve_ordering: true } instance_group { count: 2 }",
            "preserve_ordering holds with one instance only",
        ),
        ("instance_group { count: -1 }", "instance_group has count -1"),
        ("instance_group { gpus: [ 0, 1 ] }", r"gpus \[0, 1\]"),
        ("instance_group { kind: KIND_CPU gpus: [ 0 ] }", "instance_group is KIND_CPU and names gpus"),
        ("instance_group { kind: KIND_MODEL }", "instance_group has KIND_MODEL"),
        ("instance_group { kind: KIND_CPU } instance_group { kind: KIND_GPU }", "has KIND_CPU and KIND_GPU"),
        ("instance_group { rate_limiter { priority: 1 } }", "instance_group: rate_limiter cannot be honoured"),
        ("instance_group { passive: true }", "instance_group: passive cannot be honoured"),
        ("optimization { cuda { graphs: true } }", "optimization: cuda cannot be honoured"),
        (
            'optimization { execution_accelerators { gpu_execution_accelerator { name: "tensorrt" } } }',
            "execution_accelerators cannot be honoured",
        ),
        ("optimization { graph { level: 7 } }", "graph.level is 7"),
        ('parameters { key: "cudnn_conv_algo_search" value { string_value: "1" } }', "has cudnn_conv_algo_search '1'"),
        ('parameters { key: "execution_mode" value { string_value: "2" } }', "has execution_mode '2'"),
        ('parameters { key: "intra_op_thread_count" value { string_value: "x" } }', "intra_op_thread_count is 'x'"),
        ("nonsense: 1", "is not a Triton model configuration: 1:1 .*nonsense"),
        ("name: ", "is not a Triton model configuration"),
        ("input { " * 5000, "is not a Triton model configuration"),
        ("#" * 1_100_000, "is larger than 1048576 bytes"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        read(tmp_path, text)
    assert caught.value.message.startswith(str(tmp_path / "config.pbtxt"))
    assert "\n" not in caught.value.message


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="is not a Triton model configuration"):
        pbtxt.read(tmp_path / "config.pbtxt")


def test_without_tritonclient_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text("")
    code = (
        "import sys; sys.modules['tritonclient'] = None\n"
        "from pathlib import Path; from serving.errors import MissingExtra; from serving.objects import pbtxt\n"
        "try: pbtxt.read(Path(sys.argv[1]))\n"
        "except MissingExtra as error: print(error.message)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "config.pbtxt")]
    assert "pip install 'serving[triton]'" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
