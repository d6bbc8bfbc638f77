"""From a client to a replica: keys, routes, choices, errors, ids."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from gateway_kit import KEY, OTHER, Stub, World, error_of, run

from finery.endpoints import keys, service, tables
from finery.endpoints.service import WantedEndpoint
from finery.workspace import identity
from finery.workspace.place import Workspace

CHAT, SCORE = "/v1/chat/completions", "/score"
POSTED = ("/score", CHAT, "/v1/completions", "/chat/completions", "/completions")
GOT = ("/", "", "/health", "/info", "/swagger.json", "/v1/models", "/v1/models/blue")


def test_a_replica_is_asked_with_its_own_key_and_what_it_needs(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        headers = {"x-request-id": "abc-1", "cookie": "c=d", "extra-parameters": "drop"}
        said = await there.http.post("/endpoints/chat/score", content=b"{}", headers=headers)
        assert (said.status_code, said.json()["by"]) == (200, "blue")
        (seen,) = there.stubs["blue"][0].seen
        assert (seen["method"], seen["path"], seen["body"]) == ("POST", "/score", b"{}")
        assert seen["headers"]["authorization"] == "Bearer replica key"
        assert seen["headers"]["x-finery-model"] == "blue"
        assert seen["headers"]["x-request-id"] == "abc-1"
        assert seen["headers"]["extra-parameters"] == "drop"
        assert "cookie" not in seen["headers"]
        assert KEY not in str(seen)

    run(workspace, work)


def test_an_adapter_is_asked_for_by_its_name(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        with workspace.store.write() as connection:
            connection.execute(tables.replicas.update().values(adapter="tuned"))
        await there.gateway.watch.reload()
        await there.ask()
        assert there.stubs["blue"][0].seen[0]["headers"]["x-finery-adapter"] == "tuned"

    run(workspace, work)


@pytest.mark.parametrize("path", POSTED)
def test_every_route_reaches_the_replica_under_its_own_path(
    workspace: Workspace, path: str
) -> None:
    async def work(there: World) -> None:
        said = await there.ask(path)
        assert (said.status_code, said.json()["model"]) == (200, "blue")
        assert said.headers["azureml-model-deployment"] == "blue"
        assert there.stubs["blue"][0].seen[0]["path"] == path

    run(workspace, work)


@pytest.mark.parametrize("path", [*POSTED, *GOT, "/nothing", "/v1/models/red", "/metrics"])
def test_nobody_is_answered_without_the_key_of_this_endpoint(
    workspace: Workspace, path: str
) -> None:
    async def work(there: World) -> None:
        other = service.put(workspace, WantedEndpoint("other"))
        method = "POST" if path in POSTED else "GET"
        for given in ("", "Bearer", "Bearer x", f"Basic {KEY}", KEY, f"Bearer {other.primary_key}"):
            for name, status in (("chat", 401), ("nobody", 404)):
                url, headers = f"/endpoints/{name}{path}", {"authorization": given}
                said = await there.http.request(method, url, headers=headers)
                assert said.status_code == status, given
        assert there.stubs["blue"][0].seen == []

    run(workspace, work)


def test_either_key_opens_until_it_is_rotated(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        async def status(key: str) -> int:
            header = {"authorization": f"bearer {key}"}
            return (await there.http.get("/endpoints/chat/", headers=header)).status_code

        assert [await status(key) for key in (KEY, OTHER)] == [200, 200]
        keys.regenerate(workspace, "chat", "primary", "n" * 20)
        await there.gateway.watch.reload()
        assert [await status(key) for key in (KEY, OTHER, "n" * 20)] == [401, 200, 200]

    run(workspace, work)


@pytest.mark.parametrize("mode", ["aml_token", "aad_token"])
def test_tokens_open_the_endpoints_that_take_them(workspace: Workspace, mode: Any) -> None:
    async def work(there: World) -> None:
        made = service.put(workspace, WantedEndpoint("tokens", auth_mode=mode))
        await there.gateway.watch.reload()
        right = (
            keys.token(workspace, made)
            if mode == "aml_token"
            else identity.mint(workspace, identity.PUBLIC_MACHINE_LEARNING)
        )
        late = identity.mint(workspace, identity.PUBLIC_MACHINE_LEARNING, seconds=-3600)
        given = (right, right[:-2], late, made.primary_key)
        statuses = []
        for token in given:
            header = {"authorization": f"Bearer {token}"}
            said = await there.http.get("/endpoints/tokens/v1/models", headers=header)
            statuses.append(said.status_code)
        assert statuses == [200, 401, 401, 401]

    run(workspace, work)


def test_a_change_reaches_the_gateway_by_itself_within_a_second(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        keys.regenerate(workspace, "chat", "primary", "n" * 20)
        async with asyncio.timeout(5):
            while (await there.http.get("/endpoints/chat/")).status_code != 401:
                await asyncio.sleep(0.02)

    run(workspace, work)


def test_health_says_who_answers_and_when_nobody_does(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        for path in ("", "/", "/health"):
            said = await there.http.get(f"/endpoints/chat{path}")
            assert said.json() == {"status": "healthy", "deployment": "blue"}
        await there.remove_replica("blue0")
        assert (await there.http.get("/endpoints/chat/")).status_code == 503
        await there.traffic()
        assert (await there.http.get("/endpoints/chat/health")).status_code == 404
        assert there.stubs["blue"][0].seen == []

    run(workspace, work)


def test_the_header_names_a_deployment(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        await there.deploy("green", Stub("green"))
        for path in (SCORE, CHAT):
            said = await there.http.post(
                f"/endpoints/chat{path}",
                json={"model": "chat"},
                headers={"azureml-model-deployment": "green"},
            )
            assert said.json()["by"] == "green"
            wrong = await there.http.post(
                f"/endpoints/chat{path}", json={}, headers={"azureml-model-deployment": "red"}
            )
            assert wrong.status_code == 404

    run(workspace, work)


def test_an_endpoint_without_traffic_is_a_404(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        await there.traffic()
        said = await there.ask()
        assert said.status_code == 404
        assert "azureml-model-deployment" in error_of(said)["message"]

    run(workspace, work)


def test_openais_models_are_the_endpoint_and_its_deployments(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        listed = (await there.http.get("/endpoints/chat/v1/models")).json()
        assert [model["id"] for model in listed["data"]] == ["chat", "blue"]
        one = await there.http.get("/endpoints/chat/v1/models/blue")
        assert one.json() == listed["data"][1]
        missing = await there.http.get("/endpoints/chat/v1/models/red")
        assert (missing.status_code, error_of(missing)["code"]) == (404, "model_not_found")

    run(workspace, work)


@pytest.mark.parametrize("model", ["chat", "green", None, ""])
def test_a_chat_goes_to_the_deployment_that_its_model_means(
    workspace: Workspace, model: str | None
) -> None:
    async def work(there: World) -> None:
        await there.deploy("green", Stub("green"))
        said = await there.ask(CHAT, messages=[], **({"model": model} if model is not None else {}))
        assert said.json()["by"] == ("green" if model == "green" else "blue")

    run(workspace, work)


def test_a_users_conversations_stay_where_they_are(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        await there.deploy("green", Stub("green"))
        await there.traffic(blue=50, green=50)

        async def asked(body: dict[str, Any], **headers: str) -> str:
            url = f"/endpoints/chat{CHAT if body else SCORE}"
            return (await there.http.post(url, json=body, headers=headers)).json()["by"]

        for body, headers in (
            ({"user": "ann"}, {}),
            ({"metadata": {"conversation_id": "c"}, "user": "ann"}, {}),
            ({}, {"x-conversation-id": "c"}),
            ({"user": "x" * 40_000}, {}),
        ):
            assert len({await asked(body, **headers) for _ in range(8)}) == 1
        by = {await asked({"user": f"{number}"}) for number in range(20)}
        assert by == {"blue", "green"}

    run(workspace, work)


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "UserError"),
        (b"[]", 400, "UserError"),
        (b"[" * 20_000, 400, "UserError"),
        (b'{"a": ' + b"[" * 200_000, 400, "UserError"),
        (b"\xff\xfe", 400, "UserError"),
        (b'{"n": ' + b"9" * 5000 + b"}", 400, "UserError"),
        (b'{"model": "gpt-4"}', 404, "model_not_found"),
        (b'{"model": "\\ud800"}', 404, "model_not_found"),
        (b'{"model": ["blue"]}', 404, "model_not_found"),
        (b'{"model": "gpt-4", "a": "' + b"a" * 100_000 + b'"}', 404, "model_not_found"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/chat/completions"])
def test_a_body_that_cannot_be_used_is_the_callers_fault_in_his_librarys_shape(
    workspace: Workspace, path: str, content: bytes, status: int, code: str
) -> None:
    async def work(there: World) -> None:
        said = await there.http.post(f"/endpoints/chat{path}", content=content)
        assert (said.status_code, error_of(said)["code"]) == (status, code)
        rest = {"type", "param"} if path == CHAT else {"status"}
        assert set(error_of(said)) == {"message", "code"} | rest

    run(workspace, work)


def test_a_path_that_is_not_there_is_a_404_and_a_method_a_405(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        for path in ("/nothing", "/v1", "/v1/embeddings", "/metrics", "/score/"):
            assert (await there.http.get(f"/endpoints/chat{path}")).status_code == 404
        for path, allowed in ((SCORE, "GET"), ("/", "POST"), ("/v1/models", "DELETE")):
            said = await there.http.request(allowed, f"/endpoints/chat{path}")
            assert said.status_code == 405
            assert said.headers["allow"] == ("POST" if path == SCORE else "GET")
        assert (await there.http.get("/elsewhere")).status_code == 404

    run(workspace, work)


@pytest.mark.parametrize("status", [400, 500, 503])
def test_what_the_model_refuses_is_a_424_with_azures_headers(
    workspace: Workspace, status: int
) -> None:
    async def work(there: World) -> None:
        said = await there.ask(status=status)
        assert said.status_code == 424
        assert said.headers["ms-azureml-model-error-statuscode"] == str(status)
        assert said.headers["ms-azureml-model-error-reason"] == "the model"
        assert error_of(said) == {"code": "ModelError", "message": "the model\nsays no"}
        said = await there.ask(CHAT, status=status)
        assert (said.status_code, said.json()["error"]["message"]) == (status, "the model\nsays no")

    run(workspace, work)


def test_the_ids_of_a_request_come_back(workspace: Workspace) -> None:
    async def work(there: World) -> None:
        given = {"x-request-id": "mine", "x-ms-client-request-id": "azure"}
        said = await there.http.post("/endpoints/chat/score", json={}, headers=given)
        assert said.headers["x-request-id"] == "mine"
        assert said.headers["x-ms-client-request-id"] == "azure"
        odd = {"x-request-id": "a b" * 100}
        said = await there.http.post("/endpoints/chat/nothing", json={}, headers=odd)
        assert len(said.headers["x-request-id"]) == 36

    run(workspace, work)
