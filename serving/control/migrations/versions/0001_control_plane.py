"""The tables of the control plane."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """From an empty database."""
    op.create_table("models", _name(), _arn(), _time("created_at"), _document())
    op.create_index("models_by_creation", "models", ["created_at", "name"])

    op.create_table("endpoint_configs", _name(), _arn(), _time("created_at"), _document())
    op.create_index("endpoint_configs_by_creation", "endpoint_configs", ["created_at", "name"])

    op.create_table(
        "endpoints",
        _name(),
        _arn(),
        _time("created_at"),
        _time("modified_at"),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("failure_reason", sa.Text()),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("current", sa.Text()),
    )
    op.create_index("endpoints_by_creation", "endpoints", ["created_at", "name"])
    op.create_index("endpoints_by_status", "endpoints", ["status"])

    op.create_table(
        "model_package_groups",
        _name(),
        _arn(),
        _time("created_at"),
        sa.Column("last_version", sa.Integer(), nullable=False),
        _document(),
    )
    op.create_index("model_package_groups_by_creation", "model_package_groups", ["created_at", "name"])

    op.create_table(
        "model_packages",
        _name(),
        _arn(),
        sa.Column("group_name", _text(170), sa.ForeignKey("model_package_groups.name")),
        sa.Column("version", sa.Integer()),
        sa.Column("approval", sa.String(32)),
        sa.Column("status", sa.String(32), nullable=False),
        _time("created_at"),
        _time("modified_at"),
        _document(),
    )
    op.create_index("model_packages_by_creation", "model_packages", ["created_at", "name"])
    op.create_index("model_packages_by_group", "model_packages", ["group_name", "version"])

    op.create_table(
        "tags",
        sa.Column("arn", _text(2048), primary_key=True),
        sa.Column("key", _text(128), primary_key=True),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("value", sa.String(256), nullable=False),
    )

    counters = op.create_table(
        "counters",
        sa.Column("name", _text(32), primary_key=True),
        sa.Column("value", sa.BigInteger(), nullable=False),
    )
    op.bulk_insert(counters, [{"name": "generation", "value": 0}])

    op.create_table("nodes", sa.Column("id", _text(64), primary_key=True), _time("started_at"), _time("heard_at"))

    op.create_table(
        "observations",
        sa.Column("endpoint", _text(63), primary_key=True),
        sa.Column("node", _text(64), primary_key=True),
        sa.Column("serving", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text()),
        _time("observed_at"),
    )

    op.create_table(
        "leases",
        sa.Column("name", _text(32), primary_key=True),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        _time("expires_at"),
    )


def _text(length: int) -> Any:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def _name() -> Any:
    return sa.Column("name", _text(170), primary_key=True)


def _arn() -> Any:
    return sa.Column("arn", _text(2048), nullable=False, unique=True)


def _time(name: str) -> Any:
    return sa.Column(name, sa.Double(), nullable=False)


def _document() -> Any:
    return sa.Column("document", sa.Text(), nullable=False)
