"""What pages show of a workspace, and that nothing in it can be more than text."""

from __future__ import annotations

import contextlib
import gzip
import html
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from studio_store import (
    metric_rows,
    put_data,
    put_many,
    put_model,
    put_run,
    sample,
    training_folder,
    write_log,
    write_metrics,
    write_result,
)

from finery.endpoints.service import WantedEndpoint
from finery.endpoints.service import put as put_endpoint
from finery.jobs import rows
from finery.workspace import assets
from finery.workspace.asset import Asset
from finery.workspace.place import Workspace

ORIGIN = {"origin": "http://127.0.0.1"}
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>'\"{{7*7}}"


@contextlib.contextmanager
def counted(workspace: Workspace) -> Iterator[list[str]]:
    """The statements that are asked of the store."""
    said: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.lstrip().upper().startswith("SELECT"):
            said.append(statement)

    sa.event.listen(workspace.store.engine, "before_cursor_execute", note)
    try:
        yield said
    finally:
        sa.event.remove(workspace.store.engine, "before_cursor_execute", note)


def links(text: str, start: str) -> list[str]:
    return [html.unescape(found) for found in re.findall(rf'href="({start}[^"]*)"', text)]


def test_home_says_what_runs_what_ended_and_what_is_in_use(
    browser: TestClient, workspace: Workspace
) -> None:
    put_run(workspace, "the-old", "Completed")
    put_run(workspace, "the-live", "Running")
    put_endpoint(workspace, WantedEndpoint("the-endpoint"))
    text = browser.get("/studio/").text
    running, finished = text.split("Finished lately")
    assert "/studio/jobs/the-live" in running
    assert "/studio/jobs/the-old" in finished
    assert "the-live" not in finished
    for words in ("CPU cores held by jobs", "free of", "the-endpoint", "Fine-tune a model"):
        assert words in text
    assert 'hx-get="/studio/now"' in browser.get("/studio/now").text


def test_an_empty_workspace_says_how_to_begin(browser: TestClient) -> None:
    assert "Nothing runs" in browser.get("/studio/").text
    assert "No job was submitted yet" in browser.get("/studio/jobs").text
    assert "finery model register" in browser.get("/studio/models").text
    assert "There is no data asset here yet" in browser.get("/studio/data").text
    assert "Choose, or upload a file" in browser.get("/studio/fine-tune").text


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("state=active", {"two"}),
        ("state=completed", {"one"}),
        ("state=failed", {"three"}),
        ("experiment=other", {"three"}),
        ("q=TW", {"two"}),
        ("q=%25", set()),  # a percent sign is no wildcard
        ("q=_", set()),
        ("q=e&state=failed", {"three"}),
        ("", {"one", "two", "three"}),
    ],
)
def test_jobs_are_found_by_state_experiment_and_words(
    browser: TestClient, workspace: Workspace, query: str, found: set[str]
) -> None:
    put_run(workspace, "one")
    put_run(workspace, "two", "Running")
    put_run(workspace, "three", "Failed", experiment="other")
    text = browser.get(f"/studio/jobs?{query}").text
    assert set(re.findall(r'name="run" value="(\w+)"', text)) == found


def test_older_jobs_follow_page_by_page_each_once(
    browser: TestClient, workspace: Workspace
) -> None:
    put_many(workspace, 120)
    seen: list[str] = []
    address = "/studio/jobs"
    while address:
        text = browser.get(address, headers={"hx-request": "true"}).text
        assert "<html" not in text  # rows alone
        seen += re.findall(r'name="run" value="([\w-]+)"', text)
        address = next(iter(links(text, "/studio/jobs\\?before=")), "")
    assert seen == [f"many-{number:05d}" for number in reversed(range(120))]


@pytest.mark.parametrize("query", ["state=odd", "before=x", "before=-1", "before=9" + "9" * 30])
def test_a_query_that_no_page_makes_is_said_to_be_wrong(browser: TestClient, query: str) -> None:
    answer = browser.get(f"/studio/jobs?{query}")
    assert answer.status_code == 400
    assert "expected" in answer.text


def test_pages_of_ten_thousand_jobs_ask_few_questions_and_are_small(
    browser: TestClient, workspace: Workspace
) -> None:
    put_many(workspace, 10_000)
    pages = {"/studio/": 8, "/studio/jobs": 3, "/studio/jobs?q=number 77&state=failed": 3}
    pages |= {"/studio/jobs/many-09000": 4, "/studio/compare": 2}
    for page, most in pages.items():
        with counted(workspace) as said:
            answer = browser.get(page, headers={"accept-encoding": "gzip"})
        assert answer.status_code == 200
        assert len(said) <= most, (page, said)
        asked = [s for s in said if "FROM jobs" in s]
        assert all("LIMIT" in s or "DISTINCT" in s or "name =" in s or "root =" in s for s in asked)
        if "many-" not in page:
            assert not [s for s in asked if "spec" in s], "a list reads whole specifications"
        assert answer.headers["content-encoding"] == "gzip"


def test_the_first_page_with_all_its_files_is_light(
    browser: TestClient, workspace: Workspace
) -> None:
    put_many(workspace, 300)
    packed = {"accept-encoding": "gzip"}
    page = browser.get("/studio/", headers=packed)
    total = len(gzip.compress(page.content))
    for file in re.findall(r'(?:src|href)="(/studio/static/[^"]+)"', page.text):
        total += int(browser.get(file, headers=packed).headers["content-length"])
    total += int(
        browser.get("/studio/static/x/charts.mjs", headers=packed).headers["content-length"]
    )
    assert total < 150_000


def hostile(workspace: Workspace) -> list[str]:
    """A workspace whose every text is an attack, and the pages that show it."""
    steps = put_run(
        workspace,
        "evil",
        "Failed",
        settings={"learning_rate": EVIL},
        display_name=EVIL,
        experiment=EVIL,
        description=EVIL,
        tags={EVIL: EVIL},
        error={"code": EVIL, "message": EVIL, "step": EVIL},
        reuse={"from": EVIL, "why": EVIL},
        compute=EVIL,
    )
    put_run(workspace, "other")
    write_log(workspace, "evil", f"{EVIL}\n", pipeline=True)
    write_metrics(training_folder(workspace, steps), [{"step": 1, EVIL: 1.0}, {"step": 2, EVIL: 2}])
    write_result(workspace, steps, [sample(EVIL, EVIL, EVIL)])
    row = {"messages": [{"role": EVIL, "content": EVIL}, {"role": "user", "content": EVIL}]}
    put_data(workspace, "set", "rows.jsonl", json.dumps({**row, EVIL: EVIL}) + "\n" + EVIL + "\n")
    put_model(workspace, "model", "evil", base_model=EVIL, recipe=json.dumps({EVIL: EVIL}))
    found = assets.get(workspace, "model", "", "model", "1")
    assets.put(workspace, Asset(**{**vars(found), "description": EVIL, "tags": {EVIL: EVIL}}))
    log = "/studio/jobs/evil/log"
    return [
        *("/studio/", "/studio/jobs", "/studio/jobs/evil", "/studio/jobs/evil/state"),
        *("/studio/jobs/evil/result", "/studio/jobs/evil/details", log),
        f"{log}/search?file=logs/azureml/executionlogs.txt&q=script",
        *("/studio/compare?run=evil&run=other", "/studio/models/model", "/studio/data/set"),
        *("/studio/data/set/look", "/studio/models"),
    ]


class Elements(HTMLParser):
    """The elements that a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "script":
            self.scripts.append(dict(attrs).get("src") or "")


def test_hostile_texts_stay_texts(browser: TestClient, workspace: Workspace) -> None:
    for page in hostile(workspace):
        answer = browser.get(page)
        assert answer.status_code == 200, (page, answer.text)
        assert "alert(1)" in answer.text or page == "/studio/models", page
        assert "{{7*7}}" in answer.text or page.endswith(("/models", "/look")), page
        seen = Elements()
        seen.feed(answer.text)
        assert "img" not in seen.names, page
        assert all(source.startswith("/studio/static/") for source in seen.scripts), page
        assert not [name for name in seen.attributes if name.startswith("on")], page
    told = browser.get("/studio/jobs/evil/metrics")
    assert told.headers["content-type"] == "application/json"  # with nosniff: never a page


@pytest.mark.parametrize("name", [EVIL, "../../etc/passwd", "a/b", "%00", "a" * 3000])
def test_hostile_addresses_are_not_found(browser: TestClient, name: str) -> None:
    for place in ("jobs/{}", "jobs/{}/log", "jobs/{}/metrics", "models/{}", "data/{}", "{}"):
        answer = browser.get(f"/studio/{place.format(quote(name, safe=''))}")
        assert answer.status_code in (400, 404), (place, answer.text)
        assert "<script>alert" not in answer.text


def test_what_is_not_there_is_said_with_what_to_do(browser: TestClient) -> None:
    answer = browser.get("/studio/jobs/no-such-job")
    assert answer.status_code == 404
    assert "No job is called no-such-job. List the jobs" in answer.text
    assert 'href="/studio/jobs"' in answer.text
    part = browser.get("/studio/jobs/no-such-job/state", headers={"hx-request": "true"})
    assert part.headers["hx-retarget"] == "#messages"
    assert "<html" not in part.text
    assert browser.get("/studio/else").status_code == 404
    assert browser.get("/studio").headers["location"] == "/studio/"


def test_the_chosen_colours_stay_chosen(browser: TestClient) -> None:
    def choose(theme: str) -> int:
        found = re.search(r'name="token" value="([^"]+)"', browser.get("/studio/").text)
        assert found is not None
        form = {"token": found[1], "theme": theme, "page": "/studio/jobs"}
        return browser.post("/studio/theme", data=form, headers=ORIGIN).status_code

    assert 'data-theme="auto"' in browser.get("/studio/").text
    assert choose("light") == 303
    text = browser.get("/studio/jobs").text
    assert 'data-theme="light"' in text
    assert 'value="light" aria-pressed="true"' in text
    assert choose("red") == 400


def test_a_planted_message_is_not_shown(browser: TestClient, workspace: Workspace) -> None:
    name = f"finery-flash-{workspace.settings.port}"
    browser.cookies.set(name, "Call this number", path="/studio")
    assert "Call this number" not in browser.get("/studio/").text


def test_pages_name_their_parts_for_a_screen_reader(
    browser: TestClient, workspace: Workspace
) -> None:
    put_run(workspace, "one", "Running")
    write_log(workspace, "one", "x\n", pipeline=True)
    for page in ("", "jobs", "jobs/one", "jobs/one/log", "jobs/one/details", "compare", "models"):
        text = browser.get(f"/studio/{page}").text
        assert '<html lang="en"' in text
        assert 'class="skip" href="#main"' in text
        assert len(re.findall(r"<h1[ >]", text)) == 1
        assert 'aria-current="page"' in text
        inputs = re.findall(r"<(?:input|select)[^>]*>", text)
        for field in inputs:
            if 'type="hidden"' in field:
                continue
            marked = re.search(r'id="(\w+)"', field)
            has_label = "aria-label" in field or (marked and f'for="{marked[1]}"' in text)
            assert has_label or "data-stick" in field, field


def test_archived_jobs_are_left_out(browser: TestClient, workspace: Workspace) -> None:
    put_run(workspace, "one", archived=True)
    assert 'value="one"' not in browser.get("/studio/jobs").text
    with workspace.store.read() as connection:
        assert rows.read(connection, "one").archived


def test_long_metrics_of_a_list_are_not_read(browser: TestClient, workspace: Workspace) -> None:
    steps = put_run(workspace, "one")
    folder = training_folder(workspace, steps)
    write_metrics(folder, metric_rows(3))
    (folder / "metrics.jsonl").chmod(0)
    assert browser.get("/studio/").status_code == 200
    assert browser.get("/studio/jobs").status_code == 200
    assert browser.get("/studio/compare?run=one").status_code == 200
