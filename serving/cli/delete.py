"""`serving delete`: takes an endpoint out of service."""

from __future__ import annotations

import sys
import time
from typing import Any, Final

import click

from serving.cli.api import calling, described, target

_POLL_S: Final = 0.2


@click.command()
@click.argument("endpoint")
@target
@click.option("--all", "everything", is_flag=True, help="Also its endpoint config and the models that this names.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def delete(endpoint: str, url: str | None, state_dir: str | None, everything: bool, yes: bool) -> None:
    """Deletes ENDPOINT and waits until it is gone."""
    with calling(url, state_dir) as api:
        client = api.client("sagemaker")
        document = described(client.describe_endpoint, EndpointName=endpoint)
        if document is None:
            raise click.ClickException(f"there is no endpoint {endpoint}")
        config, names = _parts(client, document) if everything else (None, [])
        what = [f"endpoint {endpoint}", *([f"endpoint config {config}"] if config else [])]
        what += [f"model {name}" for name in names]
        if not yes:
            if not sys.stdin.isatty():
                raise click.ClickException(f"{', '.join(what)}: say --yes to delete without being asked")
            click.confirm(f"Delete {', '.join(what)}?", abort=True)
        client.delete_endpoint(EndpointName=endpoint)
        # One that is in another status was created by somebody else since.
        while (described(client.describe_endpoint, EndpointName=endpoint) or {}).get("EndpointStatus") == "Deleting":
            time.sleep(_POLL_S)
        if config:
            client.delete_endpoint_config(EndpointConfigName=config)
        for name in names:
            client.delete_model(ModelName=name)
        for one in what:
            click.echo(f"{one}: deleted")


def _parts(client: Any, document: dict[str, Any]) -> tuple[str | None, list[str]]:
    """The config of an endpoint and the models that it names, as far as they are still there."""
    config = described(client.describe_endpoint_config, EndpointConfigName=document["EndpointConfigName"])
    if config is None:
        return None, []
    variants = [*config["ProductionVariants"], *config.get("ShadowProductionVariants", ())]
    names = dict.fromkeys(variant["ModelName"] for variant in variants if "ModelName" in variant)
    kept = [name for name in names if described(client.describe_model, ModelName=name) is not None]
    return str(document["EndpointConfigName"]), kept
