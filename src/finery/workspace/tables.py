"""The tables of a workspace's assets, datastores and blobs."""

from __future__ import annotations

import sqlalchemy as sa

from finery.workspace.store import metadata

assets = sa.Table(
    "assets",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),  # the order of creation
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("registry", sa.String(255), nullable=False),  # "" is the workspace
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("version", sa.String(255), nullable=False),
    sa.Column("type", sa.String(50), nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("tags", sa.JSON, nullable=False),
    sa.Column("properties", sa.JSON, nullable=False),
    sa.Column("spec", sa.JSON, nullable=False),
    sa.Column("content_hash", sa.String(255), nullable=False),
    sa.Column("is_anonymous", sa.Boolean, nullable=False),
    sa.Column("is_archived", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("created_by", sa.String(255), nullable=False),
    sa.Column("modified_at", sa.DateTime, nullable=False),
    sa.UniqueConstraint("kind", "registry", "name", "version"),
    sa.Index(None, "kind", "content_hash"),
)

# What is said of all versions of a name at once; a name without a row has the defaults.
asset_names = sa.Table(
    "asset_names",
    metadata,
    sa.Column("kind", sa.String(20), primary_key=True),
    sa.Column("registry", sa.String(255), primary_key=True),
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("tags", sa.JSON, nullable=False),
    sa.Column("properties", sa.JSON, nullable=False),
    sa.Column("is_archived", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("modified_at", sa.DateTime, nullable=False),
)

datastores = sa.Table(
    "datastores",
    metadata,
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("type", sa.String(50), nullable=False),
    sa.Column("container", sa.String(255), nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("tags", sa.JSON, nullable=False),
    sa.Column("properties", sa.JSON, nullable=False),
    sa.Column("wire", sa.JSON, nullable=False),  # the rest of what was sent, without secrets
    sa.Column("is_default", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.DateTime, nullable=False),
)

# What a plain file cannot hold. `stamp` is the file's own state when this was written: a file
# that a step has changed since then has no metadata.
blob_records = sa.Table(
    "blob_records",
    metadata,
    sa.Column("container", sa.String(255), primary_key=True),
    sa.Column("key", sa.String(64), primary_key=True),  # sha256 of the name: names are long
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("stamp", sa.String(100), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("content_type", sa.String(255), nullable=False),
    sa.Column("content_md5", sa.String(50), nullable=False),
    sa.Column("metadata", sa.JSON, nullable=False),
)
