"""`serving check`: how an artifact will be served, or in one line why it will not."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from serving.contract import ModelConfig, ModelSpec, TensorSpec
from serving.errors import ServingError
from serving.objects import repository
from serving.objects.archive import Archives
from serving.objects.repository import ModelSource
from serving.settings import load as load_settings


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", help="The model's name, as in --model NAME=PATH.")
@click.option("--response-cache-bytes", type=int, help="As in `serving up`.")
@click.option("--allow-pickle", is_flag=True, default=None, help="As in `serving up`.")
@click.option("--trusted-type", "trusted_types", multiple=True, metavar="TYPE", help="As in `serving up`.")
@click.option("--config", metavar="FILE", help="The server's settings as YAML.")
def check(path: Path, name: str | None, **flags: Any) -> None:
    """Loads the model at PATH as `serving up` does, and tells how it will be served, or why it cannot be.

    PATH is a model's file, a directory of a model, a model.tar.gz, or a folder of such. What the server's settings say of
    models holds here too: flags, SERVING_* variables and --config.
    """
    settings = load_settings(flags, os.environ)
    # What it loads with takes longer to import than the other commands take.
    from serving.runtime.loading import load

    with tempfile.TemporaryDirectory(prefix="serving-check-") as state:
        archives = Archives(Path(state))
        try:
            for source in _sources(path, name, archives):
                container, _ = load(source.container, source.artifact, source.config, settings)
                click.echo("\n".join(describe(source, container.spec)))
                container.close()
        except (ServingError, OSError) as error:
            raise click.ClickException(" ".join(str(error).split())) from error


def _sources(path: Path, name: str | None, archives: Archives) -> list[ModelSource]:
    if path.is_dir() and not repository.is_model(path) and (found := repository.find(path, archives)):
        return found
    return list(repository.look(path, name, archives).served())


def describe(source: ModelSource, spec: ModelSpec) -> Iterator[str]:
    """The lines that a person reads."""
    yield f"{source.name}: served, version {source.version}"
    yield f"  artifact  {source.artifact if source.origin.is_dir() else source.origin}"
    yield f"  container {source.container} ({spec.platform})"
    for role, tensors in (("input", spec.inputs), ("output", spec.outputs)):
        for tensor in tensors:
            yield f"  {role:9} {_tensor(tensor)}"
    yield f"  batching  {_batching(source.config, spec)}"
    settings = ", ".join(_changes(source.config, ModelConfig()))
    yield f"  settings  {settings or 'all as by default'}"
    for warning in source.warnings:
        yield f"  warning   {warning}"
    if not repository.ENDPOINT_NAME.fullmatch(source.name):
        yield (
            f"  warning   '{source.name}' is no SageMaker endpoint name (letters, digits and single '-' inside): boto3's "
            "invoke_endpoint refuses it; /v2/models and curl take it"
        )


def _tensor(tensor: TensorSpec) -> str:
    text = f"{tensor.name} {tensor.datatype}[{', '.join('any' if size < 0 else str(size) for size in tensor.shape)}]"
    for words, values in (("features", tensor.features), ("labels", tensor.labels)):
        if values:
            text += f", {words} {', '.join(values[:8])}{', ...' if len(values) > 8 else ''}"
    return text


def _batching(config: ModelConfig, spec: ModelSpec) -> str:
    from serving.runtime.model import batch_policy

    if not spec.batched:
        return f"no: {spec.why_not_batched}"
    policy = batch_policy(spec, config)
    if policy.max_rows == 1 or not policy.merge:
        return "off: each request runs alone"
    delay = f", waiting up to {config.batching.max_queue_delay_us} us" if config.batching.max_queue_delay_us else ""
    return f"up to {policy.max_rows} rows of different requests run together{delay}"


def _changes(value: Any, usual: Any, prefix: str = "") -> Iterator[str]:
    """The settings that differ from their default, as `batching.max_batch_size=8`."""
    for field in msgspec.structs.fields(value):
        mine, default = getattr(value, field.name), getattr(usual, field.name)
        if field.name in ("name", "container", "version", "inputs", "outputs") or mine == default:
            continue
        if isinstance(mine, msgspec.Struct):
            yield from _changes(mine, default, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}={msgspec.json.encode(mine).decode()}"
