"""The gateway as a process: started, adopted, replaced, drained."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from gateway_kit import KEY, OTHER, Stub
from starlette.testclient import TestClient

from finery.endpoints import service, tables
from finery.endpoints.gateway import control, keeper, main
from finery.endpoints.gateway.addresses import addresses, folder_of, reserve
from finery.endpoints.gateway.keeper import DATABASE, Keeper
from finery.endpoints.service import WantedDeployment, WantedEndpoint
from finery.files import write_json
from finery.runners import process
from finery.service.certificates import ensure_certificates
from finery.service.plain import PlainDoors
from finery.workspace.place import Workspace
from finery.workspace.store import now

PATIENCE = 60.0
HEADERS = {"authorization": f"Bearer {KEY}"}


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.02)


@pytest.fixture
def kept(workspace: Workspace) -> Iterator[Keeper]:
    """A keeper whose thread does not run: a test looks itself."""
    ensure_certificates(workspace.certificates, workspace.settings.public_host)
    reserve(workspace)
    found = Keeper(workspace)
    yield found
    process.stop(found.run_folder, grace=0.5)


def answers(workspace: Workspace) -> bool:
    return control.stats(workspace) is not None


def pid_of(keeper: Keeper) -> int:
    return json.loads((keeper.run_folder / process.STARTED).read_text())["pid"]


def status(url: str, verify: ssl.SSLContext | bool = True) -> int:
    return httpx.get(url, headers=HEADERS, verify=verify, trust_env=False).status_code


def put(workspace: Workspace) -> None:
    service.put(workspace, WantedEndpoint("chat", keys=(KEY, OTHER)))


def test_it_runs_while_there_are_endpoints_and_is_found_by_the_next_service(
    workspace: Workspace, kept: Keeper
) -> None:
    where = addresses(workspace)
    assert where is not None
    kept.look()
    assert process.state(kept.run_folder) == "never"
    put(workspace)
    kept.look()
    until(lambda: answers(workspace))
    assert addresses(workspace) == where  # the clients knew before it ran
    authority = ssl.create_default_context(cafile=str(workspace.certificates / "authority.pem"))
    assert status(f"{where.https_url}/endpoints/chat/v1/models", authority) == 200
    assert status(f"{where.http_url}/endpoints/chat/v1/models") == 200
    assert status(f"{where.https_url}/metrics", authority) == 404
    pid = pid_of(kept)
    kept.close()  # the service ends
    following = Keeper(workspace)
    following.look()
    assert pid_of(following) == pid
    assert answers(workspace)
    with workspace.store.write() as connection:
        connection.execute(tables.endpoints.delete())
    following.close()  # and the next one, with nothing left to answer
    until(lambda: process.state(kept.run_folder) == "ended")


def test_one_that_was_killed_is_started_again_where_it_was(
    workspace: Workspace, kept: Keeper
) -> None:
    put(workspace)
    kept.look()
    until(lambda: answers(workspace))
    before, where = control.stats(workspace), addresses(workspace)
    os.kill(pid_of(kept), signal.SIGKILL)
    until(lambda: process.state(kept.run_folder) == "lost")
    kept._not_before = 0.0
    kept.look()
    until(lambda: answers(workspace))
    after = control.stats(workspace)
    assert before is not None
    assert after is not None
    assert before.gateway != after.gateway
    assert addresses(workspace) == where


def test_one_that_keeps_dying_is_started_ever_more_seldom(
    workspace: Workspace, kept: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(workspace)
    monkeypatch.setattr(Keeper, "_command", lambda _: (sys.executable, "-c", "exit(1)"))
    waits = []
    for _ in range(3):
        kept._not_before = 0.0
        kept.look()
        waits.append(kept._not_before - kept._started)
        until(lambda: process.state(kept.run_folder) == "ended")
    assert waits == pytest.approx([0.25, 0.5, 1.0])
    kept.look()  # too early
    assert process.state(kept.run_folder) == "ended"


def test_one_of_another_version_is_replaced(
    workspace: Workspace, kept: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(workspace)
    kept.look()
    until(lambda: answers(workspace))
    before = pid_of(kept)
    monkeypatch.setattr(keeper, "__version__", "another")
    kept.look()
    kept._not_before = 0.0
    kept.look()
    until(lambda: answers(workspace))
    assert pid_of(kept) != before


def test_a_new_certificate_is_shown_by_a_new_gateway(workspace: Workspace, kept: Keeper) -> None:
    put(workspace)
    kept.look()
    until(lambda: answers(workspace))
    later = time.time() + 10
    os.utime(workspace.certificates / "certificate.pem", (later, later))
    kept.look()
    assert process.state(kept.run_folder) == "ended"


def test_what_is_under_way_is_answered_before_it_ends(workspace: Workspace, kept: Keeper) -> None:
    async def work() -> None:
        stub = await Stub("blue").start()
        put(workspace)
        service.put_deployment(workspace, WantedDeployment("chat", "blue", "m"))
        row = {"id": "r", "endpoint": "chat", "deployment": "blue", "revision": 1, "key": "k"}
        row |= {"state": "ready", "port": stub.port, "created_at": now()}
        row |= {"report": {}, "host": "", "adapter": ""}
        with workspace.store.write() as connection:
            connection.execute(tables.replicas.insert().values(row))
            connection.execute(tables.deployments.update().values(state="Succeeded"))
            connection.execute(tables.endpoints.update().values(traffic={"blue": 100}))
        await asyncio.to_thread(kept.look)
        await asyncio.to_thread(until, lambda: answers(workspace))
        where = addresses(workspace)
        assert where is not None
        async with httpx.AsyncClient(
            base_url=where.http_url, headers=HEADERS, trust_env=False, timeout=30
        ) as http:
            url = "/endpoints/chat/v1/chat/completions"
            whole = asyncio.create_task(http.post(url, json={"sleep": 2}))
            while not stub.seen:
                await asyncio.sleep(0.01)
            ending = asyncio.create_task(asyncio.to_thread(kept.stop))
            await asyncio.sleep(0.5)
            with pytest.raises(OSError):
                socket.create_connection(("127.0.0.1", where.http_port), timeout=1)
            assert (await whole).json()["by"] == "blue"
            await ending
        assert process.exit_of(kept.run_folder).returncode == 0
        lines = (workspace.logs / "endpoints" / "chat.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["status"] == 200
        await stub.stop()

    asyncio.run(work())


def test_an_idle_client_does_not_keep_it_from_ending(workspace: Workspace, kept: Keeper) -> None:
    put(workspace)
    kept.look()
    until(lambda: answers(workspace))
    where = addresses(workspace)
    assert where is not None
    authority = ssl.create_default_context(cafile=str(workspace.certificates / "authority.pem"))
    with httpx.Client(verify=authority, headers=HEADERS, trust_env=False) as http:
        assert http.get(f"{where.https_url}/endpoints/chat/v1/models").status_code == 200
        before = time.monotonic()
        kept.stop()  # the connection is still open
        assert time.monotonic() - before < keeper.GRACE / 2
    assert process.exit_of(kept.run_folder).returncode == 0


def test_a_port_that_was_taken_meanwhile_is_replaced(workspace: Workspace, kept: Keeper) -> None:
    where = reserve(workspace)
    with socket.create_server(("127.0.0.1", where.http_port)):
        put(workspace)
        kept.look()
        until(lambda: answers(workspace))
    found = addresses(workspace)
    assert found is not None
    assert (found.https_port, found.http_port) == (where.https_port, found.http_port)
    assert found.http_port != where.http_port
    assert status(f"{found.http_url}/healthz") == 200


def test_the_databases_address_is_in_no_file_and_no_argument(
    workspace: Workspace, kept: Keeper
) -> None:
    put(workspace)
    kept.look()
    until(lambda: answers(workspace))
    texts = [path.read_text() for path in folder_of(workspace).rglob("*.json")]
    texts.append((folder_of(workspace) / keeper.LOG).read_text())
    assert not [text for text in texts if "sqlite:" in text]


def test_it_works_without_what_makes_it_fast(workspace: Workspace, kept: Keeper) -> None:
    put(workspace)
    code = (
        "import sys; sys.modules['httptools'] = sys.modules['uvloop'] = None\n"
        "from finery.endpoints.gateway.main import main; sys.exit(main(sys.argv[1:]))"
    )
    url = workspace.store.engine.url.render_as_string(hide_password=False)
    argv = [sys.executable, "-P", "-c", code, str(workspace.folder), "--host", "127.0.0.1"]
    with subprocess.Popen(argv, env=os.environ | {DATABASE: url}) as running:
        try:
            until(lambda: answers(workspace))
            where = addresses(workspace)
            assert where is not None
            with httpx.Client(base_url=where.http_url, headers=HEADERS, trust_env=False) as http:
                for _ in range(3):
                    assert http.get("/endpoints/chat/v1/models").status_code == 200
                assert http.post("/endpoints/chat/score", json={}).status_code == 404
        finally:
            running.terminate()
        assert running.wait(30) == 0


def test_one_that_cannot_begin_says_why_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.yaml").write_text("host: 0.0.0.0\n")
    assert main.main([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("The gateway ends: ")
    assert "a loopback address while no users are configured" in said


def test_addresses_name_the_host_that_clients_know(workspace: Workspace) -> None:
    where = reserve(workspace)
    assert where.https_url == f"https://localhost:{where.https_port}"
    assert where.http_url == f"http://127.0.0.1:{where.http_port}"
    note = {"host": "::1", "https_port": 1, "http_port": 2}
    write_json(folder_of(workspace) / "gateway.json", note)
    assert control.addresses(workspace) == control.Addresses("::1", 1, 2)
    assert control.Addresses("::1", 1, 2).https_url == "https://[::1]:1"
    assert reserve(workspace).host == "localhost"  # the service has another name now


def test_the_services_own_plain_port_says_that_endpoints_are_elsewhere() -> None:
    async def never(scope: object, receive: object, send: object) -> None:
        raise AssertionError("the service was asked")

    http = TestClient(PlainDoors(never, "https://localhost:1"), base_url="http://localhost")
    said = http.post("/endpoints/chat/score")
    assert said.status_code == 403
    assert "finery endpoint show" in said.json()["error"]["message"]
