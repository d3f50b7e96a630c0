"""What model data holds: the model in it, for the kind of container that is to serve it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from serving.contract import ModelConfig
from serving.control import environment
from serving.errors import ArtifactError, ConfigurationError, ServingError
from serving.objects import pbtxt, repository
from serving.objects.archive import Archives
from serving.objects.configuration import read_model_yaml
from serving.objects.pbtxt import TritonModel
from serving.objects.repository import Found


def place(root: Path, variables: Mapping[str, str], *, triton: bool) -> Path:
    """The folder of the model: `root`, or the one folder in it that is a model. Raises `ArtifactError`.

    `triton`: one of several may be named by the container's variables.
    """
    named = variables.get(environment.TRITON_MODEL, "") if triton else ""
    if named:
        models = sorted(path.name for path in root.iterdir() if path.is_dir())
        if named not in models:
            raise ArtifactError(
                f"{root} has no folder '{named}', which {environment.TRITON_MODEL} names; it has {', '.join(models) or 'none'}"
            )
        return root / named
    if repository.is_model(root) or (root / repository.PACKED).is_file():
        return root
    inside = sorted(path for path in root.iterdir() if path.is_dir() and repository.is_model(path))
    if len(inside) > 1:
        hint = f"; say which with {environment.TRITON_MODEL}" if triton else ""
        names = ", ".join(path.name for path in inside[:20])
        raise ArtifactError(f"{root} holds {len(inside)} models ({names}); one was expected{hint}")
    return inside[0] if inside else root


def look(model: Path, name: str, kind: str, whose: str, archives: Archives) -> Found:
    """The model, for the container `kind`, or any where that is "". Raises as `repository.look` does.

    `whose` says of what the kind is (`the image 'onnx' is`), for the `ConfigurationError` where the model is for another.
    """
    if not kind:
        return repository.look(model, name, archives)
    override = _settings(model)
    said = override.config.container
    override = msgspec.structs.replace(override, config=msgspec.structs.replace(override.config, container=kind))
    try:
        if said not in ("", kind):
            raise ConfigurationError(f"{model}: its settings name the container {said}")
        return repository.look(model, name, archives, override)
    except (ArtifactError, ConfigurationError) as error:
        if (other := said or _kind(model, archives)) not in ("", kind):
            raise ConfigurationError(f"{whose} for {kind} models, but {model} is a model for {other}") from error
        raise


def script_warnings(root: Path, url: str, variables: Mapping[str, str], *, triton: bool) -> tuple[str, ...]:
    """What is said of scripts that are not there. Raises `ConfigurationError` for one that is."""
    script = environment.script(variables)
    usual = environment.USUAL_PROGRAM
    if script is None:
        if triton or not (root / "code" / usual).is_file():
            return ()
        return (f"{url} holds code/{usual}, which is not run: {environment.PROGRAM} does not name it",)
    if (root / script.path).is_file():
        raise ConfigurationError(
            f"{url} holds {script.path}, which {environment.PROGRAM} names: inference scripts are not built yet; deploy the "
            "model without entry_point"
        )
    return (f"{environment.PROGRAM} names {script.program}, which is not in {url}; the model is served without",)


def _kind(model: Path, archives: Archives) -> str:
    """The kind that would serve what is there; "" for none, or several."""
    try:
        return repository.look(model, "model", archives).served()[0].container
    except ServingError:
        return ""


def _settings(model: Path) -> TritonModel:
    """What lies beside the model about it, as `repository.look` would read it."""
    folder = model if model.is_dir() else model.parent
    yaml_file, pbtxt_file = folder / repository.MODEL_YAML, folder / repository.CONFIG_PBTXT
    if yaml_file.is_file() and pbtxt_file.is_file():
        raise ConfigurationError(
            f"{model} holds both {repository.MODEL_YAML} and {repository.CONFIG_PBTXT}; keep the one that is right"
        )
    if pbtxt_file.is_file():
        return pbtxt.read(pbtxt_file)
    if yaml_file.is_file():
        return TritonModel(config=read_model_yaml(yaml_file), filename="", warnings=())
    return TritonModel(config=ModelConfig(), filename="", warnings=())
