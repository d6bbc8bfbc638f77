"""Which keys open an endpoint: every wrong one is refused on every route, through both doors."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import product
from typing import Any

import httpx
import pytest
from service_process import Service
from typer.testing import CliRunner

from finery.cli.main import app
from finery.endpoints.gateway.doors import HEALTH, MODELS, ROUTES

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("service")]

ONE, OTHER = "matrix-one", "matrix-other"
CALLS = [
    *((route.method, path) for path, route in ROUTES.items()),
    *(("GET", path) for path in (*HEALTH, MODELS, f"{MODELS}/blue")),
]
BODY = {"model": ONE, "messages": [{"role": "user", "content": "Hi"}]}
PATIENCE = 60.0
DOORS = ("scoringUri", "openaiBaseUrl")


def run(*words: str) -> str:
    answer = CliRunner().invoke(app, list(words))
    if answer.exception:
        raise answer.exception
    return answer.stdout


def told(*words: str) -> Any:
    return json.loads(run(*words, "--json"))


@pytest.fixture(scope="module")
def http(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(verify=service.trust, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def endpoints(service: Service) -> Iterator[None]:
    """Two endpoints; whoever has the right key finds that they have no deployments."""
    for name in (ONE, OTHER):
        run("endpoint", "create", name)
    yield
    for name in (ONE, OTHER):
        run("endpoint", "delete", name)


@pytest.fixture
def doors(endpoints: None, http: httpx.Client) -> list[str]:
    """The endpoint's address at the gateway's HTTPS door and at its plain one."""
    about = told("endpoint", "show", ONE)
    found = [about[door].rsplit(f"/{ONE}/", 1)[0] + f"/{ONE}" for door in DOORS]
    for door in found:
        answers(http, door)
    return found


def answers(http: httpx.Client, door: str) -> None:
    """Wait for the gateway, which begins with a service's first endpoint."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            http.get(door)
        except httpx.ConnectError:
            assert time.monotonic() < end, "no gateway answers"
            time.sleep(0.05)
        else:
            return


def status(http: httpx.Client, door: str, call: tuple[str, str], header: str | None) -> int:
    method, path = call
    headers = {} if header is None else {"Authorization": header}
    body = BODY if method == "POST" else None
    return http.request(method, door + path, headers=headers, json=body).status_code


def test_every_wrong_key_is_refused_on_every_route(http: httpx.Client, doors: list[str]) -> None:
    mine, others = told("endpoint", "keys", ONE), told("endpoint", "keys", OTHER)
    old = mine["primaryKey"]
    run("endpoint", "rotate", ONE)
    wrong = {
        "none": None,
        "empty": "Bearer",
        "garbage": "Bearer garbage",
        "not ASCII": b"Bearer \xd0\xba\xd0\xbb\xd1\x8e\xd1\x87".decode("latin-1"),
        "too long": f"Bearer {old}{old}",
        "another scheme": f"Basic {mine['secondaryKey']}",
        "another endpoint's primary": f"Bearer {others['primaryKey']}",
        "another endpoint's secondary": f"Bearer {others['secondaryKey']}",
        "rotated out": f"Bearer {old}",
    }
    let_in = {
        (name, door.partition(":")[0], call): code
        for (name, header), door, call in product(wrong.items(), doors, CALLS)
        if (code := _status_of(http, door, call, header)) != 401
    }
    assert let_in == {}


def _status_of(http: httpx.Client, door: str, call: tuple[str, str], header: str | None) -> int:
    """Like `status`, for headers that are no ASCII too."""
    method, path = call
    raw = [] if header is None else [(b"authorization", header.encode("latin-1"))]
    body = BODY if method == "POST" else None
    request = httpx.Request(method, door + path, headers=raw, json=body)
    return http.send(request).status_code


def test_both_keys_open_every_route(http: httpx.Client, doors: list[str]) -> None:
    """404, as nothing is deployed; what lists models has none to list."""
    keys = told("endpoint", "keys", ONE)
    for key, door, call in product(keys.values(), doors, CALLS):
        assert status(http, door, call, f"Bearer {key}") in (200, 404, 503), call


@pytest.mark.parametrize("path", ["/score", "/v1/models", "/health", ""])
def test_an_endpoint_that_is_not_there_is_a_404_with_any_key(
    http: httpx.Client, doors: list[str], path: str
) -> None:
    key = told("endpoint", "keys", ONE)["primaryKey"]
    method = "POST" if path == "/score" else "GET"
    for door in doors:
        nobody = door.replace(ONE, "nobody")
        for header in (None, "Bearer garbage", f"Bearer {key}"):
            assert status(http, nobody, (method, path), header) in (401, 404)


def test_a_rotation_holds_from_its_answer_on(http: httpx.Client, doors: list[str]) -> None:
    for which in ("primary", "secondary") * 5:
        before = told("endpoint", "keys", ONE)
        after = told("endpoint", "rotate", ONE, "--key", which)
        other = "secondaryKey" if which == "primary" else "primaryKey"
        assert after[other] == before[other]
        for door in doors:
            call = ("GET", MODELS)
            assert status(http, door, call, f"Bearer {before[f'{which}Key']}") == 401
            assert status(http, door, call, f"Bearer {after[f'{which}Key']}") != 401
            assert status(http, door, call, f"Bearer {after[other]}") != 401


def test_a_key_of_the_service_or_of_a_deleted_endpoint_opens_nothing(
    http: httpx.Client, doors: list[str], service: Service
) -> None:
    key = told("endpoint", "keys", ONE)["primaryKey"]
    run("endpoint", "delete", ONE)
    for door in doors:
        assert status(http, door, ("GET", MODELS), f"Bearer {key}") in (401, 404)
    run("endpoint", "create", ONE)
    secret = service.environment["MSI_SECRET"]
    for door, old in product(doors, (key, secret)):
        assert status(http, door, ("GET", MODELS), f"Bearer {old}") == 401


def test_no_key_is_written_to_any_log(
    http: httpx.Client, doors: list[str], service: Service
) -> None:
    keys = {*told("endpoint", "keys", ONE).values(), *told("endpoint", "keys", OTHER).values()}
    for key, door in product(keys, doors):
        status(http, door, ("POST", "/score"), f"Bearer {key}")
    keys |= set(told("endpoint", "rotate", ONE, "--key", "both").values())
    logs = [service.home / "service.log"]
    logs += [
        path for path in service.folder.rglob("*") if path.suffix in (".log", ".jsonl", ".txt")
    ]
    said = [path.read_text(errors="replace") for path in logs if path.is_file()]
    assert said
    assert not [key for key in keys for text in said if key in text]
