"""The LightGBM container: finds a model text, loads it, and runs it on the engine that suits the batch."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from containers.lightgbm import native, objectives, text
from containers.lightgbm.text import Facts
from containers.trees.container import Member, TreesContainer, alone, describe, engine_of, mean, open_engines, score
from containers.trees.engine import Predict
from containers.trees.forest import Forest
from containers.trees.loading import content_of, converted, unchanged
from serving.contract import ModelConfig, ModelSpec
from serving.errors import ArtifactError

EXTRA: Final = "lightgbm"

USUAL: Final = "model.txt"


class LightGBMKind:
    """How LightGBM's models are recognised and loaded; see `serving.contract.ContainerKind`."""

    def artifact(self, path: Path) -> Path | None:
        """`path` where it is a model text, told by its first lines; in a directory `model.txt`, or else the only one."""
        if path.is_file():
            return path if _is_model(path) else None
        usual = path / USUAL
        if usual.is_file() and _is_model(usual):
            return usual
        with suppress(OSError):
            found = sorted(file for file in path.iterdir() if file.is_file() and _is_model(file))
            if len(found) > 1:
                raise ArtifactError(
                    f"{path} holds {len(found)} LightGBM models ({', '.join(file.name for file in found)}); "
                    f"name the one to serve {USUAL}"
                )
            return found[0] if found else None
        return None

    def load(self, artifact: Path, config: ModelConfig, known: ModelSpec | None = None) -> TreesContainer:
        """Loads a model. Raises `ArtifactError`, `ConfigurationError` and `MissingExtra`."""
        content, digest = content_of(artifact)
        if config.trees.engine == "native":
            facts, graph = text.read(content, artifact).facts, b""
        else:
            facts, graph = converted(artifact, content, digest, _read, Facts, EXTRA)
        try:
            link = objectives.link_of(facts.objective)
        except ValueError as error:
            raise ArtifactError(f"{artifact}: its objective is '{' '.join(facts.objective)[:64]}': {error}") from error
        only_native = facts.only_native
        if link is None:
            only_native = f"what its objective {facts.objective[0]} makes of margins is only known to the library"
        engine = engine_of(config, only_native, str(artifact))
        member = Member(str(artifact), graph, link, partial(_open_native, artifact, digest, facts))
        predict = open_engines([member], engine, mean, facts.features, config.name or artifact.name)
        outputs = (score(predict, facts.features, known),)
        platform = "lightgbm" if engine == "auto" else f"lightgbm_{engine}"
        return TreesContainer(
            describe(artifact, config, facts.features, facts.names, outputs, platform), predict, alone
        )


def _is_model(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    with suppress(OSError), path.open("rb") as stream:
        return text.is_model(stream.read(64))
    return False


def _read(content: bytes, path: Path) -> tuple[Facts, Forest | None]:
    facts, forest, _ = text.read(content, path)
    return facts, forest


def _open_native(path: Path, digest: bytes, facts: Facts, kind: str) -> Predict:
    """The library with the text as it was read and checked here, never with the file itself."""
    model = text.read(unchanged(path, digest), path)
    return native.open_booster(model.text, facts, kind, str(path))
