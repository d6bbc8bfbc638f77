"""The service's life from the command line: up, env, exec, init, doctor, down, and crashes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from service_process import Service

from finery.service.running import running_service, stop_service
from finery.workspace import identity
from finery.workspace.place import Workspace
from finery.workspace.settings import load_settings
from finery.workspace.store import connect

GROUP = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices"
CREDENTIAL = (
    "from azure.identity import DefaultAzureCredential\n"
    "DefaultAzureCredential().get_token('https://management.azure.com/.default')\n"
)
OPENED = (
    "from azure.ai.ml import MLClient\n"
    "from azure.identity import DefaultAzureCredential\n"
    "client = {}\n"
    "name = client.workspace_name\n"
    "print('opened', name, client.workspaces.get(name).location)\n"
)


def finery(*words: str, home: Path, cwd: Path | None = None, **more: str) -> tuple[int, str]:
    """Exit status and everything that a `finery` command says."""
    answer = subprocess.run(
        [sys.executable, "-m", "finery.cli.main", *words],
        env=os.environ | {"FINERY_HOME": str(home), "PYTHONWARNINGS": "ignore"} | more,
        cwd=cwd or home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    return answer.returncode, answer.stdout


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home whose service a test starts itself; free ports, no MLflow."""
    folder = tmp_path / "service"
    folder.mkdir()
    settings = {"port": 0, "http_port": 0, "tracking": False}
    (folder / "settings.yaml").write_text(json.dumps(settings), encoding="utf-8")
    yield tmp_path
    if running := running_service(folder):
        stop_service(running)


def healthy(url: str) -> bool:
    return httpx.get(f"{url}/healthz").json() == {"status": "ok"}


def test_up_answers_and_down_ends_it(home: Path) -> None:
    status, text = finery("up", home=home)
    assert status == 0, text
    running = running_service(home / "service")
    assert running is not None
    assert running.url in text
    assert running.http_url in text
    assert healthy(running.http_url)
    again, text = finery("up", home=home)
    assert (again, f"process {running.pid}" in text) == (0, True)
    said = f"Stopped (process {running.pid}). `finery up` starts it again.\n"
    assert finery("down", home=home) == (0, said)
    assert running_service(home / "service") is None
    assert finery("down", home=home) == (0, "No service runs.\n")


def test_two_services_on_one_folder_refuse_each_other(started: Service) -> None:
    status, text = finery("up", "--foreground", "--port=0", "--http-port=0", home=started.home)
    assert status == 1
    assert "Another finery service runs on" in text
    assert "Traceback" not in text
    assert healthy(started.http_url)


def test_a_killed_service_starts_again_where_it_was(started: Service) -> None:
    before = started.running
    body = {"properties": {"computeType": "AmlCompute", "properties": {"vmSize": "Standard_D2_v2"}}}
    place = f"{before.url}{GROUP}/workspaces/w/computes/kept"
    settings = load_settings(started.folder, {"port": before.port})
    workspace = Workspace(started.folder, settings, connect("sqlite://"))
    headers = {"Authorization": f"Bearer {identity.mint(workspace, identity.FINERY)}"}
    with httpx.Client(verify=started.trust, headers=headers) as http:
        assert http.put(place, json=body).status_code == 200
    started.kill()
    started.start()
    assert (started.running.port, started.running.http_port) == (before.port, before.http_port)
    with httpx.Client(verify=started.trust, headers=headers) as http:
        assert http.get(place).json()["name"] == "kept"


def test_what_was_staged_long_ago_and_never_became_a_blob_is_gone_after_a_start(
    started: Service,
) -> None:
    folder, long_ago = started.folder / "uploads", time.time() - 8 * 24 * 3600
    for name in ("old", "blocks/old/block", "new", "blocks/new/block"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"half a file")
    for name in ("old", "blocks/old/block", "blocks/old"):
        os.utime(folder / name, (long_ago, long_ago))
    started.kill()
    started.start()
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert left == {"new", "blocks/new/block"}


def test_plain_http_takes_no_token_of_a_person_and_answers_under_its_own_name(
    service: Service,
) -> None:
    """Whoever takes the port while the service is down would get the token."""
    for path in (f"{GROUP}/workspaces/w", "/msi/token", "/_blob.blob.local/azureml", "/discovery"):
        answer = httpx.get(f"{service.http_url}{path}")
        assert answer.status_code == 403, path
        assert service.url in answer.json()["error"]["message"]
    healthz = f"{service.http_url}/healthz"
    assert httpx.get(healthz, headers={"Host": "localhost"}).status_code == 200
    assert httpx.get(healthz, headers={"Host": "evil.example"}).status_code == 403


def test_a_port_that_is_taken_is_named(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, text = finery("up", f"--port={port}", home=home)
    assert status == 1
    assert f"Port {port} of 127.0.0.1 cannot be opened: address already in use" in text
    assert "Traceback" not in text


def test_an_interface_for_others_is_refused_without_users(home: Path) -> None:
    status, text = finery("up", "--host=0.0.0.0", home=home)
    assert status == 2
    assert "a loopback address while no users are configured" in text


def test_env_prints_what_a_shell_can_evaluate(service: Service) -> None:
    status, text = finery("env", home=service.home)
    assert status == 0
    shown = subprocess.run(
        ["bash", "-c", f'{text}\nprintf %s "$MSI_ENDPOINT $REQUESTS_CA_BUNDLE"'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    bundle = service.folder / "certificates" / "bundle.pem"
    assert shown == f"{service.url}/msi/token {bundle}"
    status, text = finery("env", "--json", home=service.home)
    assert json.loads(text) == service.environment


def test_env_without_a_service_says_how_to_start_one(home: Path) -> None:
    status, text = finery("env", home=home)
    assert (status, text) == (1, "finery: No service runs. Start it with `finery up`.\n")


def test_env_for_somebody_unknown_is_refused(service: Service) -> None:
    status, text = finery("env", "--user", "mallory", home=service.home)
    assert status == 2
    assert "'mallory'" in text


def test_env_keeps_the_service_out_of_a_proxy(service: Service) -> None:
    _, text = finery(
        "env", "--json", home=service.home, HTTPS_PROXY="http://proxy:1", NO_PROXY="a.b"
    )
    assert json.loads(text)["NO_PROXY"] == "a.b,127.0.0.1,localhost"


def test_exec_starts_the_service_and_gives_the_command_its_exit_status(home: Path) -> None:
    code = "import os, sys; print(os.environ['FINERY_URL'], sys.argv[1:]); sys.exit(7)"
    status, text = finery("exec", "--", sys.executable, "-c", code, "--flag", "x", home=home)
    running = running_service(home / "service")
    assert running is not None
    assert (status, text) == (7, f"{running.url} ['--flag', 'x']\n")


def test_exec_of_a_program_that_is_not_there_says_so(home: Path) -> None:
    status, text = finery("exec", "--", "no-such-program", home=home)
    assert (status, text) == (1, "finery: There is no program called no-such-program.\n")


@pytest.mark.parametrize("with_config", [True, False])
def test_the_unmodified_sdk_works_under_exec_from_an_empty_folder(
    service: Service, tmp_path: Path, with_config: bool
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    if with_config:
        status, text = finery("init", home=service.home, cwd=folder)
        assert (status, text) == (0, "config.json\n")
    made = (
        "MLClient.from_config(DefaultAzureCredential())"
        if with_config
        else "MLClient(DefaultAzureCredential(), '<SUBSCRIPTION_ID>', '<RESOURCE_GROUP>', 'mine')"
    )
    code = CREDENTIAL + OPENED.format(made)
    status, text = finery("exec", "--", sys.executable, "-c", code, home=service.home, cwd=folder)
    name = "finery" if with_config else "mine"
    assert status == 0, text
    assert text.endswith(f"opened {name} local\n")


def test_a_credential_works_without_a_key_for_the_services_own_user(
    service: Service, tmp_path: Path
) -> None:
    environment = os.environ | service.environment
    del environment["MSI_SECRET"]
    code = CREDENTIAL + "print('token')"
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert answer.stdout == "token\n", answer.stderr


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Host": "evil.example:8442"}]
)
def test_a_page_in_the_owners_browser_gets_no_token(
    service: Service, headers: dict[str, str]
) -> None:
    asked = {"resource": "https://management.azure.com"}
    with httpx.Client(base_url=service.url, verify=service.trust) as http:
        assert http.post("/msi/token", data=asked).status_code == 200
        assert http.post("/msi/token", data=asked, headers=headers).status_code == 403


def test_stray_azure_credentials_do_not_get_in_the_way(service: Service, tmp_path: Path) -> None:
    stray = {
        "AZURE_CLIENT_ID": "11111111-1111-1111-1111-111111111111",
        "AZURE_TENANT_ID": "22222222-2222-2222-2222-222222222222",
        "AZURE_CLIENT_SECRET": "somebody's",
    }
    code = CREDENTIAL + "print('token')"
    status, text = finery(
        "exec", "--", sys.executable, "-c", code, home=service.home, cwd=tmp_path, **stray
    )
    assert (status, text) == (0, "token\n")


def test_init_does_not_replace_a_config_unasked(home: Path) -> None:
    assert finery("init", str(home), home=home)[0] == 0
    status, text = finery("init", str(home), home=home)
    assert status == 1
    assert "--force" in text
    assert finery("init", str(home), "--force", home=home)[0] == 0
    names = json.loads((home / "config.json").read_text(encoding="utf-8"))
    assert names["workspace_name"] == "finery"


def test_doctor_finds_a_working_service_in_order(service: Service) -> None:
    status, text = finery("doctor", "--json", home=service.home)
    checks = {check["name"]: check for check in json.loads(text)["checks"]}
    assert status == 0, text
    assert checks["service"]["state"] == "ok"
    assert service.url in checks["service"]["found"]
    assert {"versions", "devices", "disk", "clock", "certificate", "ports"} <= set(checks)


def test_doctor_names_a_bundle_that_was_damaged(started: Service) -> None:
    bundle = started.folder / "certificates" / "bundle.pem"
    bundle.write_text("", encoding="utf-8")
    status, text = finery("doctor", home=started.home)
    assert status == 1
    assert "lacks our authority" in text
    assert "a start writes it anew" in text


def test_keys_are_in_no_log(service: Service) -> None:
    key = service.environment["MSI_SECRET"]
    with httpx.Client(base_url=service.url, verify=service.trust) as http:
        http.get("/msi/token", headers={"secret": key}, params={"resource": "x"})
    httpx.get(f"{service.http_url}/login?sig={key}")
    assert key not in service.log
