"""Assets as rows of the store, and the queries that find them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields, replace
from typing import Any

import sqlalchemy as sa

from finery.workspace.asset import Asset, AssetName, next_version
from finery.workspace.store import now
from finery.workspace.tables import asset_names, assets

_FIELDS = [field.name for field in fields(Asset)]


def row_of(asset: Asset) -> dict[str, Any]:
    """The row of a version."""
    values = {**asdict(asset), "modified_at": now()}
    for key in ("tags", "properties", "spec"):
        values[key] = dict(values[key])
    return values


def select() -> sa.Select:
    """The columns of an asset."""
    return sa.select(*(assets.c[name] for name in _FIELDS))


def asset_of(row: Any, name_is_archived: bool) -> Asset:
    """The asset in a row; archived as well when its name is."""
    asset = Asset(**row._mapping)
    return replace(asset, is_archived=asset.is_archived or name_is_archived)


def named(kind: str, registry: str, name: str) -> list[sa.ColumnElement[bool]]:
    """The rows of a name's versions."""
    return [assets.c.kind == kind, assets.c.registry == registry, assets.c.name == name]


def is_version(asset: Asset) -> sa.ColumnElement[bool]:
    """The row of this very version."""
    return sa.and_(
        *named(asset.kind, asset.registry, asset.name), assets.c.version == asset.version
    )


def is_name(kind: str, registry: str, name: str) -> sa.ColumnElement[bool]:
    """The row about a name."""
    c = asset_names.c
    return sa.and_(c.kind == kind, c.registry == registry, c.name == name)


def name_is_archived(connection: sa.Connection, kind: str, registry: str, name: str) -> bool:
    """Whether all versions of a name are archived at once."""
    where = is_name(kind, registry, name)
    return bool(connection.scalar(sa.select(asset_names.c.is_archived).where(where)))


def name_of(kind: str, registry: str, name: str, versions: Iterable[Any], said: Any) -> AssetName:
    """What versions share: they are assets or rows of them; `said` is the row about the name."""
    every = sorted(versions, key=lambda version: version.created_at)  # stable
    newest = next((v for v in reversed(every) if not v.is_archived), None)
    plain = AssetName(
        kind,
        registry,
        name,
        latest_version=newest.version if newest else "",
        next_version=next_version([version.version for version in every]),
        type=every[-1].type if every else "",
        created_at=every[0].created_at if every else said.created_at,
    )
    if said is None:
        return plain
    return replace(
        plain,
        description=said.description,
        tags=said.tags,
        properties=said.properties,
        is_archived=said.is_archived,
        latest_version="" if said.is_archived else plain.latest_version,
    )
