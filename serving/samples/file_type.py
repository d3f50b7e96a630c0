"""The `file-type` sample: Google's Magika, which tells from its bytes what kind of file a file is.

Input `bytes` int32[N, 2048], made from a file's content by `features`; output `target_label` float32[N, 214], a score
for each of `labels`. The model comes out of the PyPI package magika (Apache-2.0), whose documentation describes both.

    python -m serving.samples.file_type body FILE | curl ... | python -m serving.samples.file_type label
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import numpy as np

from serving.errors import ArtifactError, MissingExtra
from serving.samples import folder

NAME: Final = "file-type"

CONFIG: Final = f"""\
name: {NAME}
container: onnx
version: "1"
"""

BLOCK: Final = 4096
"""Bytes read from each end of a file before white space is stripped."""

HALF: Final = 1024
"""Bytes taken from each end afterwards."""

PADDING: Final = 256
"""Stands where the file has no byte."""

LEAST: Final = 8
"""Bytes without the leading white space below which the model knows nothing."""

MODEL: Final = "standard_v3_3"


class Recipe(msgspec.Struct, frozen=True):
    """The parts of the model's own configuration that `features` and `label` are built on."""

    beg_size: int
    mid_size: int
    end_size: int
    block_size: int
    padding_token: int
    target_labels_space: tuple[str, ...]


def features(content: bytes) -> np.ndarray[Any, np.dtype[np.int32]]:
    """The model's input for a file with that content: int32[2048], a start and an end of 1024 bytes each.

    A start that is short of bytes is padded behind, an end before. Raises `ValueError` for content that is too short.
    """
    start = np.frombuffer(content[:BLOCK].lstrip()[:HALF], np.uint8)
    if len(start) < LEAST:
        raise ValueError(f"a file of at least {LEAST} bytes after leading white space was expected, not {len(start)}")
    end = np.frombuffer(content[-BLOCK:].rstrip()[-HALF:], np.uint8)
    tokens = np.full(2 * HALF, PADDING, np.int32)
    tokens[: len(start)] = start
    tokens[2 * HALF - len(end) :] = end
    return tokens


def label(scores: Sequence[float] | np.ndarray[Any, Any], labels: Sequence[str]) -> tuple[str, float]:
    """The kind of file that one row of 214 scores speaks for, and its score between 0 and 1."""
    if len(scores) != len(labels):
        raise ValueError(f"{len(labels)} scores were expected, one for each label, not {len(scores)}")
    best = int(np.argmax(scores))
    return labels[best], float(scores[best])


def labels() -> tuple[str, ...]:
    """What the scores stand for, in their order. Raises `MissingExtra` and `ArtifactError`."""
    return _recipe(_source()).target_labels_space


def make(root: Path) -> bool:
    """Makes `root/file-type` unless it is there already; tells whether it had to.

    Raises `MissingExtra` without magika, and `ArtifactError` for a magika whose model wants other features.
    """
    target, source = root / NAME, _source()
    files = {
        "model.onnx": (source / "model.onnx").read_bytes(),
        "labels.json": msgspec.json.encode(_recipe(source).target_labels_space),
        "model.yaml": CONFIG.encode(),
    }
    if folder.holds(target, files):
        return False
    folder.write(target, files)
    return True


def calls(url: str, python: str, file: str) -> str:
    """Shell commands that ask the sample at `url` what `file` is: curl and boto3, with `python` for the features.

    `python` and `file` are as one types them in a shell.
    """
    return f"""\
# what kind of file is {file}?
{python} -m serving.samples.file_type body {file} \\
    | curl -s {url}/endpoints/{NAME}/invocations -H 'Content-Type: application/json' --data-binary @- \\
    | {python} -m serving.samples.file_type label

{python} - {file} <<'END'
import json, pathlib, sys
import boto3
from serving.samples import file_type
runtime = boto3.client("sagemaker-runtime", endpoint_url="{url}", region_name="us-east-1",
                       aws_access_key_id="any", aws_secret_access_key="any")
body = json.dumps({{"instances": [file_type.features(pathlib.Path(sys.argv[1]).read_bytes()).tolist()]}})
answer = runtime.invoke_endpoint(EndpointName="{NAME}", ContentType="application/json", Body=body)
print(*file_type.label(json.load(answer["Body"])["predictions"][0], file_type.labels()))
END
"""


def _source() -> Path:
    # Finding a package does not run it, and magika's own import takes longer than everything else here.
    found = importlib.util.find_spec("magika")
    if found is None or not found.submodule_search_locations:
        raise MissingExtra(f"the {NAME} sample is the model of the package magika: install serving[samples]")
    return Path(found.submodule_search_locations[0]) / "models" / MODEL


def _recipe(source: Path) -> Recipe:
    path = source / "config.min.json"
    try:
        recipe = msgspec.json.decode(path.read_bytes(), type=Recipe)
    except (OSError, msgspec.MsgspecError) as error:
        raise ArtifactError(f"magika was expected to hold {path} as version 1.0 does: {error}") from error
    sizes = (recipe.beg_size, recipe.mid_size, recipe.end_size, recipe.block_size, recipe.padding_token)
    if sizes != (HALF, 0, HALF, BLOCK, PADDING):
        raise ArtifactError(f"{path} wants other features than this sample makes: {sizes}")
    return recipe


@click.group()
def main() -> None:
    """What a caller of the file-type sample does before and after the call."""


@main.command()
@click.argument("file", type=click.File("rb"))
def body(file: Any) -> None:
    """Writes the JSON request that asks what FILE is."""
    try:
        tokens = features(file.read())
    except ValueError as error:
        raise click.ClickException(f"{file.name}: {error}") from error
    click.echo(msgspec.json.encode({"instances": [tokens.tolist()]}))


class Answer(msgspec.Struct, frozen=True):
    """The JSON answer: a row of scores for each file."""

    predictions: tuple[tuple[float, ...], ...]


@main.command("label")
@click.argument("file", type=click.File("rb"), default="-")
def print_labels(file: Any) -> None:
    """Reads the JSON answer and prints a label and its score for each file that was asked about."""
    text = file.read()
    names = labels()
    try:
        answer = msgspec.json.decode(text, type=Answer)
        kinds = [label(scores, names) for scores in answer.predictions]
    except ValueError as error:
        raise click.ClickException(f"not an answer of the {NAME} model ({error}): {text[:500]!r}") from error
    for kind, score in kinds:
        click.echo(f"{kind} {score:.4f}")


if __name__ == "__main__":
    main()
