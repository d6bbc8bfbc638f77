"""What alembic runs around the revisions: the connection comes from `migrate`."""

from __future__ import annotations

from alembic import context

from finery.workspace.store import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,  # SQLite changes a table by writing it anew
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
