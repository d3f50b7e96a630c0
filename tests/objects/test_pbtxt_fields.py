"""The table of config.pbtxt's fields: as Triton's schema has them, as the reader treats them, as the page says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format, text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from tritonclient.grpc import model_config_pb2

from serving.contract import OnnxConfig
from serving.errors import ConfigurationError
from serving.objects import pbtxt, pbtxt_fields
from serving.objects.pbtxt import TritonModel
from serving.objects.pbtxt_fields import FIELDS, MESSAGES, PARAMETERS, Effect

PAGE = Path(__file__).parents[2] / "docs" / "triton.md"

MODEL = model_config_pb2.ModelConfig.DESCRIPTOR


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def unlisted(message: Descriptor, prefix: str = "") -> Iterator[str]:
    """Fields of the schema that the table leaves out, and fields of it that stop short of what they hold."""
    for field in message.fields:
        path = prefix + field.name
        known = FIELDS.get(path)
        if known is not None and known.effect is not Effect.HONOURED:
            continue
        if field.message_type is None or is_map(field) or not field.message_type.fields:
            if known is None:
                yield path
        else:
            yield from unlisted(field.message_type, f"{path}.")


def chain(path: str) -> list[FieldDescriptor]:
    """The fields that lead to this one, and itself. Raises `KeyError` where the schema has no such field."""
    found: list[FieldDescriptor] = []
    message = MODEL
    for name in path.split("."):
        field = message.fields_by_name[name]
        found.append(field)
        message = field.message_type
    return found


def value_of(field: FieldDescriptor) -> Any:
    """A value that is not the one that stands for nothing."""
    if is_map(field):
        inner = field.message_type.fields_by_name["value"]
        return {"1": value_of(inner)}
    if field.message_type is not None:
        return {}
    if field.enum_type is not None:
        return field.enum_type.values[1].name
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return True
    return "x" if field.cpp_type == FieldDescriptor.CPPTYPE_STRING else 1


def document(path: str, *, set_: bool) -> dict[str, Any]:
    """The message with this field, or with all that it lies in but itself."""
    whole: dict[str, Any] = {"max_batch_size": 4} if path.startswith("dynamic_batching") else {}
    inside = whole
    *fields, last = chain(path)
    for field in fields:
        value: dict[str, Any] = {"name": "x"} if field.name in ("input", "output") else {}
        inside[field.name] = [value] if field.is_repeated else value
        inside = value
    if set_:
        value = value_of(last)
        inside[last.name] = [value] if last.is_repeated and not is_map(last) else value
    return whole


def read(directory: Path, text: str) -> TritonModel:
    file = directory / "config.pbtxt"
    file.write_text(text)
    return pbtxt.read(file)


def read_field(directory: Path, path: str, *, set_: bool) -> TritonModel:
    message = json_format.ParseDict(document(path, set_=set_), model_config_pb2.ModelConfig())
    return read(directory, text_format.MessageToString(message))


def paths(effect: Effect) -> list[str]:
    return [path for path, field in FIELDS.items() if field.effect is effect]


# ---------------------------------------------------------------- the schema


def test_every_field_of_the_schema_is_listed() -> None:
    assert list(unlisted(MODEL)) == []


@pytest.mark.parametrize("path", FIELDS)
def test_every_listed_field_is_in_the_schema(path: str) -> None:
    assert chain(path)[-1].name == path.rpartition(".")[2]


def test_nothing_is_listed_inside_a_field_that_speaks_for_all_of_it() -> None:
    assert {"dynamic_batching", "dynamic_batching.default_queue_policy", "input"} <= MESSAGES
    assert not MESSAGES & {*paths(Effect.IGNORED), *paths(Effect.REFUSED)}


# ---------------------------------------------------------------- the reader


@pytest.mark.parametrize("path", paths(Effect.IGNORED))
def test_an_ignored_field_is_warned_of_and_changes_nothing(tmp_path: Path, path: str) -> None:
    without = read_field(tmp_path, path, set_=False)
    model = read_field(tmp_path, path, set_=True)
    assert model.config == without.config
    (warning,) = set(model.warnings) - set(without.warnings)
    assert warning == f"config.pbtxt: {path} has no effect: {FIELDS[path].plain}"


@pytest.mark.parametrize("path", paths(Effect.REFUSED))
def test_a_refused_field_is_named_with_what_to_do(tmp_path: Path, path: str) -> None:
    read_field(tmp_path, path, set_=False)
    with pytest.raises(ConfigurationError) as caught:
        read_field(tmp_path, path, set_=True)
    field = path.rpartition(".")[2]
    assert caught.value.message.startswith(f"{tmp_path / 'config.pbtxt'}: ")
    assert f"{field} cannot be honoured; take it out: {FIELDS[path].plain}" in caught.value.message
    assert path.partition(".")[0] in caught.value.message


QUEUED = "max_batch_size: 4 dynamic_batching { default_queue_policy { %s } }"
BATCHED = "max_batch_size: 4 dynamic_batching { %s }"
GROUP = "instance_group { %s }"
IN = 'input { name: "x" %s }'
OUT = 'output { name: "y" %s }'

HONOURED: dict[str, tuple[str, str]] = {
    "name": ("", 'name: "m"'),
    "platform": ('platform: "onnxruntime_onnx"', 'platform: "tensorflow_savedmodel"'),
    "backend": ('backend: "onnxruntime"', 'backend: "python"'),
    "version_policy.latest.num_versions": (
        "version_policy { latest { num_versions: 2 } }",
        "version_policy { latest { num_versions: 3 } }",
    ),
    "version_policy.all": ("", "version_policy { all { } }"),
    "version_policy.specific.versions": (
        "version_policy { specific { versions: 1 } }",
        "version_policy { specific { versions: [ 1, 2 ] } }",
    ),
    "max_batch_size": ("max_batch_size: 4 dynamic_batching { }", "max_batch_size: 8 dynamic_batching { }"),
    "input.name": ('input { name: "x" }', 'input { name: "y" }'),
    "input.data_type": (IN % "data_type: TYPE_FP32", IN % "data_type: TYPE_STRING"),
    "input.format": (IN % "dims: [ 4 ]", IN % "dims: [ 4 ] format: FORMAT_NCHW"),
    "input.dims": (IN % "dims: [ 4 ]", IN % "dims: [ -1 ]"),
    "output.name": ('output { name: "x" }', 'output { name: "y" }'),
    "output.data_type": (OUT % "data_type: TYPE_FP32", OUT % "data_type: TYPE_FP64"),
    "output.dims": (OUT % "dims: [ 4 ]", OUT % "dims: [ 4, 1 ]"),
    "output.label_filename": (OUT % "", OUT % 'label_filename: "labels.txt"'),
    "optimization.graph.level": ("optimization { graph { level: -1 } }", "optimization { graph { level: 2 } }"),
    "dynamic_batching": ("max_batch_size: 4", BATCHED % ""),
    "dynamic_batching.preferred_batch_size": (BATCHED % "", BATCHED % "preferred_batch_size: 2"),
    "dynamic_batching.max_queue_delay_microseconds": (BATCHED % "", BATCHED % "max_queue_delay_microseconds: 7"),
    "dynamic_batching.preserve_ordering": (
        f"{BATCHED % ''} {GROUP % 'count: 2'}",
        f"{BATCHED % 'preserve_ordering: true'} {GROUP % 'count: 2'}",
    ),
    "dynamic_batching.priority_levels": (BATCHED % "", BATCHED % "priority_levels: 5"),
    "dynamic_batching.default_priority_level": (
        BATCHED % "priority_levels: 5",
        BATCHED % "priority_levels: 5 default_priority_level: 4",
    ),
    "dynamic_batching.default_queue_policy.timeout_action": (
        QUEUED % "timeout_action: REJECT",
        QUEUED % "timeout_action: DELAY",
    ),
    "dynamic_batching.default_queue_policy.default_timeout_microseconds": (
        QUEUED % "allow_timeout_override: true",
        QUEUED % "allow_timeout_override: true default_timeout_microseconds: 9",
    ),
    "dynamic_batching.default_queue_policy.allow_timeout_override": (
        QUEUED % "default_timeout_microseconds: 9",
        QUEUED % "default_timeout_microseconds: 9 allow_timeout_override: true",
    ),
    "instance_group.kind": (GROUP % "kind: KIND_CPU", GROUP % "kind: KIND_GPU"),
    "instance_group.count": (GROUP % "count: 2", GROUP % "count: 3"),
    "instance_group.gpus": (GROUP % "", GROUP % "gpus: [ 0 ]"),
    "default_model_filename": ("", 'default_model_filename: "net.onnx"'),
    "parameters": ("", 'parameters { key: "execution_mode" value { string_value: "1" } }'),
    "response_cache.enable": ("", "response_cache { enable: true }"),
}
"""A file, and the same with the field, or with another value of it."""


def test_every_honoured_field_has_an_example() -> None:
    assert sorted(HONOURED) == sorted(paths(Effect.HONOURED))


@pytest.mark.parametrize("path", HONOURED)
def test_an_honoured_field_makes_a_difference(tmp_path: Path, path: str) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n")

    def outcome(text: str) -> Any:
        try:
            return read(tmp_path, text)
        except ConfigurationError as error:
            return error.message

    before, after = map(outcome, HONOURED[path])
    assert isinstance(before, TritonModel), before
    assert before != after


def test_a_field_that_triton_adds_is_not_dropped_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pbtxt, "FIELDS", {path: field for path, field in FIELDS.items() if path != "output.dims"})
    with pytest.raises(ConfigurationError, match="output 'y': dims is not known to this server; take it out"):
        read(tmp_path, OUT % "dims: 1")


# ---------------------------------------------------------------- what Triton's parameters become


def parameter(directory: Path, key: str, value: str) -> TritonModel:
    return read(directory, f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}')


@pytest.mark.parametrize("key", PARAMETERS)
def test_parameters_are_treated_as_listed(tmp_path: Path, key: str) -> None:
    effect = PARAMETERS[key].effect
    if effect is Effect.REFUSED:
        with pytest.raises(ConfigurationError, match=f"{key} '1', which cannot be honoured"):
            parameter(tmp_path, key, "1")
        return
    model = parameter(tmp_path, key, "3" if key.endswith("count") else "1")
    if effect is Effect.IGNORED:
        assert model.config.onnx == OnnxConfig(providers=model.config.onnx.providers)
        assert model.warnings == (f"config.pbtxt: parameters: {key} has no effect: {PARAMETERS[key].plain}",)
    else:
        assert model.config.onnx != OnnxConfig()
        assert model.warnings == ()


def test_other_parameters_are_session_options_or_nothing(tmp_path: Path) -> None:
    model = parameter(tmp_path, "session.disable_prepacking", "1")
    assert model.config.onnx.session_options == {"session.disable_prepacking": "1"}
    assert model.warnings == ()
    model = parameter(tmp_path, "tokenizer", "bert")
    assert model.config.onnx.session_options == {}
    assert model.warnings == ("config.pbtxt: parameters: tokenizer has no effect: nothing reads it",)


# ---------------------------------------------------------------- settings of a load


def test_an_override_can_name_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("of the server's directory")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="label_filename is 'secret', and an override can name no file"):
        pbtxt.from_json({"output": [{"name": "y", "label_filename": "secret"}]}, Path("config"))


def test_what_triton_answers_is_taken_as_an_override() -> None:
    """The JSON of a model of Triton's, with all that it fills in."""
    answered = {
        "name": "net",
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "runtime": "",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 8,
        "input": [
            {
                "name": "x",
                "data_type": "TYPE_FP32",
                "format": "FORMAT_NONE",
                "dims": [4],
                "is_shape_tensor": False,
                "allow_ragged_batch": False,
                "optional": False,
                "is_non_linear_format_io": False,
            }
        ],
        "output": [
            {"name": "y", "data_type": "TYPE_FP32", "dims": [4], "label_filename": "", "is_shape_tensor": False}
        ],
        "batch_input": [],
        "batch_output": [],
        "optimization": {
            "priority": "PRIORITY_DEFAULT",
            "input_pinned_memory": {"enable": True},
            "output_pinned_memory": {"enable": True},
            "gather_kernel_buffer_threshold": 0,
            "eager_batching": False,
        },
        "dynamic_batching": {
            "preferred_batch_size": [8],
            "max_queue_delay_microseconds": 0,
            "preserve_ordering": False,
            "priority_levels": 0,
            "default_priority_level": 0,
            "priority_queue_policy": {},
        },
        "instance_group": [
            {
                "name": "net_0",
                "kind": "KIND_CPU",
                "count": 2,
                "gpus": [],
                "secondary_devices": [],
                "profile": [],
                "passive": False,
                "host_policy": "",
            }
        ],
        "default_model_filename": "model.onnx",
        "cc_model_filenames": {},
        "metric_tags": {},
        "parameters": {},
        "model_warmup": [],
        "model_transaction_policy": {"decoupled": False},
    }
    model = pbtxt.from_json(answered, Path("config"))
    assert (model.config.slots, model.config.batching.preferred_batch_sizes, model.filename) == (2, (8,), "model.onnx")
    assert len(model.warnings) == 3


# ---------------------------------------------------------------- the page


def test_the_page_has_the_tables() -> None:
    assert pbtxt_fields.tables() in PAGE.read_text(), "python -m serving.objects.pbtxt_fields, into docs/triton.md"
