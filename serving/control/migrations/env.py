"""What Alembic runs to migrate, on the connection that it is given."""

from alembic import context

from serving.control.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot alter most of a table: it is made anew.
    render_as_batch=True,
)
context.run_migrations()
