"""What the gateway reads of the service's store, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

import pytest
import sqlalchemy as sa

from finery.endpoints import keys, service, tables
from finery.endpoints.gateway import main
from finery.endpoints.gateway import tables as known
from finery.endpoints.gateway.tables import Watch, read
from finery.endpoints.routing import Table, table
from finery.endpoints.service import WantedDeployment, WantedEndpoint
from finery.workspace.place import Workspace
from finery.workspace.store import Store, connect, now


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue("postgres") if request.param == "postgres" else ""


@pytest.fixture
def store(workspace: Workspace) -> Iterator[Store]:
    """The service's store as the gateway's process opens it."""
    found = connect(workspace.store.engine.url.render_as_string(hide_password=False))
    main._only_read(found)
    yield found
    found.engine.dispose()


@pytest.fixture(autouse=True)
def chat(workspace: Workspace) -> None:
    """Two endpoints, with replicas in several states."""
    for name in ("chat", "other"):
        service.put(workspace, WantedEndpoint(name))
        service.put_deployment(workspace, WantedDeployment(name, "blue", "m"))
        for number, state in enumerate(("ready", "starting", "unready", "stopping", "ready")):
            row = {"id": f"{name}{number}", "endpoint": name, "deployment": "blue", "revision": 1}
            row |= {"state": state, "port": number, "key": "k", "created_at": now()}
            row |= {"report": {}, "host": "", "adapter": ""}
            with workspace.store.write() as connection:
                connection.execute(tables.replicas.insert().values(row))


def test_all_endpoints_are_read_with_the_replicas_that_answer(
    workspace: Workspace, store: Store
) -> None:
    found = read(store)
    assert sorted(found) == ["chat", "other"]
    assert [replica.id for replica in found["chat"].replicas["blue"]] == ["chat0", "chat4"]
    assert found["chat"] == table(workspace, "chat")


def test_the_gateway_can_change_nothing(store: Store) -> None:
    for _ in range(2):  # on a fresh connection and on one of the pool
        with (
            pytest.raises(sa.exc.DBAPIError, match=r"read-?only"),
            store.write() as connection,
        ):
            connection.execute(tables.replicas.delete())
    assert len(read(store)) == 2


Seen = list[Mapping[str, Table]]


def watched(store: Store, work: Callable[[Watch, Seen], Coroutine[Any, Any, None]]) -> None:
    async def go() -> None:
        seen: Seen = []
        watch = Watch(store, seen.append)
        await watch.reload()
        running = asyncio.create_task(watch.run())
        try:
            await work(watch, seen)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            watch.close()

    asyncio.run(go())


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


def test_a_change_is_seen_by_looking_and_no_change_is_none(
    workspace: Workspace, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "PERIOD", 0.01)

    async def work(watch: Watch, seen: Seen) -> None:
        await asyncio.sleep(0.2)
        assert len(seen) == 1
        keys.regenerate(workspace, "chat", "primary", "n" * 20)
        await until(lambda: len(seen) == 2)
        assert seen[-1]["chat"].endpoint.primary_key == "n" * 20
        await asyncio.sleep(0.2)
        assert len(seen) == 2

    watched(store, work)


def test_a_look_that_fails_is_told_and_followed_by_another(
    workspace: Workspace,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(known, "PERIOD", 0.01)

    async def work(watch: Watch, seen: Seen) -> None:
        with monkeypatch.context() as broken:
            broken.setattr(known, "read", _raise)
            keys.regenerate(workspace, "chat", "primary", "n" * 20)
            await until(lambda: "could not be read" in caplog.text)
        await until(lambda: seen[-1]["chat"].endpoint.primary_key == "n" * 20)

    watched(store, work)


def _raise(_: Store) -> None:
    raise OSError("disk I/O error")
