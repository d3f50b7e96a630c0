"""Models on disk: what a path or a folder of models holds, how each is to be served, and under which name.

A model is a file (`.onnx`), a directory of one (with `model.yaml` or Triton's `config.pbtxt` beside it, the file itself
or numbered version directories), or a gzipped tar of such a directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from serving.contract import ModelConfig, VersionPolicy
from serving.errors import ArtifactError, ConfigurationError, encodable
from serving.objects import pbtxt
from serving.objects.archive import Archives
from serving.objects.configuration import read_model_yaml
from serving.objects.kinds import kinds
from serving.objects.pbtxt import TritonModel
from serving.objects.versions import chosen, missing

MODEL_YAML: Final = "model.yaml"
CONFIG_PBTXT: Final = "config.pbtxt"

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
ENDPOINT_NAME: Final = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
"""What SageMaker allows in the path of `/endpoints/{name}`."""

ARCHIVE_SUFFIXES: Final = (".tar.gz", ".tgz")

PACKED: Final = "model.tar.gz"
"""What SageMaker calls a model; in a directory without another model it is the directory's."""

NO_SUCH: Final = "there is no such file or directory"


class ModelSource(msgspec.Struct, frozen=True):
    """A version of a model that was found: its name, the kind that loads it, the file to load, and its settings.

    `root` is the file or directory that holds all that it is made of; `origin` is the path that the operator knows;
    `warnings` say what of its settings has no effect here.
    """

    name: str
    version: str
    container: str
    artifact: Path
    config: ModelConfig
    root: Path
    origin: Path
    warnings: tuple[str, ...] = ()


class Found(msgspec.Struct, frozen=True):
    """A model with all its versions, newest first: `sources` are those that can be read, `broken` says why others cannot."""

    name: str
    policy: VersionPolicy
    versions: tuple[str, ...]
    sources: Mapping[str, ModelSource]
    broken: Mapping[str, ArtifactError]

    def served(self) -> tuple[ModelSource, ...]:
        """The versions that the policy serves, newest first. Raises `ArtifactError` where one of them is broken."""
        picked = chosen(self.policy, self.versions)
        for version in picked:
            if version in self.broken:
                raise self.broken[version]
        return tuple(self.sources[version] for version in picked)


def find(directory: Path, archives: Archives) -> list[ModelSource]:
    """The models of a repository, a directory of models, by file name, each in the versions that it serves.

    Hidden files and files that are no model are passed over.
    """
    check_repository(directory)
    found = (look(path, None, archives) for path in sorted(entries(directory)) if is_candidate(path))
    return [source for one in found for source in one.served()]


def entries(directory: Path) -> list[Path]:
    """What a repository holds, in no order, hidden files left out. Raises `ArtifactError`."""
    try:
        return [directory / entry.name for entry in os.scandir(directory) if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactError(
            f"{directory}: {'a directory of models was expected' if directory.exists() else NO_SUCH}"
        ) from error
    except OSError as error:
        raise ArtifactError(f"{directory} cannot be read: {error.strerror}") from error


def check_repository(directory: Path) -> None:
    """Raises `ArtifactError` where the directory can hardly be meant as a folder of models."""
    entries(directory)
    if _is_model_only(directory):
        raise ArtifactError(f"{directory} is itself a model; serve it with --model, or its parent as the repository")


def is_candidate(path: Path) -> bool:
    """Whether an entry of a repository is to be a model."""
    return path.is_dir() or path.name.endswith(ARCHIVE_SUFFIXES) or _file_kind(path) is not None


def look(path: Path, name: str | None, archives: Archives, override: TritonModel | None = None) -> Found:
    """The model at `path`, called `name`, or as its settings say, or after its file or directory.

    `override` are settings in place of those that lie beside it.
    Raises `ArtifactError`, `ConfigurationError` or `MissingExtra`.
    """
    path = path.absolute()
    if not path.exists():
        raise ArtifactError(f"{path}: {NO_SUCH}")
    if path.is_dir():
        if (packed := path / PACKED).is_file() and not _holds_artifact(path):
            return _archive(packed, name, archives, override or _beside(path))
        return _directory(path, name, called(path), path, override)
    if path.name.endswith(ARCHIVE_SUFFIXES):
        return _archive(path, name, archives, override)
    if (found := _file_kind(path)) is None:
        raise ArtifactError(f"{path} is not a model: {_expected()}")
    config = override.config if override else ModelConfig()
    if not override and (beside := path.parent / MODEL_YAML).is_file() and path.stem == "model":
        config = read_model_yaml(beside)
    source = _source(path, config, found, name or config.name or called(path), path, path, ())
    return _found([source], {}, config, path)


def given(text: str) -> tuple[Path, str | None]:
    """A `--model` argument, PATH or NAME=PATH, as path and name."""
    name, equals, path = text.partition("=")
    if equals and NAME.fullmatch(name):
        if not path:
            raise ConfigurationError(f"--model {text}: a path was expected after the =")
        return Path(path).expanduser(), name
    return Path(text).expanduser(), None


def _archive(path: Path, name: str | None, archives: Archives, override: TritonModel | None) -> Found:
    root = archives.unpack(path)
    title = called(path)
    if not is_model(root):
        inside = sorted(one for one in root.iterdir() if one.is_dir() and is_model(one))
        if len(inside) > 1:
            raise ArtifactError(
                f"{path} holds {len(inside)} models ({', '.join(one.name for one in inside)}); one was expected"
            )
        if inside:
            root, title = inside[0], inside[0].name
    try:
        return _directory(root, name, title, path, override)
    except (ArtifactError, ConfigurationError) as error:
        raise type(error)(error.message.replace(str(root), str(path))) from error


def _directory(path: Path, name: str | None, title: str, origin: Path, override: TritonModel | None) -> Found:
    triton = override or _settings(path)
    config = triton.config
    sources: list[ModelSource] = []
    broken: dict[str, ArtifactError] = {}
    for place in _places(path):
        try:
            artifact = _artifact(place / triton.filename, config.container)
        except ArtifactError as error:
            if place == path:
                raise
            broken[place.name] = error
            continue
        if artifact is not None:
            settled = config if place == path else msgspec.structs.replace(config, version=place.name)
            container, file = artifact
            sources.append(
                _source(file, settled, container, name or config.name or title, place, origin, triton.warnings)
            )
            if place == path:
                break
    if not sources and broken:
        raise next(iter(broken.values()))
    if not sources:
        raise ArtifactError(f"{path} holds no model: {_expected()}")
    return _found(sources, broken, config, origin)


def _beside(path: Path) -> TritonModel | None:
    """What the operator said in the directory of an archive, in place of what lies in the archive; None for nothing."""
    return _settings(path) if _has_configuration(path) else None


def _settings(path: Path) -> TritonModel:
    """What the operator said of the model in the directory."""
    yaml_file, pbtxt_file = path / MODEL_YAML, path / CONFIG_PBTXT
    if yaml_file.is_file() and pbtxt_file.is_file():
        raise ConfigurationError(f"{path} holds both {MODEL_YAML} and {CONFIG_PBTXT}; keep the one that is right")
    if yaml_file.is_file():
        return TritonModel(config=read_model_yaml(yaml_file), filename="", warnings=())
    if pbtxt_file.is_file():
        return pbtxt.read(pbtxt_file)
    return TritonModel(config=ModelConfig(), filename="", warnings=())


def _found(
    sources: Sequence[ModelSource], broken: Mapping[str, ArtifactError], config: ModelConfig, origin: Path
) -> Found:
    versions = [source.version for source in sources] + list(broken)
    if broken:
        versions.sort(key=int, reverse=True)
    absent = missing(config.version_policy, versions)
    if not chosen(config.version_policy, versions):
        raise ConfigurationError(
            f"{origin}: version_policy names {', '.join(absent)}; there is only {', '.join(versions)}"
        )
    if absent:
        warning = f"version_policy names {', '.join(absent)}, which {'is' if len(absent) == 1 else 'are'} not there"
        sources = [msgspec.structs.replace(source, warnings=(*source.warnings, warning)) for source in sources]
    by_version = {source.version: source for source in sources}
    return Found(sources[0].name, config.version_policy, tuple(versions), by_version, broken)


def _source(
    artifact: Path,
    config: ModelConfig,
    container: str,
    name: str,
    root: Path,
    origin: Path,
    warnings: Iterable[str],
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
    if str(artifact) != encodable(str(artifact)):
        raise ArtifactError(f"{artifact}: the path is not UTF-8; give the file or its directory another name")
    if not config.version or not NAME.fullmatch(config.version):
        raise ConfigurationError(f"{origin}: '{config.version}' cannot be a version; a number such as 1 was expected")
    config = msgspec.structs.replace(config, name=name, container=container)
    try:
        msgspec.msgpack.encode(config)
    except (OverflowError, UnicodeEncodeError) as error:
        # Workers could not be told of it.
        raise ConfigurationError(f"{origin}: its settings hold a number or a text that is none: {error}") from error
    return ModelSource(
        name=name,
        version=config.version,
        container=container,
        artifact=artifact,
        config=config,
        root=root,
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
    return _has_configuration(directory) or _holds_artifact(directory)


def _holds_artifact(directory: Path) -> bool:
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


def called(path: Path) -> str:
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
    return (
        "a model's file (.onnx, .skops, an XGBoost or LightGBM booster), a directory with one (and model.yaml or "
        "config.pbtxt), or a model.tar.gz of it was expected"
    )
