"""One service at a time, whose process and whose socket it is, and what clients are told."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from workspaces import new_workspace

from finery.azureml import peer
from finery.endpoints.gateway.addresses import listening
from finery.errors import InputError
from finery.inference.server_run import _listening
from finery.service.checks import _clock, _disk, _environment, _ports
from finery.service.environment import PROXIES, exports, forget_services, variables
from finery.service.run import _listen, database_url
from finery.service.running import Running, last_running, running_service, write_running
from finery.workspace.errors import ConflictError
from finery.workspace.lock import sole_service
from finery.workspace.settings import Settings
from finery.workspace.store import connect


def running(pid: int, started: float) -> Running:
    return Running(
        pid, started, "127.0.0.1", 1, 2, "https://localhost:1", "http://127.0.0.1:2", "1"
    )


def test_a_service_is_its_process_and_not_another_with_its_number(tmp_path: Path) -> None:
    assert running_service(tmp_path) is None
    mine = psutil.Process()
    write_running(tmp_path, running(mine.pid, mine.create_time()))
    assert running_service(tmp_path) == last_running(tmp_path)
    write_running(tmp_path, running(mine.pid, mine.create_time() - 60))
    assert running_service(tmp_path) is None
    assert last_running(tmp_path) is not None


def test_a_process_that_ended_is_no_service(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write_running(tmp_path, running(child.pid, psutil.Process(child.pid).create_time()))
    assert running_service(tmp_path) is not None
    child.kill()
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    assert running_service(tmp_path) is None  # ended, though nobody has waited for it
    child.communicate()
    assert running_service(tmp_path) is None


def test_a_folder_has_one_service(tmp_path: Path) -> None:
    store = connect("sqlite://")
    with sole_service(tmp_path, store):
        with pytest.raises(ConflictError, match="finery down"), sole_service(tmp_path, store):
            pass
        with sole_service(tmp_path / "other", store):
            pass
    with sole_service(tmp_path, store):
        pass


@pytest.mark.skipif(not peer.TABLES[0].is_file(), reason="needs Linux's table of sockets")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_owner_of_a_loopback_socket_is_known(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        there = server.getsockname()[:2]
        with socket.create_connection(there) as client:
            here = client.getsockname()[:2]
            assert peer.owner(here, there) == os.getuid()
            # Another user's socket may have that number, on its way to another place.
            assert peer.owner(here, (host, there[1] ^ 1)) is None
        assert peer.owner(here, there) is None
    assert peer.owner(("10.0.0.1", 80), there) is None
    assert peer.owner(("testclient", 80), there) is None


def test_a_service_forgets_the_one_that_its_shell_was_pointed_at(tmp_path: Path) -> None:
    ours = {"FINERY_HOME": "/h", "PATH": "/bin"}
    shell = ours | variables(tmp_path, running(1, 0.0))
    forget_services(shell)
    assert {name: shell[name] for name in shell if name.lower() != "no_proxy"} == ours
    of_azure = {"MSI_SECRET": "theirs", "REQUESTS_CA_BUNDLE": "theirs.pem"}
    forget_services(of_azure)
    assert of_azure == {"MSI_SECRET": "theirs", "REQUESTS_CA_BUNDLE": "theirs.pem"}


def test_variables_survive_a_shell(tmp_path: Path) -> None:
    text = exports({"A": "it's; $HOME `x`", "B": ""})
    shown = subprocess.run(
        ["bash", "-c", f'{text}printf "%s|%s" "$A" "$B"'], capture_output=True, text=True
    )
    assert shown.stdout == "it's; $HOME `x`|"


def test_every_user_has_a_key_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    service = running(1, 1.0)
    owner, alice = variables(tmp_path, service), variables(tmp_path, service, "alice")
    assert {name for name in owner if owner[name] != alice[name]} == {"MSI_SECRET"}
    assert variables(tmp_path, service) == owner
    assert "NO_PROXY" not in owner
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    assert variables(tmp_path, service)["no_proxy"] == "127.0.0.1,localhost"


def test_the_database_is_sqlite_until_a_url_is_set(tmp_path: Path) -> None:
    assert database_url(tmp_path, Settings()) == f"sqlite:///{tmp_path / 'finery.sqlite'}"
    url = database_url(tmp_path, Settings(database_url="postgresql://u:p@h/d"))
    assert url == "postgresql+psycopg://u:p@h/d"
    for wrong in ("mysql://h/d", "nonsense"):
        with pytest.raises(InputError):
            database_url(tmp_path, Settings(database_url=wrong))


def test_the_doctor_sees_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(port=taken.getsockname()[1], http_port=0)
        states = [check.state for check in _ports(settings, None)]
    assert states == ["fault", "ok"]


def test_the_doctor_sees_a_clock_that_is_behind(tmp_path: Path) -> None:
    assert _clock(tmp_path).state == "ok"
    (tmp_path / "service.json").write_text("{}", encoding="utf-8")
    assert _clock(tmp_path).state == "ok"
    late = (tmp_path / "service.json").stat().st_mtime + 3600
    os.utime(tmp_path / "service.json", (late, late))
    assert _clock(tmp_path).state == "fault"


def test_the_doctor_sees_what_leads_clients_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*PROXIES, "IDENTITY_ENDPOINT", "IDENTITY_HEADER"):
        monkeypatch.delenv(name, raising=False)
    assert [check.state for check in _environment()] == ["ok"]
    monkeypatch.setenv("IDENTITY_ENDPOINT", "http://elsewhere")
    assert [check.state for check in _environment()] == ["warning"]
    assert _disk(tmp_path / "not" / "yet").found.endswith(str(tmp_path))


def test_no_part_of_an_answer_waits_for_a_clients_acknowledgement(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path / "service", port=0, http_port=0)
    with (
        _listen("127.0.0.1", 0, 0) as of_service,
        listening(workspace) as of_gateway,
        _listening("127.0.0.1", 0) as of_replica,
    ):
        for listener in (of_service, *of_gateway, of_replica):
            with socket.create_connection(listener.getsockname()):
                taken, _ = listener.accept()
                with taken:
                    assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
