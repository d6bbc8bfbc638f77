"""Logs are followed from a place in bytes, so that nothing is lost or said twice."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from studio_store import put_run, write_log

from finery.jobs.tables import jobs
from finery.studio import logs
from finery.workspace.place import Workspace

FILE = "logs/azureml/executionlogs.txt"


def events(text: str) -> list[dict[str, str]]:
    """Server-sent events as a browser reads them."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "event" in fields:
            found.append(fields)
    return found


def said(found: list[dict[str, str]]) -> str:
    return "".join(json.loads(one["data"]) for one in found if one["event"] == "text")


def test_the_log_of_an_ended_job_is_told_to_its_end(
    browser: TestClient, workspace: Workspace
) -> None:
    put_run(workspace, "run")
    text = "".join(f"line {n} é {'x' * 50}\n" for n in range(5000)) + "no line's end"
    write_log(workspace, "run", text, pipeline=True)
    answer = browser.get(f"/studio/jobs/run/log/follow?file={FILE}")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    found = events(answer.text)
    assert said(found) == text
    assert found[-1]["event"] == "end"
    assert found[-1]["id"] == str(len(text.encode()))


def test_a_stream_that_broke_off_goes_on_where_it_was(
    browser: TestClient, workspace: Workspace
) -> None:
    put_run(workspace, "run")
    text = "".join(f"line {n}\n" for n in range(20_000))
    write_log(workspace, "run", text, pipeline=True)
    address = f"/studio/jobs/run/log/follow?file={FILE}"
    first, *_ = events(browser.get(f"{address}&at=0").text)
    seen = json.loads(first["data"])
    assert 0 < len(seen) < len(text)
    for rest in (
        browser.get(f"{address}&at=0", headers={"last-event-id": first["id"]}),
        browser.get(f"{address}&at={first['id']}"),
    ):
        assert seen + said(events(rest.text)) == text


class Reader:
    """A browser that stays."""

    def __init__(self, service_ends: bool = False) -> None:
        state = SimpleNamespace(is_ending=lambda: service_ends)
        self.app = SimpleNamespace(state=state)

    async def is_disconnected(self) -> bool:
        return False


def end(workspace: Workspace, name: str) -> None:
    with workspace.store.write() as connection:
        change = sa.update(jobs).where(jobs.c.name == name).values(status="Completed")
        connection.execute(change)


def test_lines_come_as_they_are_written_and_the_end_after_the_last(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "PAUSE", 0)
    put_run(workspace, "run", "Running")
    write_log(workspace, "run", "one\ntw", pipeline=True)

    async def read() -> list[str]:
        news = functools.partial(logs._news, workspace, "run", FILE)  # pyright: ignore
        stream: AsyncIterator[str] = logs._events(Reader(), news, 0)  # pyright: ignore
        got = [await anext(stream), await anext(stream)]
        write_log(workspace, "run", "o\nthree\n", pipeline=True)
        got.append(await anext(stream))
        write_log(workspace, "run", "four", pipeline=True)  # without a line's end
        end(workspace, "run")
        return got + [piece async for piece in stream]

    found = events("".join(asyncio.run(read())))
    assert [json.loads(one["data"]) for one in found] == ["one\n", "two\nthree\n", "four", {}]
    assert [one["id"] for one in found] == ["4", "14", "18", "18"]


def test_a_service_that_ends_lets_its_readers_go(workspace: Workspace) -> None:
    put_run(workspace, "run", "Running")
    write_log(workspace, "run", "one\n", pipeline=True)

    async def read() -> list[str]:
        news = functools.partial(logs._news, workspace, "run", FILE)  # pyright: ignore
        stream: AsyncIterator[str] = logs._events(Reader(True), news, 0)  # pyright: ignore
        return [piece async for piece in stream]

    assert events("".join(asyncio.run(read()))) == []  # no `end`: they come back


def test_a_job_that_is_deleted_ends_its_stream(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert logs._news(workspace, "gone", FILE, 7) == ("", 7, True)


def test_a_line_longer_than_an_event_is_not_waited_for(
    browser: TestClient, workspace: Workspace
) -> None:
    put_run(workspace, "run")
    text = "x" * 200_000 + "\nend\n"
    write_log(workspace, "run", text, pipeline=True)
    assert said(events(browser.get(f"/studio/jobs/run/log/follow?file={FILE}").text)) == text


def test_the_page_shows_the_end_and_leads_back_to_the_beginning(
    browser: TestClient, workspace: Workspace
) -> None:
    put_run(workspace, "run")
    lines = [f"line {n:06d}\n" for n in range(20_000)]
    write_log(workspace, "run", "".join(lines), pipeline=True)
    page = browser.get("/studio/jobs/run/log").text
    assert "line 019999" in page
    assert "line 000000" not in page
    seen = []
    address = f"/studio/jobs/run/log?file={FILE}&before={len(''.join(lines))}"
    while address:
        page = browser.get(address).text
        seen = page.split("data-text>")[1].split("</pre>")[0].splitlines(keepends=True) + seen
        _, found, rest = page.partition("&amp;before=")
        before = rest.partition('"')[0]
        address = f"/studio/jobs/run/log?file={FILE}&before={before}" if found else ""
    assert seen == lines


def test_the_tabs_of_the_log_lead_to_the_run(browser: TestClient, workspace: Workspace) -> None:
    put_run(workspace, "run")
    write_log(workspace, "run", "x\n", pipeline=True)
    text = browser.get("/studio/jobs/run/log").text
    for place in ("", "/result", "/log", "/details"):
        assert f'href="/studio/jobs/run{place}"' in text


def test_search_names_each_line_and_where_it_is(browser: TestClient, workspace: Workspace) -> None:
    put_run(workspace, "run")
    write_log(workspace, "run", "a\nFound <b>it</b>\nb\nfound again\n", pipeline=True)
    text = browser.get(f"/studio/jobs/run/log/search?file={FILE}&q=FOUND").text
    assert "2 lines with" in text
    assert "Found &lt;b&gt;it&lt;/b&gt;" in text
    assert "before=18" in text
    assert "0 lines with" in browser.get(f"/studio/jobs/run/log/search?file={FILE}&q=zz").text
    assert browser.get(f"/studio/jobs/run/log/search?file={FILE}&q=").text.strip() == ""


def test_many_findings_are_counted_and_some_shown(
    browser: TestClient, workspace: Workspace
) -> None:
    put_run(workspace, "run")
    write_log(workspace, "run", "hit\n" * 5000, pipeline=True)
    text = browser.get(f"/studio/jobs/run/log/search?file={FILE}&q=hit").text
    assert "5,000 lines" in text
    assert text.count("<li>") == logs.MOST_FOUND


def test_a_log_is_downloaded_as_a_file_and_never_shown(
    browser: TestClient, workspace: Workspace
) -> None:
    put_run(workspace, "run")
    write_log(workspace, "run", "<script>alert(1)</script>\n", pipeline=True)
    answer = browser.get(f"/studio/jobs/run/log/download?file={FILE}")
    assert answer.text == "<script>alert(1)</script>\n"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    disposition = answer.headers["content-disposition"]
    assert disposition == 'attachment; filename="run-logs-azureml-executionlogs.txt"'


@pytest.mark.parametrize(
    "file", ["../../../secrets/signing.key", "/etc/passwd", "user_logs/none.txt", "%2e%2e/x", ""]
)
def test_only_logs_of_the_job_are_read(
    browser: TestClient, workspace: Workspace, file: str
) -> None:
    put_run(workspace, "run")
    write_log(workspace, "run", "x\n", pipeline=True)
    for place in ("follow", "search", "download"):
        answer = browser.get(f"/studio/jobs/run/log/{place}", params={"file": file})
        assert answer.status_code == 404, place
    if file:
        assert browser.get("/studio/jobs/run/log", params={"file": file}).status_code == 404


@pytest.mark.parametrize("at", ["x", "-1", "1e3", "9" * 40, "²"])
def test_a_place_that_is_none_is_refused(
    browser: TestClient, workspace: Workspace, at: str
) -> None:
    put_run(workspace, "run")
    write_log(workspace, "run", "x\n", pipeline=True)
    follow = browser.get("/studio/jobs/run/log/follow", params={"file": FILE, "at": at})
    page = browser.get("/studio/jobs/run/log", params={"file": FILE, "before": at})
    assert (follow.status_code, page.status_code) == (400, 400)


def test_a_job_that_has_said_nothing_has_a_page(browser: TestClient, workspace: Workspace) -> None:
    put_run(workspace, "run", "Queued")
    assert "There is no log yet" in browser.get("/studio/jobs/run/log").text
