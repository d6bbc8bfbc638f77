"""Every route asks who calls; what is not there says so in Azure's words."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import parse_qsl

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from sqlalchemy.exc import SQLAlchemyError
from workspaces import new_workspace

from finery.azureml import caller
from finery.azureml.limits import MAX_BYTES
from finery.service.app import create_app
from finery.workspace import identity
from finery.workspace.identity import key_of
from finery.workspace.place import Workspace

GROUP = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return new_workspace(tmp_path, users=("alice",))


@pytest.fixture
def app(workspace: Workspace) -> FastAPI:
    return create_app(workspace)


@pytest.fixture
def http(app: FastAPI) -> TestClient:
    """A client without the background parts of the service (no `with`)."""
    return TestClient(app, raise_server_exceptions=False, follow_redirects=False)


def owner(workspace: Workspace) -> dict[str, str]:
    return {"Authorization": f"Bearer {identity.mint(workspace, identity.MANAGEMENT)}"}


def routes(app: FastAPI) -> Iterator[APIRoute]:
    """Every route; the application's dependency guards those of included routers alone."""
    assert not [entry for entry in app.routes if isinstance(entry, APIRoute)]
    return below(app.routes)


def below(entries: Iterable[object]) -> Iterator[APIRoute]:
    for entry in entries:
        if isinstance(entry, APIRoute):
            yield entry
        else:
            router = getattr(entry, "original_router", None)
            assert router is not None, f"a {type(entry).__name__} is guarded by nothing"
            yield from below(router.routes)


def filled(template: str) -> str:
    """An address of a route: a word for every name in its template."""
    parts = [part.split("}")[0] for part in template.split("{")[1:]]
    for part in parts:
        template = template.replace("{" + part + "}", "x")
    return template


def test_every_route_but_the_table_refuses_a_caller_without_a_token(
    app: FastAPI, http: TestClient
) -> None:
    guarded = 0
    for route in routes(app):
        if caller.is_open(route.path):
            continue
        for method in route.methods - {"HEAD", "OPTIONS"}:
            answer = http.request(method, filled(route.path))
            assert answer.status_code == 401, f"{method} {route.path}"
            assert answer.json()["error"]["code"] == "InvalidAuthenticationToken"
            guarded += 1
    assert guarded > 20


def test_every_exception_is_a_route_that_exists(app: FastAPI) -> None:
    templates = [route.path for route in routes(app)]
    for entry in caller.OPEN:
        prefix = entry.removesuffix("*")
        assert any(
            template.startswith(prefix) if entry.endswith("*") else template == entry
            for template in templates
        ), f"{entry} opens nothing"


@pytest.mark.parametrize(
    "header",
    ["", "Basic dXNlcjpwYXNz", "Bearer", "Bearer ", "Bearer x.y.z"],
)
def test_other_credentials_do_not_open_the_workspace(http: TestClient, header: str) -> None:
    answer = http.get(f"{GROUP}/workspaces/w", headers={"Authorization": header})
    assert answer.status_code == 401


def test_a_token_opens_the_workspace_however_its_path_is_written(
    http: TestClient, workspace: Workspace
) -> None:
    for path in (f"{GROUP}/workspaces/w", f"{GROUP.lower()}/WORKSPACES//w/"):
        answer = http.get(path, headers=owner(workspace))
        assert answer.status_code == 200
        assert answer.json()["id"] == f"{GROUP}/workspaces/w"


def test_the_owner_and_named_users_get_tokens_for_their_keys(
    http: TestClient, workspace: Workspace
) -> None:
    for user in ("owner", "alice"):
        got = http.get(
            "/msi/token",
            params={"resource": "https://management.azure.com/"},
            headers={"secret": key_of(workspace.secrets, user)},
        ).json()
        claims = identity.verify(workspace, got["access_token"], {identity.MANAGEMENT})
        assert claims.subject == user
        assert got["token_type"] == "Bearer"
        assert abs(int(got["expires_on"]) - claims.expires) <= 1


def test_a_wrong_key_gets_no_token(http: TestClient) -> None:
    for headers in ({}, {"secret": "x"}, {"secret": ""}):
        answer = http.get(
            "/msi/token", params={"resource": "https://management.azure.com"}, headers=headers
        )
        assert answer.status_code == 401
        assert "finery env" in answer.json()["error"]["message"]


def test_tokens_are_for_known_audiences_alone(http: TestClient, workspace: Workspace) -> None:
    headers = {"secret": key_of(workspace.secrets)}
    answer = http.get("/msi/token", params={"resource": "https://vault.net"}, headers=headers)
    assert answer.status_code == 400
    assert "https://vault.net" in answer.json()["error"]["message"]


def test_a_token_for_storage_opens_no_other_door(http: TestClient, workspace: Workspace) -> None:
    headers = {"Authorization": f"Bearer {identity.mint(workspace, identity.STORAGE)}"}
    blobs = "/_blob.blob.local/azureml-blobstore"
    assert http.get(blobs, headers=headers).status_code == 200
    for path in (f"{GROUP}/workspaces/w", "/mlflow/"):
        assert http.get(path, headers=headers).status_code == 401


def test_without_a_key_only_sockets_of_the_same_user_get_tokens(http: TestClient) -> None:
    answer = http.post("/msi/token", data={"resource": "https://management.azure.com"})
    assert answer.status_code == 403  # the test client has no socket


def test_what_is_not_there_says_so_by_name(http: TestClient, workspace: Workspace) -> None:
    headers = owner(workspace)
    answer = http.get(f"{GROUP}/workspaces/w/batchEndpoints", headers=headers)
    assert answer.status_code == 501
    assert f"GET {GROUP}/workspaces/w/batchEndpoints" in answer.json()["error"]["message"]
    assert http.get("/nothing", headers=headers).status_code == 404


def test_an_unknown_registry_is_not_found(http: TestClient, workspace: Workspace) -> None:
    place = "/registrymanagement/v1.0/registries/{}/discovery"
    assert http.get(place.format("azureml"), headers=owner(workspace)).status_code == 200
    answer = http.get(place.format("other"), headers=owner(workspace))
    assert answer.status_code == 404
    assert "There is: azureml." in answer.json()["error"]["message"]


def test_a_link_opens_pages_for_a_browser_and_nothing_else(
    http: TestClient, workspace: Workspace
) -> None:
    link = identity.login_link(workspace, "/mlflow/")
    answer = http.get(link.removeprefix(workspace.settings.http_url))
    assert (answer.status_code, answer.headers["location"]) == (303, "/mlflow/")
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "SameSite=lax" in answer.headers["set-cookie"]
    assert http.get("/mlflow/").status_code == 404  # known, but this service has no MLflow
    assert http.get(f"{GROUP}/workspaces/w").status_code == 401
    http.cookies.clear()
    assert http.get("/mlflow/").status_code == 401


def test_a_session_changes_things_for_the_services_own_pages_alone(
    http: TestClient, workspace: Workspace
) -> None:
    http.get(identity.login_link(workspace, "/mlflow/").removeprefix(workspace.settings.http_url))
    place = "/mlflow/api/2.0/mlflow/experiments/create"
    answer = http.post(place, headers={"Origin": "http://testserver:1"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "Forbidden")
    assert http.post(place).status_code == 403
    assert http.post(place, headers={"Origin": "http://testserver"}).status_code == 404  # no MLflow


@pytest.mark.parametrize("page", ["https://elsewhere/", "//elsewhere/mlflow", "/subscriptions"])
def test_a_link_leads_to_pages_of_the_service_alone(
    http: TestClient, workspace: Workspace, page: str
) -> None:
    link = identity.login_link(workspace, page)
    answer = http.get(link.removeprefix(workspace.settings.http_url))
    assert answer.status_code == 400
    assert "set-cookie" not in answer.headers


def test_mlflow_that_went_away_is_a_reason_to_wait(app: FastAPI, workspace: Workspace) -> None:
    def gone(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no socket", request=request)

    class Mlflow:
        async def ready(self) -> httpx.AsyncClient:
            transport = httpx.MockTransport(gone)
            return httpx.AsyncClient(transport=transport, base_url="http://localhost")

    app.state.tracking = Mlflow()
    http = TestClient(app, raise_server_exceptions=False)
    for path in ("/mlflow/health", f"/mlflow/v2.0{GROUP}/workspaces/w/api/2.0/mlflow/runs/get"):
        answer = http.get(path, headers=owner(workspace))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ServiceUnavailable")


def test_a_body_that_mlflow_would_not_take_is_not_kept_in_memory(
    app: FastAPI, workspace: Workspace
) -> None:
    http = TestClient(app, raise_server_exceptions=False)
    path = f"/mlflow/v2.0{GROUP}/workspaces/w/api/2.0/mlflow/runs/log-batch"
    answer = http.post(path, headers=owner(workspace), content=b" " * (MAX_BYTES + 1))
    assert (answer.status_code, "smaller batches" in answer.text) == (400, True)


def test_the_log_of_a_defect_holds_no_signature(
    app: FastAPI, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        async def ready(self) -> httpx.AsyncClient:
            raise ZeroDivisionError

    app.state.tracking = Broken()
    http = TestClient(app, raise_server_exceptions=False)
    query = dict(parse_qsl(identity.sign_query(workspace, "/mlflow/signed")))
    path = f"/mlflow/signed/{query['se']}/{query['sig']}/api/2.0/mlflow-artifacts/artifacts/0"
    answer = http.get(path)
    assert answer.status_code == 500
    assert answer.json()["error"]["message"].rpartition(" ")[2].rstrip(".") in caplog.text
    assert query["sig"] not in caplog.text


async def _cut_off(app: FastAPI, path: str, headers: dict[str, str]) -> list[int]:
    """Send half a request, as a process that is killed does; the statuses of the answers."""
    news = iter(
        [
            {"type": "http.request", "body": b"half", "more_body": True},
            {"type": "http.disconnect"},
        ]
    )
    statuses: list[int] = []

    async def receive() -> dict[str, object]:
        return next(news, {"type": "http.disconnect"})

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(int(str(message["status"])))

    sent = {**headers, "content-length": "100", "host": "localhost"}
    pairs = [(key.lower().encode(), value.encode()) for key, value in sent.items()]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": pairs}
    scope |= {"scheme": "http", "server": ("localhost", 80), "client": ("127.0.0.1", 5)}
    scope |= {"http_version": "1.1", "root_path": "", "raw_path": path.encode()}
    await app(scope, receive, send)  # pyright: ignore
    return statuses


def test_a_caller_that_dies_in_the_middle_of_a_request_is_no_defect(
    app: FastAPI, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    class Reads(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await request.aread()
            return httpx.Response(200)

    class Mlflow:
        async def ready(self) -> httpx.AsyncClient:
            return httpx.AsyncClient(transport=Reads(), base_url="http://localhost")

    app.state.tracking = Mlflow()
    for path in ("/mlflow/api/2.0/x", f"/mlflow/v2.0{GROUP}/workspaces/w/api/2.0/mlflow/x"):
        assert asyncio.run(_cut_off(app, path, owner(workspace))) == [499]
    assert "defect" not in caplog.text


def test_an_error_of_the_store_tells_no_values(workspace: Workspace) -> None:
    with pytest.raises(SQLAlchemyError) as caught, workspace.store.read() as connection:
        connection.execute(sa.text("SELECT :key FROM nowhere"), {"key": "secret"})
    assert "secret" not in str(caught.value)


def test_a_forged_link_opens_nothing(http: TestClient) -> None:
    answer = http.get("/login?se=9999999999&sig=0&next=/mlflow/")
    assert answer.status_code == 401
