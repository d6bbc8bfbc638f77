"""Who is let in, what other pages may do, and what our own pages may do in a browser."""

from __future__ import annotations

import re

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from studio_store import put_data, put_model, put_run, write_log

from finery.errors import FineryError
from finery.jobs import service
from finery.studio import assets, door, security
from finery.workspace import identity, sessions
from finery.workspace.identity import key_of
from finery.workspace.place import Workspace

ORIGIN = "http://127.0.0.1"
FORM_TOKEN = re.compile(r'name="token" value="([^"]+)"')


def token(browser: TestClient) -> str:
    found = FORM_TOKEN.search(browser.get("/studio/").text)
    assert found is not None
    return found[1]


def every_page(workspace: Workspace) -> list[str]:
    """An address of every page that is read."""
    put_run(workspace, "a-job")
    put_model(workspace, "a-model", "a-job")
    put_data(workspace, "a-set", "rows.jsonl", '{"messages": []}\n')
    write_log(workspace, "a-job", "begins\n", pipeline=True)
    names = {"{version}": assets.bundle().version, "{rest:path}": "nowhere"}
    log = "?file=logs/azureml/executionlogs.txt"
    found = []
    for methods, path, _ in door.PAGES:
        if "GET" not in methods:
            continue
        kind = path.split("/")[1]
        named = {"models": "a-model", "data": "a-set", "static": "studio.css"}.get(kind, "a-job")
        for old, new in (names | {"{name}": named}).items():
            path = path.replace(old, new)
        found.append(f"/studio{path}{log if '/log/' in path else ''}")
    return found


def test_every_answer_tells_the_browser_to_run_nothing_but_our_files(
    browser: TestClient, workspace: Workspace
) -> None:
    policy = dict(part.split(" ", 1) for part in security.POLICY.split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    for page in [*every_page(workspace), "/studio"]:
        answer = browser.get(page)
        assert answer.status_code == (404 if page == "/studio/nowhere" else answer.status_code)
        assert answer.status_code in (200, 204, 303, 404), (page, answer.text)
        for name, value in security.HEADERS.items():
            assert answer.headers[name] == value, (page, name)


def test_no_page_holds_a_script_or_a_style_or_names_another_host(
    browser: TestClient, workspace: Workspace
) -> None:
    for page in every_page(workspace):
        answer = browser.get(page)
        if not answer.headers.get("content-type", "").startswith("text/html"):
            continue
        text = answer.text
        assert not re.findall(r"<script(?![^>]* src=\"/studio/static/)", text), page
        assert "<style" not in text
        assert not re.findall(r"\s(?:style|on[a-z]+)=", text), page
        assert not re.findall(r"(?:src|href|action)=\"(?:https?:)?//", text), page


def test_every_page_but_files_asks_who_looks(stranger: TestClient, workspace: Workspace) -> None:
    for page in every_page(workspace):
        answer = stranger.get(page)
        wanted = 200 if "/static/" in page else 401
        assert answer.status_code == wanted, page
        if wanted == 401:
            assert "<code>finery up</code>" in answer.text
            assert "a-job" not in answer.text.replace(page.partition("?")[0], "")


def test_a_signed_out_browser_on_https_is_sent_where_its_session_is(
    app: FastAPI, workspace: Workspace
) -> None:
    outside = TestClient(
        app, "https://localhost", False, follow_redirects=False, client=("127.0.0.1", 5)
    )
    answer = outside.get("/studio/jobs/x?q=1")
    assert answer.status_code == 303
    assert answer.headers["location"] == f"{workspace.settings.http_url}/studio/jobs/x?q=1"


def test_a_page_whose_session_ended_is_loaded_anew(stranger: TestClient) -> None:
    answer = stranger.get("/studio/now", headers={"hx-request": "true"})
    assert (answer.status_code, answer.headers["hx-refresh"], answer.text) == (401, "true", "")


def test_a_session_of_an_encrypted_connection_stays_on_such(
    app: FastAPI, workspace: Workspace
) -> None:
    far = TestClient(
        app, "https://localhost", False, follow_redirects=False, client=("10.0.0.7", 5)
    )
    assert "Or sign in with a key" in far.get("/studio/").text
    form = {"key": key_of(workspace.secrets, "alice")}
    answer = far.post("/studio/sign-in", data=form, headers={"origin": "https://localhost"})
    assert answer.status_code == 303
    assert "secure" in answer.headers["set-cookie"].lower()


def test_an_api_token_is_no_session(stranger: TestClient, workspace: Workspace) -> None:
    bearer = identity.mint(workspace, identity.FINERY)
    assert (
        stranger.get("/studio/", headers={"authorization": f"Bearer {bearer}"}).status_code == 401
    )
    stranger.cookies.set(sessions.cookie(workspace), bearer)
    assert stranger.get("/studio/").status_code == 401


def test_a_user_signs_in_with_a_key_and_out_again(
    stranger: TestClient, workspace: Workspace
) -> None:
    form = {"key": key_of(workspace.secrets, "alice"), "page": "/studio/jobs"}
    answer = stranger.post("/studio/sign-in", data=form, headers={"origin": ORIGIN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/studio/jobs")
    assert "httponly" in answer.headers["set-cookie"].lower()
    assert "alice" in stranger.get("/studio/").text
    done = stranger.post(
        "/studio/sign-out", data={"token": token(stranger)}, headers={"origin": ORIGIN}
    )
    assert done.status_code == 303
    assert stranger.get("/studio/").status_code == 401


@pytest.mark.parametrize("key", ["", "wrong", "<script>alert(1)</script>"])
def test_a_wrong_key_signs_nobody_in(stranger: TestClient, key: str) -> None:
    answer = stranger.post("/studio/sign-in", data={"key": key}, headers={"origin": ORIGIN})
    assert answer.status_code == 401
    assert "nobody&#39;s key" in answer.text
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "page",
    ["https://evil.example/", "//evil.example", "/studio//evil", "/mlflow/", "/studio/\\evil", ""],
)
def test_signing_in_leads_to_pages_of_the_studio_alone(
    stranger: TestClient, workspace: Workspace, page: str
) -> None:
    form = {"key": key_of(workspace.secrets), "page": page}
    answer = stranger.post("/studio/sign-in", data=form, headers={"origin": ORIGIN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/studio/")


CHANGES = tuple(
    f"/studio{path}".format(name="a-job", deployment="blue")
    for methods, path, _ in door.PAGES
    if methods == ["POST"] and path != "/sign-in"
)


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize(
    "headers",
    [
        {},  # no origin at all
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},  # another port of this machine
        {"origin": "https://127.0.0.1"},
        {"origin": ORIGIN, "sec-fetch-site": "cross-site"},
        {"origin": ORIGIN, "sec-fetch-site": "same-site"},
    ],
)
def test_another_page_can_change_nothing(
    browser: TestClient, workspace: Workspace, path: str, headers: dict[str, str]
) -> None:
    put_run(workspace, "a-job", "Running")
    form = {"token": token(browser), "theme": "dark"}
    answer = browser.post(path, data=form, headers=headers)
    assert answer.status_code == 403
    assert service.get(workspace, "a-job").status == "Running"


@pytest.mark.parametrize("path", CHANGES)
def test_a_change_needs_the_token_of_this_session(
    browser: TestClient, app: FastAPI, workspace: Workspace, path: str
) -> None:
    put_run(workspace, "a-job", "Running")
    session = identity.mint(workspace, identity.BROWSER, "alice")
    other = TestClient(app, ORIGIN, cookies={sessions.cookie(workspace): session})
    for given in ("", "x", token(other), browser.cookies[sessions.cookie(workspace)]):
        form = {"token": given, "theme": "dark"}
        answer = browser.post(path, data=form, headers={"origin": ORIGIN})
        assert answer.status_code == 403
        assert "eload" in answer.text  # what to do
    assert service.get(workspace, "a-job").status == "Running"


def test_the_token_also_counts_in_the_header_that_htmx_sends(
    browser: TestClient, workspace: Workspace
) -> None:
    headers = {"origin": ORIGIN, "x-finery-token": token(browser)}
    form = {"theme": "dark", "page": "/studio/jobs"}
    answer = browser.post("/studio/theme", data=form, headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (303, "/studio/jobs")
    assert 'data-theme="dark"' in browser.get("/studio/").text


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "2130706433"]
)
def test_a_name_that_was_made_to_lead_here_opens_nothing(
    browser: TestClient, workspace: Workspace, host: str
) -> None:
    cookie = f"{sessions.cookie(workspace)}={browser.cookies[sessions.cookie(workspace)]}"
    for path in ("/studio/", "/studio/jobs/a-job/metrics", "/studio/static/x/studio.css"):
        answer = browser.get(path, headers={"host": host, "cookie": cookie})
        assert answer.status_code == 403
        assert workspace.settings.http_url in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
    ],
)
def test_another_page_can_read_nothing(browser: TestClient, headers: dict[str, str]) -> None:
    assert browser.get("/studio/jobs", headers=headers).status_code == 403


def test_a_link_on_another_page_still_opens_ours(browser: TestClient) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert browser.get("/studio/jobs", headers=headers).status_code == 200


def test_a_form_is_small_and_a_form(browser: TestClient) -> None:
    headers = {"origin": ORIGIN, "x-finery-token": token(browser)}
    large = browser.post("/studio/theme", data={"theme": "x" * 70_000}, headers=headers)
    assert (large.status_code, "65536 bytes" in large.text) == (400, True)
    other = browser.post("/studio/theme", json={"theme": "dark"}, headers=headers)
    assert other.status_code == 400


def test_a_file_of_the_pages_is_kept_for_ever_at_its_version(stranger: TestClient) -> None:
    version = assets.bundle().version
    for name in ("studio.css", "studio.mjs", "charts.mjs", "log.mjs", "icon.svg", "htmx.min.js"):
        answer = stranger.get(f"/studio/static/{version}/{name}")
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        etag = {"if-none-match": answer.headers["etag"]}
        assert stranger.get(f"/studio/static/{version}/{name}", headers=etag).status_code == 304
        old = stranger.get(f"/studio/static/older/{name}")
        assert (old.content, old.headers["cache-control"]) == (answer.content, "no-cache")
    assert stranger.get(f"/studio/static/{version}/secrets.key").status_code == 404
    assert stranger.get(f"/studio/static/{version}/..%2Fdoor.py").status_code in (401, 404)


def test_another_htmx_than_the_known_one_is_refused_at_start(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "HTMX_SHA256", "0" * 64)
    assets.bundle.cache_clear()
    try:
        with pytest.raises(FineryError, match=r"another htmx.*pip install"):
            assets.bundle()
    finally:
        monkeypatch.undo()
        assets.bundle.cache_clear()


def test_the_files_are_checked_before_the_service_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = FastAPI()
    app.include_router(door.router)
    monkeypatch.setattr(assets, "HTMX_SHA256", "0" * 64)
    assets.bundle.cache_clear()
    try:
        with pytest.raises(FineryError, match="another htmx"), TestClient(app):
            pass
    finally:
        monkeypatch.undo()
        assets.bundle.cache_clear()


def test_a_defect_is_a_page_that_tells_no_details(
    browser: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("finery.jobs.listing.page", broken)
    answer = browser.get("/studio/jobs")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    found = re.search(r"under ([0-9a-f]{12})", answer.text)
    assert found is not None
    assert found[1] in caplog.text
