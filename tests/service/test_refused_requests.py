"""Requests that no SDK sends: bodies that are none, paths that lead out, tokens of others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest
from fastapi.routing import APIRoute
from refusals import GROUP, PATIENCE, WORKSPACE, code_of, owner, unchanged, workspace_of
from service_process import Service

from finery.azureml import caller
from finery.service.app import DOORS
from finery.workspace import identity

PUBLIC = ("/metadata/endpoints", "/discovery", "/healthz")  # no data, no token
JSON = "application/json"
DEEP = b'{"properties": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001
REGISTRY = "/mferp/managementfrontend" + GROUP + "/registries/azureml"


@pytest.fixture(scope="module")
def http(service: Service) -> Iterator[httpx.Client]:
    with owner(service) as client:
        yield client


def routes() -> list[tuple[str, str]]:
    """Every method and path template of the service's doors."""

    def below(entries: Any) -> Iterator[APIRoute]:
        for entry in entries:
            if isinstance(entry, APIRoute):
                yield entry
            else:
                yield from below(entry.original_router.routes)

    return [
        (method, route.path)
        for door in DOORS
        for route in below(door.router.routes)
        for method in sorted(route.methods - {"HEAD", "OPTIONS"})
    ]


def filled(template: str, word: str = "x") -> str:
    """An address of a route: a word for every name in its template."""
    for part in [part.split("}")[0] for part in template.split("{")[1:]]:
        value = {"kind:assets": "models", "plural": "models", "reg": "azureml"}.get(part, word)
        template = template.replace("{" + part + "}", value)
    return template


BODIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "application/json"),
    "not JSON": (b"{", "application/json"),
    "another kind": (b'{"properties": {}}', "text/plain"),
    "no object": (b"[1, 2]", "application/json"),
    "null": (b"null", "application/json"),
    "too deep": (DEEP, "application/json"),
    "no UTF-8": (b'{"properties": "\xff"}', "application/json"),
    "wrong shape": (
        b'{"properties": [5], "assetId": 5, "sourceAssetId": {}, "values": 5}',
        "application/json",
    ),
    "long number": (b'{"properties": ' + b"1" * 10_000 + b"}", "application/json"),
    "no characters": (
        rb'{"properties": {"description": "\ud800", "tags": {"a": "\u0000"}}, "x": "\u0000"}',
        "application/json",
    ),
}
# Routes whose body is data, or that need none.
BODILESS = (
    *("/cancel", "/listNodes", "/restart", "/stop", "/start", "/listSecrets", "/listKeys"),
    *("/token", "/startPendingUpload", "/msi/token"),
)


@pytest.mark.parametrize("body", BODIES)
def test_a_body_that_is_none_is_refused_by_every_door(
    http: httpx.Client, service: Service, body: str
) -> None:
    content, kind = BODIES[body]
    asked = 0
    with unchanged(service):
        for method, template in routes():
            skipped = template.endswith(BODILESS) or template.startswith(("/_blob", "/mlflow"))
            if method in ("GET", "DELETE") or skipped:
                continue
            path = filled(template)
            answer = http.request(method, path, content=content, headers={"Content-Type": kind})
            assert 400 <= answer.status_code < 502, f"{method} {path}: {answer.text[:1000]}"
            assert answer.status_code != 500, f"{method} {path}: {answer.text[:1000]}"
            asked += 1
    assert asked > 20


def test_a_body_of_a_hundred_megabytes_is_refused(http: httpx.Client, service: Service) -> None:
    def pieces(count: int) -> Iterator[bytes]:
        yield b'{"properties": {"description": "'
        for _ in range(count):
            yield b"x" * 2**20
        yield b'"}}'

    for path in (f"{WORKSPACE}/jobs/large", f"{WORKSPACE}/models/large/versions/1"):
        with unchanged(service):
            answer = http.put(path, content=pieces(100), headers={"Content-Type": JSON})
            assert "blobs" in code_of(answer, 413)
            length = {"Content-Type": JSON, "Content-Length": str(100 * 2**20)}
            announced = http.put(path, content=b"x" * 100 * 2**20, headers=length)
            code_of(announced, 413)
    assert http.get("/healthz").status_code == 200


def test_json_that_is_nested_too_deep_is_refused(http: httpx.Client, service: Service) -> None:
    with unchanged(service):
        for body in (DEEP, b"[" * 100_000, b'{"a":' * 100_000):
            answer = http.put(
                f"{WORKSPACE}/jobs/deep", content=body, headers={"Content-Type": JSON}
            )
            assert "deep" in code_of(answer, 400)


# What leads out of a folder, as somebody may write it in an address or in a body.
NAMES = ("..", "../../x", "..\\x", "/etc/passwd", "a\0b", ".", "x" * 5000)
URIS = (
    "azureml://datastores/workspaceblobstore/paths/../../secrets/signing.key",
    "azureml://datastores/workspaceblobstore/paths/a/../../../finery.sqlite",
    "azureml://datastores/workspaceblobstore/paths/..\\..\\finery.sqlite",
    "azureml://datastores/workspaceblobstore/paths/a\0b",
    "azureml://datastores/../paths/finery.sqlite",
    "azureml://jobs/../outputs/../paths/../../finery.sqlite",
    "azureml://jobs/x/outputs/../../../../finery.sqlite",
    "https://localhost/_blob.blob.local/../finery.sqlite",
    "https://localhost/_blob.blob.local/azureml-blobstore/%2e%2e/%2e%2e/finery.sqlite",
    "file:///etc/passwd",
    "file:///proc/self/environ",
    "/etc/passwd",
    "../../finery.sqlite",
    "azureml:../../x:1",
)
COMMAND = {"jobType": "Command", "command": "true"}
READS = "cat ${{inputs.x}}"
WRITES = "ls ${{outputs.x}}"


def bodies_with(uri: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every request whose body takes a path: where it goes, and its properties."""
    for kind in ("uri_file", "uri_folder", "mltable"):
        yield "data/out/versions/1", {"dataType": kind, "dataUri": uri}
    for kind in ("custom_model", "mlflow_model"):
        yield "models/out/versions/1", {"modelType": kind, "modelUri": uri}
    yield "codes/out/versions/1", {"codeUri": uri}
    build = {"contextUri": uri, "dockerfilePath": "Dockerfile"}
    yield "environments/out/versions/1", {"build": build}
    read = {"x": {"jobInputType": "uri_file", "uri": uri}}
    yield "jobs/out", {**COMMAND, "command": READS, "inputs": read}
    write = {"x": {"jobOutputType": "uri_folder", "uri": uri}}
    yield "jobs/out", {**COMMAND, "command": WRITES, "outputs": write}
    yield "jobs/out", {**COMMAND, "codeId": uri}
    yield "jobs/out", {**COMMAND, "environmentId": uri}
    node = {"componentId": uri, "type": "command"}
    yield "jobs/out", {"jobType": "Pipeline", "jobs": {"a": node}}
    yield "onlineEndpoints/no/deployments/out", {"model": uri, "endpointComputeType": "Managed"}


@pytest.mark.parametrize("uri", URIS)
def test_no_path_in_a_body_leads_out(http: httpx.Client, service: Service, uri: str) -> None:
    with unchanged(service):
        for place, properties in bodies_with(uri):
            body = {"properties": properties, "location": "local"}
            answer = http.put(f"{WORKSPACE}/{place}", json=body)
            said = code_of(answer, 400, 404)
            assert "root:x:" not in said


def bodies_named(name: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Requests whose body takes a name that becomes a file's or a folder's."""
    ours = {"datastoreType": "AzureBlob", "endpoint": "local", "credentials": {}}
    yield "PUT", f"{WORKSPACE}/datastores/out", {**ours, "containerName": name}
    out = {"x": {"jobOutputType": "uri_folder", "assetName": name}}
    yield "PUT", f"{WORKSPACE}/jobs/out", {**COMMAND, "command": WRITES, "outputs": out}
    named = {name: {"jobOutputType": "uri_folder"}}
    yield "PUT", f"{WORKSPACE}/jobs/out", {**COMMAND, "outputs": named}
    node = {"componentId": "azureml:x:1", "type": "command"}
    yield "PUT", f"{WORKSPACE}/jobs/out", {"jobType": "Pipeline", "jobs": {name: node}}
    source = f"azureml://models/{name}/versions/1"
    yield "POST", f"{REGISTRY}/import", {"sourceAssetId": source, "destinationName": name}


@pytest.mark.parametrize("name", NAMES)
def test_no_name_in_a_body_leads_out(http: httpx.Client, service: Service, name: str) -> None:
    account = service.url.removeprefix("https://") + "/_blob"
    with unchanged(service):
        for method, place, properties in bodies_named(name):
            properties = {"accountName": account, **properties}
            answer = http.request(method, place, json={"properties": properties})
            assert code_of(answer, 400, 404), place


def written(name: str) -> str:
    """A name in an address, every sign of it escaped."""
    return "".join(f"%{byte:02x}" for byte in name.encode())


@pytest.mark.parametrize("name", NAMES)
def test_no_name_in_an_address_leads_out(http: httpx.Client, service: Service, name: str) -> None:
    word = written(name)
    properties = {
        **{"dataType": "uri_file", "modelType": "custom_model", **COMMAND},
        **{"computeType": "AmlCompute", "properties": {"vmSize": "Standard_local"}},
        **{"image": "x", "authMode": "Key", "datastoreType": "AzureBlob"},
    }
    for key in ("dataUri", "modelUri", "codeUri"):
        properties[key] = "azureml://datastores/workspaceblobstore/paths/nothing"
    body = {"properties": properties, "location": "local"}
    with unchanged(service):
        for method, template in routes():
            if template == "/{path:path}" or "{" not in template or "/mlflow" in template:
                continue
            path = filled(template, word).replace(f"subscriptions/{word}", "subscriptions/s")
            path = path.replace(f"resourceGroups/{word}", "resourceGroups/g")
            path = path.replace(f"workspaces/{word}", "workspaces/w")
            if word not in path:
                continue
            answer = http.request(method, path, json=body if method != "GET" else None)
            found = f"{method} {path[:300]}: {answer.status_code} {answer.text[:500]}"
            assert answer.status_code != 500, found
            assert method in ("GET", "DELETE") or answer.status_code >= 400, found
            assert "root:x:" not in answer.text


def test_logs_and_artifacts_lead_nowhere_else(http: httpx.Client, service: Service) -> None:
    workspace = workspace_of(service)
    for run, log in (("..", "x"), ("x", "../../finery.sqlite"), ("x", "/etc/passwd")):
        path = f"/_artifacts/{run}/{log}"
        query = identity.sign_query(workspace, path)
        address = f"/_artifacts/{written(run)}/{written(log)}?{query}"
        code_of(http.get(address), 401, 404)
        code_of(http.get(f"/_artifacts/{written(run)}/{written(log)}"), 401, 404)
    for path in ("../../finery.sqlite", "/etc/passwd", "..%2f..%2ffinery.sqlite"):
        asked = {"run_uuid": "x", "path": path}
        answer = http.get("/mlflow/get-artifact", params=asked)
        assert 400 <= answer.status_code < 500, answer.text
        for method in ("GET", "PUT"):
            place = f"/mlflow/api/2.0/mlflow-artifacts/artifacts/{written(path)}"
            answer = http.request(method, place)
            assert 400 <= answer.status_code < 500, f"{method} {path}: {answer.text}"


def test_blobs_stay_in_their_container(http: httpx.Client, service: Service) -> None:
    root = "/_blob.blob.local"
    headers = {"x-ms-blob-type": "BlockBlob"}
    with unchanged(service):
        for name in NAMES[:-2]:
            for container in ("azureml-blobstore", written(name)):
                path = f"{root}/{container}/{written(name)}"
                for method in ("GET", "HEAD", "DELETE", "PUT"):
                    answer = http.request(method, path, headers=headers)
                    assert 400 <= answer.status_code < 500, f"{method} {path}: {answer.text}"
                    answer = http.put(f"{path}?comp=block&blockid=YQ==", content=b"x")
                    assert 400 <= answer.status_code < 500, f"{path}: {answer.text}"
            listed = {"comp": "list", "restype": "container", "prefix": name}
            answer = http.get(f"{root}/azureml-blobstore", params=listed)
            assert answer.status_code < 500, answer.text
            assert "finery.sqlite" not in answer.text


def strangers(service: Service) -> dict[str, str]:
    """Tokens that open nothing."""
    workspace = workspace_of(service)
    moment = int(time.time())
    claims = {
        **{"iss": identity.ISSUER, "sub": "owner", "aud": identity.MANAGEMENT},
        **{"iat": moment, "nbf": moment, "exp": moment + 3600},
    }
    key = (workspace.secrets / "signing.key").read_text(encoding="utf-8").strip()
    return {
        "none": "",
        "no token": "Bearer",
        "not a token": "Bearer x.y.z",
        "another scheme": "Basic b3duZXI6b3duZXI=",
        "expired": f"Bearer {identity.mint(workspace, identity.MANAGEMENT, seconds=-3600)}",
        "another key": f"Bearer {jwt.encode(claims, 'k' * 32, algorithm='HS256')}",
        "no signature": f"Bearer {jwt.encode(claims, None, algorithm='none')}",
        "another audience": f"Bearer {identity.mint(workspace, 'https://vault.azure.net')}",
        "a browser's": f"Bearer {identity.mint(workspace, identity.BROWSER)}",
        "another issuer": f"Bearer {jwt.encode({**claims, 'iss': 'x'}, key, algorithm='HS256')}",
        "not yet": f"Bearer {jwt.encode({**claims, 'nbf': moment + 999}, key, algorithm='HS256')}",
    }


@pytest.mark.parametrize("kind", ["none", "expired", "another key", "another audience"])
def test_no_door_opens_to_a_token_of_others(service: Service, kind: str) -> None:
    header = strangers(service)[kind]
    headers = {"Authorization": header} if header else {}
    asked = 0
    plain = httpx.Client(base_url=service.url, verify=service.trust, timeout=PATIENCE)
    with unchanged(service), plain as http:
        for method, template in routes():
            if template in PUBLIC:
                continue
            path = filled(template)
            answer = http.request(method, path, headers=headers, json={"properties": {}})
            if (
                template.startswith("/studio") and answer.status_code == 303
            ):  # to where one signs in
                assert answer.headers["location"].startswith(f"{service.http_url}/studio")
            elif caller.is_open(template) and "msi" not in template:
                assert 400 <= answer.status_code < 500, f"{method} {path}: {answer.text}"
            elif "msi" not in template:
                assert answer.status_code == 401, f"{method} {path}: {answer.status_code}"
                assert answer.json()["error"]["code"] == "InvalidAuthenticationToken"
            asked += 1
    assert asked > 80


def test_no_other_token_is_taken_for_one_of_ours(service: Service) -> None:
    for kind, header in strangers(service).items():
        for path in (f"{WORKSPACE}/jobs", "/mlflow/", f"{REGISTRY}/models"):
            headers = {"Authorization": header} if header else {}
            address = service.url + path
            answer = httpx.get(address, headers=headers, verify=service.trust, timeout=PATIENCE)
            assert answer.status_code == 401, kind
