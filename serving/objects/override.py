"""Settings that a caller of the repository API gives for a load, in place of those that lie beside the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from serving.contract import ModelConfig
from serving.errors import ConfigurationError
from serving.objects import pbtxt
from serving.objects.pbtxt import TritonModel

WHERE: Final = Path("config")
"""What errors call it, as the parameter is called."""

OURS: Final = frozenset(field.name for field in msgspec.structs.fields(ModelConfig))


def read_override(text: str, name: str) -> TritonModel:
    """Settings as JSON, in the words of `model.yaml` or of Triton's model configuration, for the model `name`.

    Raises `ConfigurationError`, which names the field.
    """
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ConfigurationError(f"{WHERE} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ConfigurationError(f"{WHERE} is not a JSON object")
    if "trust" in document:
        raise ConfigurationError(f"{WHERE}: trust is the operator's to say; see --allow-pickle and --trusted-type")
    model = _ours(document) if _is_ours(document) else pbtxt.from_json(document, WHERE)
    if not model.config.name:
        model = msgspec.structs.replace(model, config=msgspec.structs.replace(model.config, name=name))
    return model


def _is_ours(document: dict[str, Any]) -> bool:
    """Both have a name and a version policy, which says `latest: 2` here and `latest: {num_versions: 2}` in Triton's."""
    policy = document.get("version_policy")
    choices = policy.values() if isinstance(policy, dict) else ()
    return document.keys() <= OURS and not any(isinstance(choice, dict) for choice in choices)


def _ours(document: dict[str, Any]) -> TritonModel:
    try:
        config = msgspec.convert(document, ModelConfig)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ConfigurationError(f"{WHERE}: {str(error).replace('`', '')}") from error
    return TritonModel(config=config, filename="", warnings=())
