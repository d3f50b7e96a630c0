"""Triton's `config.pbtxt`: read field by field, as `pbtxt_fields` says what becomes of each.

Requests are merged only where `dynamic_batching` is there, as in Triton: without it each request runs by itself. All
outputs of the model are served, also those that the file does not list.
Source: Triton's model configuration (model_config.proto) and its ONNX Runtime backend's parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from serving.contract import BatchingConfig, ModelConfig, OnnxConfig, TensorConfig, VersionPolicy
from serving.datatypes import BYTES
from serving.errors import ConfigurationError, MissingExtra
from serving.objects.pbtxt_fields import FIELDS, MESSAGES, Effect, parameter

MOST_BYTES: Final = 1024 * 1024

PLATFORM: Final = "onnxruntime_onnx"
BACKEND: Final = "onnxruntime"

OPTIMIZATION_LEVELS: Final = {-1: "basic", 0: "all", 1: "extended", 2: "disabled"}

IMAGE_FORMATS: Final = ("FORMAT_NHWC", "FORMAT_NCHW")


class TritonModel(msgspec.Struct, frozen=True):
    """What a `config.pbtxt` says: the settings, the model's file name ("" for the usual), and what has no effect."""

    config: ModelConfig
    filename: str
    warnings: tuple[str, ...]


def read(file: Path) -> TritonModel:
    """Reads a `config.pbtxt`. Raises `ConfigurationError`, which names the file and the field, and `MissingExtra`."""
    schema = _schema(file)
    from google.protobuf import text_format  # type: ignore[import-untyped]

    try:
        text = file.read_bytes()
        if len(text) > MOST_BYTES:
            raise ConfigurationError(f"{file} is larger than {MOST_BYTES} bytes, which no model's settings are")
        message = text_format.Parse(text.decode(), schema())
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    except (text_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{file} is not a Triton model configuration: {error}") from error
    return _Reader(file, message, file.parent).model()


def from_json(document: Mapping[str, Any], file: Path) -> TritonModel:
    """Reads the JSON form of a `config.pbtxt`, which errors call `file`; it can name no files. Raises as `read` does."""
    schema = _schema(file)
    from google.protobuf import json_format

    try:
        message = json_format.ParseDict(document, schema())
    except (json_format.ParseError, RecursionError) as error:
        raise ConfigurationError(f"{file} is not a Triton model configuration: {error}") from error
    return _Reader(file, message, None).model()


def _schema(file: Path) -> Any:
    """The message type of Triton's model configuration."""
    try:
        from tritonclient.grpc import model_config_pb2
    except ImportError as error:
        raise MissingExtra(
            f"{file} can be read with tritonclient's schema alone, which cannot be imported ({error}): "
            "pip install 'serving[triton]'"
        ) from error
    return model_config_pb2.ModelConfig


class _Reader:
    """One message on its way to our settings; `directory` is where the files lie that it may name."""

    def __init__(self, file: Path, message: Any, directory: Path | None) -> None:
        self.file = file
        self.message = message
        self.directory = directory
        self.warnings: list[str] = []

    def model(self) -> TritonModel:
        message = self.message
        self._walk(message, "", "")
        if message.platform not in ("", PLATFORM):
            raise self._error(f"platform is '{message.platform}'; only {PLATFORM} can be served")
        if message.backend not in ("", BACKEND):
            raise self._error(f"backend is '{message.backend}'; only {BACKEND} can be served")
        filename = message.default_model_filename
        if filename == ".." or Path(filename).name != filename:
            raise self._error(f"default_model_filename is '{filename}'; a plain file name is needed")
        slots, providers = self._instances()
        config = ModelConfig(
            name=message.name,
            inputs=tuple(self._tensor(tensor, "input") for tensor in message.input),
            outputs=tuple(self._tensor(tensor, "output") for tensor in message.output),
            batching=self._batching(),
            onnx=self._onnx(providers),
            slots=slots,
            response_cache=message.response_cache.enable,
            version_policy=self._versions(),
        )
        try:
            msgspec.convert(msgspec.to_builtins(config), ModelConfig)
        except msgspec.ValidationError as error:
            raise self._error(str(error).replace("`", "")) from error
        return TritonModel(config=config, filename=filename, warnings=tuple(self.warnings))

    def _walk(self, message: Any, prefix: str, where: str) -> None:
        """Warns of fields that have no effect, and raises for those that are refused; `where` names the message."""
        for field, value in message.ListFields():
            path = prefix + field.name
            known = FIELDS.get(path)
            if known is None and path not in MESSAGES:
                raise self._error(f"{where}{field.name} is not known to this server; take it out")
            if known is not None and known.effect is Effect.REFUSED:
                raise self._error(f"{where}{field.name} cannot be honoured; take it out: {known.plain}")
            if known is not None and known.effect is Effect.IGNORED:
                self._warn(f"{path} has no effect: {known.plain}")
            elif path in MESSAGES:
                for one in (value,) if hasattr(value, "ListFields") else value:
                    self._walk(one, f"{path}.", f"{where}{_called(field.name, one)}: ")

    def _versions(self) -> VersionPolicy:
        policy = self.message.version_policy
        said = policy.WhichOneof("policy_choice")
        if said == "all":
            return VersionPolicy(all=True)
        if said == "specific":
            versions = tuple(policy.specific.versions)
            if not versions or min(versions) < 1:
                raise self._error(
                    f"version_policy.specific.versions is {list(versions)}; numbers from 1 were expected, at least one"
                )
            return VersionPolicy(specific=versions)
        # Zero is what the schema has for a number that is not said; Triton serves one version then.
        return VersionPolicy(latest=policy.latest.num_versions or 1) if said == "latest" else VersionPolicy()

    def _tensor(self, tensor: Any, role: str) -> TensorConfig:
        where = f"{role} '{tensor.name}'"
        dims = tuple(tensor.dims)
        if any(size < 1 and size != -1 for size in dims):
            raise self._error(f"{where} has dims {list(dims)}; sizes from 1, or -1 where one varies, were expected")
        if role == "input" and _enum_name(tensor, "format") in IMAGE_FORMATS and len(dims) != 3:
            raise self._error(f"{where} is {_enum_name(tensor, 'format')} with dims {list(dims)}; three were expected")
        name = _enum_name(tensor, "data_type").removeprefix("TYPE_")
        return TensorConfig(
            name=tensor.name,
            datatype={"INVALID": "", "STRING": BYTES}.get(name, name),
            shape=((-1,) if self.message.max_batch_size > 0 else ()) + dims if dims else None,
            labels=self._labels(tensor.label_filename, where) if role == "output" and tensor.label_filename else (),
        )

    def _labels(self, name: str, where: str) -> tuple[str, ...]:
        if self.directory is None:
            raise self._error(f"{where}: label_filename is '{name}', and an override can name no file; leave it out")
        path = self.directory / name
        if Path(name).name != name or path.is_symlink() or not path.is_file():
            raise self._error(f"{where}: label_filename is '{name}'; a file in the same directory was expected")
        return tuple(path.read_text(encoding="utf-8", errors="replace").splitlines())

    def _batching(self) -> BatchingConfig:
        message = self.message
        if message.max_batch_size < 0:
            raise self._error(f"max_batch_size is {message.max_batch_size}; 0 (no batching) or more was expected")
        dynamic = message.dynamic_batching
        if not message.HasField("dynamic_batching"):
            if message.max_batch_size > 1:
                self._warn(
                    "there is no dynamic_batching, so requests are not merged, as in Triton; add "
                    f"`dynamic_batching {{ }}` to merge up to {message.max_batch_size} rows"
                )
            return BatchingConfig(max_batch_size=message.max_batch_size or None, merge_requests=False)
        if message.max_batch_size == 0:
            raise self._error("dynamic_batching needs max_batch_size to be 1 or more")
        policy = dynamic.default_queue_policy
        if _enum_name(policy, "timeout_action") == "DELAY":
            raise self._error(
                "default_queue_policy.timeout_action is DELAY; requests that are late are refused (REJECT)"
            )
        if dynamic.preserve_ordering and self._instances()[0] > 1:
            raise self._error(
                "dynamic_batching.preserve_ordering holds with one instance only; lower instance_group's count"
            )
        if policy.default_timeout_microseconds and not policy.allow_timeout_override:
            self._warn("a request may ask for a shorter timeout all the same (allow_timeout_override)")
        usual = BatchingConfig()
        return BatchingConfig(
            max_batch_size=message.max_batch_size,
            preferred_batch_sizes=tuple(dynamic.preferred_batch_size),
            max_queue_delay_us=dynamic.max_queue_delay_microseconds,
            priority_levels=dynamic.priority_levels or 1,
            default_priority=dynamic.default_priority_level,
            default_timeout_s=policy.default_timeout_microseconds / 1e6 or usual.default_timeout_s,
        )

    def _instances(self) -> tuple[int, tuple[str, ...]]:
        """Slots in all, and the execution providers for the kind of instance."""
        groups = self.message.instance_group
        kinds = {_enum_name(group, "kind") for group in groups} - {"KIND_AUTO"}
        for group in groups:
            if group.count < 0 or any(gpu != 0 for gpu in group.gpus):
                raise self._error(
                    f"instance_group has count {group.count} and gpus {list(group.gpus)}; a count from 1 and at most "
                    "GPU 0 were expected"
                )
        if len(kinds) > 1 or "KIND_MODEL" in kinds:
            raise self._error(
                f"instance_group has {' and '.join(sorted(kinds))}; one of KIND_CPU, KIND_GPU was expected"
            )
        on_gpu = ("CUDAExecutionProvider", "CPUExecutionProvider")
        if any(group.gpus for group in groups):
            if "KIND_CPU" in kinds:
                raise self._error("instance_group is KIND_CPU and names gpus; one of the two was expected")
            kinds.add("KIND_GPU")
        return sum(group.count or 1 for group in groups) or 1, on_gpu if "KIND_GPU" in kinds else ()

    def _onnx(self, providers: tuple[str, ...]) -> OnnxConfig:
        settings: dict[str, Any] = {"providers": providers} if providers else {}
        level = self.message.optimization.graph.level
        if level not in OPTIMIZATION_LEVELS:
            raise self._error(
                f"optimization.graph.level is {level}; -1 (basic), 0 (all), 1 (extended) or 2 (none) was expected"
            )
        settings["graph_optimization_level"] = OPTIMIZATION_LEVELS[level]
        session_options: dict[str, str] = {}
        for name, said in sorted(self.message.parameters.items()):
            value = said.string_value
            known = parameter(name)
            if known.effect is Effect.REFUSED:
                raise self._error(
                    f"parameters has {name} '{value}', which cannot be honoured; take it out: {known.plain}"
                )
            if name == "intra_op_thread_count":
                settings["intra_op_threads"] = self._threads(name, value)
            elif name == "execution_mode":
                if value not in ("0", "1"):
                    raise self._error(f"parameters has {name} '{value}'; 0 (sequential) or 1 (parallel) was expected")
                settings["execution_mode"] = "parallel" if value == "1" else "sequential"
            elif known.effect is Effect.HONOURED:
                session_options[name] = value
            elif name != "inter_op_thread_count" or self._threads(name, value) != 1:
                self._warn(f"parameters: {name} has no effect: {known.plain}")
        return OnnxConfig(**settings, session_options=session_options)

    def _threads(self, name: str, value: str) -> int:
        if not value.isascii() or not value.isdecimal() or int(value) > 1024:
            raise self._error(f"parameters: {name} is '{value}'; a number of threads was expected")
        if int(value) == 0:
            self._warn(f"parameters: {name} 0 means 1 thread here, not one for each core")
        return int(value) or 1

    def _warn(self, text: str) -> None:
        text = f"{self.file.name}: {text}"
        if text not in self.warnings:
            self.warnings.append(text)

    def _error(self, text: str) -> ConfigurationError:
        return ConfigurationError(f"{self.file}: {text}")


def _called(field: str, message: Any) -> str:
    """A message inside another, as errors name it: `dynamic_batching`, `input 'x'`."""
    return f"{field} '{message.name}'" if field in ("input", "output") else field


def _enum_name(message: Any, field: str) -> str:
    values = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number
    return str(values[getattr(message, field)].name)
