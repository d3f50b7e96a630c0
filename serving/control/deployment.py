"""What an endpoint is asked to serve, whole: its config and the models that this names, as they were when it was asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class Deployment(msgspec.Struct, frozen=True):
    """A config resolved. Configs and models may be deleted while the endpoint lives, so it keeps its own copy.

    `config` is the DescribeEndpointConfig document, `models` the DescribeModel documents by name (absent ones are
    absent), with the containers of model packages already in the place of the packages' names. `request` is what
    CreateEndpoint or UpdateEndpoint said beside names (DeploymentConfig and so on). `revisions`: by model data URL, what
    the object was when it was first fetched (its ETag), so that every node and every start serves the same bytes.
    """

    config_name: str
    config: Mapping[str, Any]
    models: Mapping[str, Mapping[str, Any]]
    request: Mapping[str, Any] = {}
    revisions: Mapping[str, str] = {}
