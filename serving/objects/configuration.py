"""`model.yaml`: what the operator says of one model, beside its file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
import yaml

from serving.contract import ModelConfig
from serving.errors import ConfigurationError

MOST_BYTES: Final = 256 * 1024
"""Enough for thousands of labels; what hostile YAML costs grows with it."""


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases, of which a few lines can make exponential work."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not read here", problem_mark=mark)
        return super().compose_node(parent, index)


def read_model_yaml(file: Path) -> ModelConfig:
    """Reads a `model.yaml`. Raises `ConfigurationError`, which names the file and the key."""
    try:
        with file.open("rb") as stream:
            text = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    if len(text) > MOST_BYTES:
        raise ConfigurationError(f"{file} is larger than {MOST_BYTES} bytes, which no model's settings are")
    try:
        document = yaml.load(text, Loader=_Loader)  # noqa: S506 - it is a SafeLoader
    except (yaml.YAMLError, UnicodeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    if document is None:
        return ModelConfig()
    if isinstance(document, dict) and "trust" in document:
        raise ConfigurationError(f"{file}: trust is not a model's to say; see --allow-pickle and --trusted-type")
    if isinstance(document, dict) and isinstance(document.get("version"), int):
        document["version"] = str(document["version"])
    try:
        return msgspec.convert(document, ModelConfig)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ConfigurationError(f"{file}: {str(error).replace('`', '')}") from error
