"""All operations that run on the database, by service and name: `sagemaker.CreateModel`, `sts.GetCallerIdentity`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from serving.control import (
    endpoint_configs,
    endpoints,
    identity,
    model_package_groups,
    model_packages,
    models,
    tags,
)
from serving.control.call import Operation

OPERATIONS: Final[Mapping[str, Operation]] = {
    **models.OPERATIONS,
    **endpoint_configs.OPERATIONS,
    **endpoints.OPERATIONS,
    **model_package_groups.OPERATIONS,
    **model_packages.OPERATIONS,
    **tags.OPERATIONS,
    **identity.OPERATIONS,
}
