"""Models on disk: what a path or a folder of models holds, how each is to be served, and under which name.

A model is a file (`.onnx`), a directory of one (with `model.yaml` or Triton's `config.pbtxt` beside it, the file itself
or numbered version directories), or a gzipped tar of such a directory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from serving.contract import ModelConfig
from serving.errors import ArtifactError, ConfigurationError
from serving.objects import pbtxt
from serving.objects.archive import Archives
from serving.objects.configuration import read_model_yaml
from serving.objects.kinds import kinds

MODEL_YAML: Final = "model.yaml"
CONFIG_PBTXT: Final = "config.pbtxt"

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
ENDPOINT_NAME: Final = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
"""What SageMaker allows in the path of `/endpoints/{name}`."""

ARCHIVE_SUFFIXES: Final = (".tar.gz", ".tgz")

NO_SUCH: Final = "there is no such file or directory"


class ModelSource(msgspec.Struct, frozen=True):
    """A model that was found: its name and version, the kind that loads it, the file to load, and its settings.

    `origin` is the path that the operator knows; `warnings` say what of its settings has no effect here.
    """

    name: str
    version: str
    container: str
    artifact: Path
    config: ModelConfig
    origin: Path
    warnings: tuple[str, ...] = ()


def collect(models: Sequence[str], repositories: Sequence[Path], archives: Archives) -> tuple[ModelSource, ...]:
    """All models of a start: `models` are PATH or NAME=PATH. Two of one name are a `ConfigurationError`."""
    found = [_given(text, archives) for text in models]
    for repository in repositories:
        found += find(repository, archives)
    by_name: dict[str, ModelSource] = {}
    for source in found:
        other = by_name.setdefault(source.name, source)
        if other is not source:
            raise ConfigurationError(
                f"two models are called '{source.name}': {other.origin} and {source.origin}; give one another name "
                "(--model NAME=PATH, or `name` in its model.yaml)"
            )
    return tuple(found)


def find(directory: Path, archives: Archives) -> list[ModelSource]:
    """The models of a repository, a directory of models, by file name; hidden files and other files are passed over."""
    if not directory.is_dir():
        raise ArtifactError(f"{directory}: {'a directory of models was expected' if directory.exists() else NO_SUCH}")
    if _is_model_only(directory):
        raise ArtifactError(f"{directory} is itself a model; serve it with --model, or its parent as the repository")
    entries = sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    candidates = [path for path in entries if path.is_dir() or path.name.endswith(ARCHIVE_SUFFIXES) or _file_kind(path)]
    return [resolve(path, None, archives) for path in candidates]


def resolve(path: Path, name: str | None, archives: Archives) -> ModelSource:
    """The model at `path`, called `name`, or as its settings say, or after its file or directory.

    Raises `ArtifactError`, `ConfigurationError` or `MissingExtra`.
    """
    path = path.absolute()
    if not path.exists():
        raise ArtifactError(f"{path}: {NO_SUCH}")
    if path.is_dir():
        return _directory(path, name, _called(path), path)
    if path.name.endswith(ARCHIVE_SUFFIXES):
        return _archive(path, name, archives)
    if (found := _file_kind(path)) is None:
        raise ArtifactError(f"{path} is not a model: {_expected()}")
    config = ModelConfig()
    if (beside := path.parent / MODEL_YAML).is_file() and path.stem == "model":
        config = read_model_yaml(beside)
    return _source(path, config, found, name or config.name or _called(path), path, ())


def _given(text: str, archives: Archives) -> ModelSource:
    name, equals, path = text.partition("=")
    if equals and NAME.fullmatch(name):
        if not path:
            raise ConfigurationError(f"--model {text}: a path was expected after the =")
        return resolve(Path(path).expanduser(), name, archives)
    return resolve(Path(text).expanduser(), None, archives)


def _archive(path: Path, name: str | None, archives: Archives) -> ModelSource:
    root = archives.unpack(path)
    called = _called(path)
    if not is_model(root):
        inside = sorted(one for one in root.iterdir() if one.is_dir() and is_model(one))
        if len(inside) > 1:
            raise ArtifactError(
                f"{path} holds {len(inside)} models ({', '.join(one.name for one in inside)}); one was expected"
            )
        if inside:
            root, called = inside[0], inside[0].name
    try:
        return _directory(root, name, called, path)
    except (ArtifactError, ConfigurationError) as error:
        raise type(error)(error.message.replace(str(root), str(path))) from error


def _directory(path: Path, name: str | None, called: str, origin: Path) -> ModelSource:
    yaml_file, pbtxt_file = path / MODEL_YAML, path / CONFIG_PBTXT
    triton = pbtxt.TritonModel(config=ModelConfig(), filename="", warnings=())
    if yaml_file.is_file() and pbtxt_file.is_file():
        raise ConfigurationError(f"{path} holds both {MODEL_YAML} and {CONFIG_PBTXT}; keep the one that is right")
    if yaml_file.is_file():
        triton = msgspec.structs.replace(triton, config=read_model_yaml(yaml_file))
    elif pbtxt_file.is_file():
        triton = pbtxt.read(pbtxt_file)
    config = triton.config
    for place in _places(path):
        artifact = _artifact(place / triton.filename, config.container)
        if artifact is not None:
            if place != path:
                config = msgspec.structs.replace(config, version=place.name)
            container, file = artifact
            return _source(file, config, container, name or config.name or called, origin, triton.warnings)
    raise ArtifactError(f"{path} holds no model: {_expected()}")


def _source(
    artifact: Path, config: ModelConfig, container: str, name: str, origin: Path, warnings: Iterable[str]
) -> ModelSource:
    if config.container and config.container != container:
        raise ConfigurationError(
            f"{origin}: container is '{config.container}', but {artifact.name} is for '{container}'"
        )
    if not NAME.fullmatch(name):
        raise ConfigurationError(
            f"{origin}: '{name}' cannot be a model's name, which is 1 to 63 letters, digits, '-', '_' or '.', the first of "
            "them a letter or digit; name it with --model NAME=PATH or `name` in model.yaml"
        )
    if not config.version or not NAME.fullmatch(config.version):
        raise ConfigurationError(f"{origin}: '{config.version}' cannot be a version; a number such as 1 was expected")
    config = msgspec.structs.replace(config, name=name, container=container)
    return ModelSource(
        name=name,
        version=config.version,
        container=container,
        artifact=artifact,
        config=config,
        origin=origin,
        warnings=tuple(warnings),
    )


def _artifact(path: Path, wanted: str) -> tuple[str, Path] | None:
    """The kind and the file that it would load from `path`."""
    if wanted and wanted not in kinds():
        raise ConfigurationError(f"{path}: there is no container kind '{wanted}'; installed: {', '.join(kinds())}")
    found = {
        name: file
        for name, kind in kinds().items()
        if wanted in ("", name) and path.exists() and (file := kind.artifact(path)) is not None
    }
    if len(found) > 1:
        raise ConfigurationError(
            f"{path} could be served by {' or '.join(found)}; name one as `container` in model.yaml"
        )
    return next(iter(found.items()), None)


def _file_kind(path: Path) -> str | None:
    found = _artifact(path, "") if path.is_file() else None
    return None if found is None else found[0]


def is_model(directory: Path) -> bool:
    """Whether the directory can be served as one model; a folder of just one model file can be both."""
    if _has_configuration(directory):
        return True
    try:
        return any(kind.artifact(place) is not None for place in _places(directory) for kind in kinds().values())
    except ArtifactError:
        return False


def _is_model_only(directory: Path) -> bool:
    """Whether the directory can hardly be meant as a folder of models."""
    usual = (path for path in directory.iterdir() if path.stem == "model" and _file_kind(path) is not None)
    return _has_configuration(directory) or any(usual) or any(is_model(place) for place in _places(directory)[1:])


def _has_configuration(directory: Path) -> bool:
    return any((directory / name).is_file() for name in (MODEL_YAML, CONFIG_PBTXT))


def _places(directory: Path) -> list[Path]:
    """Where a model's file may lie: the directory, then its version directories, the highest number first."""
    versions = [path for path in directory.iterdir() if re.fullmatch(r"[1-9][0-9]{0,17}", path.name) and path.is_dir()]
    return [directory, *sorted(versions, key=lambda path: int(path.name), reverse=True)]


def _called(path: Path) -> str:
    """A name after the file or directory; a file that is just called `model` goes by its directory's name."""
    stem = path.name
    if not path.is_dir():
        for suffix in ARCHIVE_SUFFIXES:
            stem = stem.removesuffix(suffix)
        stem = stem if stem != path.name else path.stem
        if stem == "model" and NAME.fullmatch(path.parent.name):
            return path.parent.name
    return stem


def _expected() -> str:
    return "a .onnx file, a directory with one (and model.yaml or config.pbtxt), or a model.tar.gz of it was expected"
