"""`serving endpoints`: what is deployed."""

from __future__ import annotations

import click

from serving.cli import table
from serving.cli.api import calling, described, listed, target


@click.command()
@target
@click.option("--json", "as_json", is_flag=True, help="The documents of ListEndpoints.")
def endpoints(url: str | None, state_dir: str | None, as_json: bool) -> None:
    """Lists the endpoints of a server by name."""
    with calling(url, state_dir) as api:
        client = api.client("sagemaker")
        found = listed(client, "list_endpoints", "Endpoints", SortBy="Name", SortOrder="Ascending")
        if as_json:
            table.show_json(found)
            return
        rows = [
            (
                one["EndpointName"],
                one["EndpointStatus"],
                one["CreationTime"],
                one["LastModifiedTime"],
                _reason(client, one["EndpointName"], one["EndpointStatus"]),
            )
            for one in found
        ]
    table.show(("NAME", "STATUS", "CREATED", "MODIFIED", "REASON"), rows, "there are no endpoints")


def _reason(client: object, name: str, status: str) -> str:
    """Why an endpoint does not serve, which lists do not tell."""
    if status not in ("Failed", "OutOfService", "UpdateRollbackFailed"):
        return ""
    document = described(client.describe_endpoint, EndpointName=name)  # type: ignore[attr-defined]
    return str((document or {}).get("FailureReason", ""))
