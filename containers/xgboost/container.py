"""The XGBoost container: finds boosters, loads them, and answers as SageMaker's XGBoost container does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from containers.trees.container import (
    Answer,
    Member,
    TreesContainer,
    alone,
    describe,
    engine_of,
    mean,
    open_engines,
    score,
    vote,
)
from containers.trees.engine import Predict
from containers.trees.loading import content_of, converted, unchanged
from containers.xgboost import booster, document, native, objectives
from containers.xgboost.booster import Facts
from containers.xgboost.selection import select
from serving.contract import Conventions, ModelConfig, ModelSpec
from serving.errors import ArtifactError, ConfigurationError

EXTRA: Final = "xgboost"

USUAL: Final = "xgboost-model"
"""How SageMaker's training jobs call the file."""

ACCEPTS: Final = ("text/csv", "application/json", "application/jsonlines", "application/x-recordio-protobuf")


class XGBoostKind:
    """How XGBoost's models are recognised and loaded; see `serving.contract.ContainerKind`."""

    def artifact(self, path: Path) -> Path | None:
        """`path` where it is a booster; in a directory the only booster there, or the directory for an ensemble of several.

        Boosters are told by their first bytes, or by the names `xgboost-model` and `*.ubj`; hidden files are passed over.
        """
        if path.is_file():
            return path if _is_booster(path) else None
        found = _boosters(path)
        return path if len(found) > 1 else next(iter(found), None)

    def load(self, artifact: Path, config: ModelConfig, known: ModelSpec | None = None) -> TreesContainer:
        """Loads a booster, or the boosters of a directory, whose predictions are averaged, or vote for a class.

        Raises `ArtifactError` for what is no booster or too new, `ConfigurationError` and `MissingExtra`.
        """
        environment = config.environment
        files = _boosters(artifact) if artifact.is_dir() else [artifact]
        if environment.get("SAGEMAKER_INFERENCE_ENSEMBLE", "true") != "true":
            files = files[:1]
        engine = config.trees.engine
        found = [_open(file, with_graph=engine != "native") for file in files]
        facts = found[0][0]
        for file, (other, _) in zip(files, found, strict=True):
            if (other.objective, other.features, other.groups) != (facts.objective, facts.features, facts.groups):
                raise ArtifactError(
                    f"{artifact}: {files[0].name} is {_shape(facts)} and {file.name} is {_shape(other)}; the boosters of "
                    "an ensemble must be alike (SAGEMAKER_INFERENCE_ENSEMBLE=false serves the first)"
                )
            if other.names != facts.names:
                raise ArtifactError(f"{artifact}: {files[0].name} and {file.name} have different feature names")
        only_native = next((each.only_native for each, _ in found if each.only_native), "")
        engine = engine_of(config, only_native, str(artifact))
        members = [member for _, member in found]
        combine = vote if facts.objective in objectives.LABELS else mean
        predict = open_engines(members, engine, combine, facts.features, config.name or artifact.name)
        answer: Answer = alone
        if keys := environment.get("SAGEMAKER_INFERENCE_OUTPUT"):
            outputs, answer = select(keys, facts.objective, facts.groups)
        else:
            outputs = (score(predict, facts.features, known),)
        platform = "xgboost" if engine == "auto" else f"xgboost_{engine}"
        spec = describe(artifact, config, facts.features, facts.names, outputs, platform)
        return TreesContainer(
            msgspec.structs.replace(spec, conventions=_conventions(environment, bool(keys))), predict, answer
        )


def _is_booster(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    if path.name == USUAL or path.suffix == ".ubj":
        return True
    with suppress(OSError), path.open("rb") as stream:
        return bool(document.sniff(stream.read(document.SNIFFED_BYTES)))
    return False


def _boosters(directory: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(path for path in directory.iterdir() if path.is_file() and _is_booster(path))
    return []


def _open(path: Path, *, with_graph: bool) -> tuple[Facts, Member]:
    """A booster's facts and its engines."""
    content, digest = content_of(path)
    if with_graph:
        facts, graph = converted(path, content, digest, _read, Facts, EXTRA)
    else:
        facts, graph = _read(content, path).facts, b""
    opener = partial(_open_native, path, digest, facts)
    return facts, Member(str(path), graph, objectives.LINKS.get(facts.objective), opener)


def _read(content: bytes, path: Path) -> booster.Booster:
    return booster.read(document.loads(content, path), path)


def _open_native(path: Path, digest: bytes, facts: Facts, kind: str) -> Predict:
    """The library with a document made of what was read and checked here, never with the file itself."""
    tree = document.loads(unchanged(path, digest), path)
    booster.read(tree, path)
    return native.open_booster(document.dumps(booster.clean(tree, facts)), facts, kind, str(path))


def _shape(facts: Facts) -> str:
    return f"{facts.objective} of {facts.features} features and {facts.groups} outputs"


def _conventions(environment: Mapping[str, str], selected: bool) -> Conventions:
    accept = environment.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", ACCEPTS[0])
    if accept not in ACCEPTS:
        raise ConfigurationError(f"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT is '{accept}'; {_one_of(ACCEPTS)}")
    in_batch = environment.get("SAGEMAKER_BATCH", "") == "true"
    return Conventions(
        content_type="text/libsvm",
        accept=accept,
        predictions=True,
        one_line=not in_batch and not selected,
        ended_lines=in_batch,
        missing=True,
        empty_is_no_content=True,
        unreadable_is_failure=True,
    )


def _one_of(names: Sequence[str]) -> str:
    return f"one of {', '.join(names)} was expected"
