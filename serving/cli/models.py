"""`serving models`: the models that endpoints can be made of."""

from __future__ import annotations

import click

from serving.cli import table
from serving.cli.api import calling, listed, target


@click.command()
@target
@click.option("--json", "as_json", is_flag=True, help="The documents of ListModels.")
def models(url: str | None, state_dir: str | None, as_json: bool) -> None:
    """Lists the models of a server by name."""
    with calling(url, state_dir) as api:
        found = listed(api.client("sagemaker"), "list_models", "Models", SortBy="Name", SortOrder="Ascending")
    if as_json:
        table.show_json(found)
        return
    rows = [(one["ModelName"], one["CreationTime"], one["ModelArn"]) for one in found]
    table.show(("NAME", "CREATED", "ARN"), rows, "there are no models")
