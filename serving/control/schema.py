"""The tables of the control plane. Desired state (`endpoints`) and what each node observed (`observations`) are apart.

Documents are JSON text of structures of the service model, as the caller gave them. Times are epoch seconds. Names
compare and sort by their bytes in SQLite and PostgreSQL alike, whatever the language of the latter's database. Every
change here is a migration in `serving/control/migrations`.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Double, ForeignKey, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.types import TypeEngine

metadata: Final = MetaData(
    # A migration must be able to name what it changes. Source: Alembic, "The Importance of Naming Constraints".
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
    }
)


def _text(length: int) -> TypeEngine[str]:
    return String(length).with_variant(String(length, collation="C"), "postgresql")


def _name() -> Column[str]:
    return Column("name", _text(170), primary_key=True)


def _arn() -> Column[str]:
    return Column("arn", _text(2048), nullable=False, unique=True)


def _time(name: str) -> Column[float]:
    kind: TypeEngine[float] = Double()
    return Column(name, kind, nullable=False)


models: Final = Table(
    "models",
    metadata,
    _name(),
    _arn(),
    _time("created_at"),
    Column("document", Text, nullable=False),
)
Index("models_by_creation", models.c.created_at, models.c.name)

endpoint_configs: Final = Table(
    "endpoint_configs",
    metadata,
    _name(),
    _arn(),
    _time("created_at"),
    Column("document", Text, nullable=False),
)
Index("endpoint_configs_by_creation", endpoint_configs.c.created_at, endpoint_configs.c.name)

endpoints: Final = Table(
    "endpoints",
    metadata,
    _name(),
    _arn(),
    _time("created_at"),
    _time("modified_at"),
    Column("status", String(32), nullable=False),
    Column("failure_reason", Text),
    # The number of the last change of what is asked for; never given twice (`counters`).
    Column("generation", BigInteger, nullable=False),
    # `serving.control.deployment.Deployment` as JSON: what is asked for, and what serves while that is not reached.
    Column("target", Text, nullable=False),
    Column("current", Text),
)
Index("endpoints_by_creation", endpoints.c.created_at, endpoints.c.name)
Index("endpoints_by_status", endpoints.c.status)

model_package_groups: Final = Table(
    "model_package_groups",
    metadata,
    _name(),
    _arn(),
    _time("created_at"),
    # The number that the last version got; versions are never given twice.
    Column("last_version", Integer, nullable=False, default=0),
    Column("document", Text, nullable=False),
)
Index("model_package_groups_by_creation", model_package_groups.c.created_at, model_package_groups.c.name)

model_packages: Final = Table(
    "model_packages",
    metadata,
    # NAME, or GROUP/VERSION: what the ARN ends with.
    _name(),
    _arn(),
    Column("group_name", ForeignKey(model_package_groups.c.name)),
    Column("version", Integer),
    Column("approval", String(32)),
    Column("status", String(32), nullable=False),
    _time("created_at"),
    _time("modified_at"),
    Column("document", Text, nullable=False),
)
Index("model_packages_by_creation", model_packages.c.created_at, model_packages.c.name)
Index("model_packages_by_group", model_packages.c.group_name, model_packages.c.version)

tags: Final = Table(
    "tags",
    metadata,
    Column("arn", _text(2048), primary_key=True),
    Column("key", _text(128), primary_key=True),
    # The order in which they were added.
    Column("position", Integer, nullable=False),
    Column("value", String(256), nullable=False),
)

counters: Final = Table(
    "counters",
    metadata,
    # `generation`: raised with every change that nodes have to act upon, so that one look tells whether there is any.
    Column("name", _text(32), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

nodes: Final = Table(
    "nodes",
    metadata,
    # A server that shares this database, from when it was first heard of until it leaves; one that has not been heard of
    # for a while counts as gone.
    Column("id", _text(64), primary_key=True),
    _time("started_at"),
    _time("heard_at"),
)

observations: Final = Table(
    "observations",
    metadata,
    # What a node makes of an endpoint: the generation that it serves (0: none), the last that it could not, and why.
    Column("endpoint", _text(63), primary_key=True),
    Column("node", _text(64), primary_key=True),
    Column("serving", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("reason", Text),
    _time("observed_at"),
)

leases: Final = Table(
    "leases",
    metadata,
    # `settle`: the node that judges observations. The token grows with each new holder: a write under an old one is void.
    Column("name", _text(32), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("token", BigInteger, nullable=False),
    _time("expires_at"),
)
