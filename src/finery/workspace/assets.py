"""Assets: models, data, components, environments and code, each a name with versions.

An asset lies in the workspace or in a registry. What a registry is shipped with comes from
`workspace.catalogue.shipped`; a row of the store with the same name and version stands before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from finery.errors import did_you_mean
from finery.workspace.asset import (
    Asset,
    AssetName,
    carried_over,
    check_asset,
    check_same_content,
    of_registry,
)
from finery.workspace.asset_rows import (
    asset_of,
    is_name,
    is_version,
    name_is_archived,
    name_of,
    named,
    row_of,
    select,
)
from finery.workspace.catalogue.shipped import shipped as shipped_with
from finery.workspace.errors import ForbiddenError, NotFoundError
from finery.workspace.place import Workspace
from finery.workspace.store import now
from finery.workspace.tables import asset_names, assets

Archived = Literal["active", "archived", "all"]
LATEST = ("latest", "azureml_default")  # the labels that every name has


def put(workspace: Workspace, asset: Asset) -> Asset:
    """Create the version, or update what may change: description, tags, properties, archived.

    Raises ConflictError when the version is there with other content.
    """
    check_asset(asset)
    try:
        _put(workspace, asset)
    except IntegrityError:  # somebody else created it since: now it is an update, or a conflict
        _put(workspace, asset)
    return get(workspace, asset.kind, asset.registry, asset.name, asset.version)


def _put(workspace: Workspace, asset: Asset) -> None:
    with workspace.store.write() as connection:
        row = connection.execute(select().where(is_version(asset))).one_or_none()
        old = asset_of(row, False) if row else _shipped(asset)
        if old is not None:
            check_same_content(old, asset)
            asset = carried_over(old, asset)
        if row is None:
            connection.execute(assets.insert().values(row_of(asset)))
        else:
            connection.execute(assets.update().where(is_version(asset)).values(row_of(asset)))


def find(workspace: Workspace, kind: str, registry: str, name: str, version: str) -> Asset | None:
    """The version, or None when it is not there."""
    asset = Asset(kind, registry, name, version)
    with workspace.store.read() as connection:
        row = connection.execute(select().where(is_version(asset))).one_or_none()
        archived = name_is_archived(connection, kind, registry, name)
    if row is not None:
        return asset_of(row, archived)
    shipped = _shipped(asset)
    return replace(shipped, is_archived=archived) if shipped else None


def get(workspace: Workspace, kind: str, registry: str, name: str, version: str) -> Asset:
    """The version, which may also be a label; raises NotFoundError naming what there is."""
    if version in LATEST:
        return latest(workspace, kind, registry, name)
    asset = find(workspace, kind, registry, name, version)
    if asset is None:
        raise NotFoundError(_missing(workspace, kind, registry, name, version))
    return asset


def latest(workspace: Workspace, kind: str, registry: str, name: str) -> Asset:
    """The version that was created last, archived ones left out."""
    newest = versions(workspace, kind, registry, name, limit=1)
    if not newest:
        raise NotFoundError(_missing(workspace, kind, registry, name, ""))
    return newest[0]


def versions(
    workspace: Workspace,
    kind: str,
    registry: str,
    name: str,
    *,
    archived: Archived = "active",
    newest_first: bool = True,
    limit: int | None = None,
    offset: int = 0,
) -> list[Asset]:
    """The versions of a name in order of creation; empty when there is no such name."""
    by = (assets.c.created_at, assets.c.seq)
    query = select().where(*named(kind, registry, name))
    with workspace.store.read() as connection:
        whole = name_is_archived(connection, kind, registry, name)
        if archived == "active" and whole:
            return []
        # Names shipped with a registry have few versions: they are merged in memory.
        shipped = shipped_with(kind, registry, name)
        if archived != "all" and not whole and not shipped:
            query = query.where(assets.c.is_archived == (archived == "archived"))
        if limit is not None and not shipped:
            query = query.limit(offset + limit)
        query = query.order_by(*((c.desc() if newest_first else c.asc()) for c in by))
        stored = [asset_of(row, whole) for row in connection.execute(query)]
    if shipped:
        stored = _merged(stored, shipped, whole, newest_first)
    chosen = [a for a in stored if archived == "all" or a.is_archived == (archived == "archived")]
    return chosen[offset:] if limit is None else chosen[offset : offset + limit]


def with_content(workspace: Workspace, kind: str, registry: str, content_hash: str) -> list[Asset]:
    """The versions of any name that hold this content, newest first."""
    c = assets.c
    query = select().where(
        c.kind == kind,
        c.content_hash == content_hash,
        c.registry == registry,
        c.is_archived.is_(False),
    )
    with workspace.store.read() as connection:
        rows = connection.execute(query.order_by(c.created_at.desc(), c.seq.desc())).all()
    return [asset_of(row, False) for row in rows]


def newest(workspace: Workspace, kind: str, registry: str) -> list[Asset]:
    """The version of every name that was created last, archived ones left out, by name.

    What `latest` says of each name, in three statements whatever their number.
    """
    c, said = assets.c, asset_names.c
    order = {"partition_by": c.name, "order_by": (c.created_at.desc(), c.seq.desc())}
    ranked = (
        sa.select(c.seq, sa.func.row_number().over(**order).label("place"))
        .where(c.kind == kind, c.registry == registry)
        .where(c.is_anonymous.is_(False), c.is_archived.is_(False))
        .subquery()
    )
    last = select().where(c.seq.in_(sa.select(ranked.c.seq).where(ranked.c.place == 1)))
    hidden = sa.select(said.name).where(said.kind == kind, said.registry == registry)
    ours = sa.select(c.name, c.version).where(c.kind == kind, c.registry == registry)
    shipped = shipped_with(kind, registry)
    with workspace.store.read() as connection:
        archived = set(connection.execute(hidden.where(said.is_archived)).scalars())
        stored = [asset_of(row, False) for row in connection.execute(last)]
        mine = {tuple(row) for row in connection.execute(ours)} if shipped else set()
    rest = [asset for asset in shipped if (asset.name, asset.version) not in mine]
    found: dict[str, Asset] = {}
    for asset in sorted([*rest, *stored], key=lambda one: one.created_at):  # stable
        if asset.name not in archived:
            found[asset.name] = asset
    return [found[name] for name in sorted(found)]


def of_job(workspace: Workspace, kind: str, job: str) -> list[Asset]:
    """The versions in the workspace that a job registered, newest first."""
    c, said = assets.c, asset_names.c
    query = select().where(
        c.kind == kind,
        c.registry == "",
        c.is_archived.is_(False),
        c.spec["jobName"].as_string() == job,
        c.name.not_in(
            sa.select(said.name).where(said.kind == kind, said.registry == "", said.is_archived)
        ),
    )
    with workspace.store.read() as connection:
        rows = connection.execute(query.order_by(c.created_at.desc(), c.seq.desc())).all()
    return [asset_of(row, False) for row in rows]


def names(
    workspace: Workspace, kind: str, registry: str, *, archived: Archived = "active"
) -> list[AssetName]:
    """The names of a kind, in alphabetical order; anonymous assets are left out."""
    c, said = assets.c, asset_names.c
    query = sa.select(c.name, c.version, c.type, c.is_archived, c.created_at).where(
        c.kind == kind, c.registry == registry, c.is_anonymous.is_(False)
    )
    described = asset_names.select().where(said.kind == kind, said.registry == registry)
    with workspace.store.read() as connection:
        rows = connection.execute(query.order_by(c.created_at, c.seq)).all()
        words = {row.name: row for row in connection.execute(described)}
    by_name: dict[str, dict[str, Any]] = {name: {} for name in words}
    for version in [*shipped_with(kind, registry), *rows]:  # the store stands before
        by_name.setdefault(version.name, {})[version.version] = version
    found = [
        name_of(kind, registry, name, by_name[name].values(), words.get(name))
        for name in sorted(by_name)
    ]
    return [n for n in found if archived == "all" or n.is_archived == (archived == "archived")]


def get_name(workspace: Workspace, kind: str, registry: str, name: str) -> AssetName:
    """What the versions of a name share; raises NotFoundError when there is none."""
    with workspace.store.read() as connection:
        said = connection.execute(asset_names.select().where(is_name(kind, registry, name)))
        row = said.one_or_none()
    every = versions(workspace, kind, registry, name, archived="all", newest_first=False)
    if not every and row is None:
        raise NotFoundError(_missing(workspace, kind, registry, name, ""))
    return name_of(kind, registry, name, every, row)


def put_name(
    workspace: Workspace,
    kind: str,
    registry: str,
    name: str,
    *,
    description: str | None = None,
    tags: Mapping[str, str] | None = None,
    properties: Mapping[str, str] | None = None,
    archived: bool | None = None,
) -> AssetName:
    """Say something of all versions of a name; what is None stays as it was."""
    check_asset(Asset(kind, registry, name, "1"))
    given = {
        "description": description,
        "tags": None if tags is None else dict(tags),
        "properties": None if properties is None else dict(properties),
        "is_archived": archived,
    }
    said = {key: value for key, value in given.items() if value is not None}
    first = {"description": "", "tags": {}, "properties": {}, "is_archived": False}
    first |= {"kind": kind, "registry": registry, "name": name, "created_at": now()}
    with workspace.store.write() as connection:
        changes = {**said, "modified_at": now()}
        known = connection.execute(
            asset_names.update().where(is_name(kind, registry, name)).values(changes)
        )
        if not known.rowcount:
            connection.execute(asset_names.insert().values(first | changes))
    return get_name(workspace, kind, registry, name)


def set_archived(
    workspace: Workspace, kind: str, registry: str, name: str, archived: bool, version: str = ""
) -> None:
    """Archive or restore one version, or the whole name when no version is given."""
    if version:
        asset = get(workspace, kind, registry, name, version)
        put(workspace, replace(asset, is_archived=archived))
    else:
        get_name(workspace, kind, registry, name)
        put_name(workspace, kind, registry, name, archived=archived)


def delete(workspace: Workspace, kind: str, registry: str, name: str, version: str = "") -> bool:
    """Forget a version, or a name with all its versions; says whether it was there.

    The files stay where they are. Raises ForbiddenError for what a registry is shipped with.
    """
    shipped = shipped_with(kind, registry, name)
    if any(not version or asset.version == version for asset in shipped):
        raise ForbiddenError(
            f"The {kind} {name} is shipped with registry {registry} and cannot be deleted. "
            "Archive it instead."
        )
    where = [*named(kind, registry, name), *([assets.c.version == version] if version else [])]
    with workspace.store.write() as connection:
        gone = connection.execute(assets.delete().where(*where)).rowcount
        if not version:
            said = asset_names.delete().where(is_name(kind, registry, name))
            gone += connection.execute(said).rowcount
    return gone > 0


def _shipped(asset: Asset) -> Asset | None:
    rows = shipped_with(asset.kind, asset.registry, asset.name)
    return next((row for row in rows if row.version == asset.version), None)


def _merged(
    stored: list[Asset], shipped: Iterable[Asset], archived: bool, newest_first: bool
) -> list[Asset]:
    mine = {asset.version for asset in stored}
    rest = [replace(a, is_archived=archived) for a in shipped if a.version not in mine]
    ordered = stored if not newest_first else list(reversed(stored))
    merged = sorted([*rest, *ordered], key=lambda asset: asset.created_at)  # stable
    return list(reversed(merged)) if newest_first else merged


def _missing(workspace: Workspace, kind: str, registry: str, name: str, version: str) -> str:
    there = [a.version for a in versions(workspace, kind, registry, name, limit=5)]
    if there and version:
        return (
            f"The {kind} {name} has no version {version}{of_registry(registry)}. "
            f"The newest: {', '.join(there)}."
        )
    known = [n.name for n in names(workspace, kind, registry)]
    guess = did_you_mean(name, known) or f"List the {kind}s to see which there are."
    return f"No {kind} is called {name}{of_registry(registry)}. {guess}"
