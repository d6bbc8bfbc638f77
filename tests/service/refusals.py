"""Requests that the service has to refuse, and proof that it stayed as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx
from service_process import Service

from finery.workspace import identity
from finery.workspace.place import Workspace
from finery.workspace.settings import load_settings
from finery.workspace.store import connect

GROUP = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices"
WORKSPACE = GROUP + "/workspaces/w"
PATIENCE = 20.0  # seconds; a refusal that takes longer hangs
LISTED = (
    *("jobs?listViewType=All", "models?listViewType=All", "data?listViewType=All", "computes"),
    *("components?listViewType=All", "environments?listViewType=All", "codes", "datastores"),
    "onlineEndpoints",
)
# What the service writes on its own account, whatever anybody asks.
_ITS_OWN = ("mlflow", "logs", "finery.sqlite", "dbos.sqlite", "service.log", "tracking")


def workspace_of(service: Service) -> Workspace:
    """The service's place with its keys, to make tokens that nobody would be given."""
    running = service.running
    settings = load_settings(service.folder, {"port": running.port, "http_port": running.http_port})
    return Workspace(service.folder, settings, connect("sqlite://"))


def owner(service: Service) -> httpx.Client:
    """Somebody who may do everything, without a library between."""
    token = identity.mint(workspace_of(service), identity.MANAGEMENT)
    headers = {"Authorization": f"Bearer {token}"}
    url, trust = service.url, service.trust
    return httpx.Client(base_url=url, verify=trust, headers=headers, timeout=PATIENCE)


def state(service: Service) -> dict[str, Any]:
    """Everything that is listed, and every file below the service's home."""
    with owner(service) as http:
        lists = {}
        for what in LISTED:
            answer = http.get(f"{WORKSPACE}/{what}")
            assert answer.status_code == 200, f"{what}: {answer.text}"
            lists[what] = sorted(one["name"] for one in answer.json()["value"])
    files = sorted(
        path.relative_to(service.home).as_posix()
        for path in service.home.rglob("*")
        if path.is_file()
        and not any(part.startswith(_ITS_OWN) for part in path.relative_to(service.home).parts)
    )
    return {**lists, "files": files}


@contextlib.contextmanager
def unchanged(service: Service) -> Iterator[None]:
    """What happens inside leaves nothing behind."""
    before = state(service)
    yield
    after = state(service)
    changes = {what: set(after[what]) ^ set(before[what]) for what in before}
    found = {what: change for what, change in changes.items() if change}
    assert not found, f"not as it was: {found}"


def code_of(answer: httpx.Response, *statuses: int) -> str:
    """Check that an answer is a clear refusal with one of `statuses`; its message."""
    assert answer.status_code in statuses, f"{answer.status_code}: {answer.text[:2000]}"
    if answer.headers["content-type"].startswith("application/xml"):
        return answer.text
    error = answer.json()["error"]
    assert error["code"]
    assert error["message"]
    assert "Traceback" not in error["message"]
    return error["message"]
