"""Logs of deployments: one a replica, from a place in it, and nobody else's."""

from __future__ import annotations

import pytest
from endpoint_store import put_deployment, put_endpoint, write_replica_log
from fastapi.testclient import TestClient

from finery.endpoints import tables
from finery.studio import endpoints_logs, logs
from finery.workspace.place import Workspace

LOG = "/studio/endpoints/talk/deployments/blue/log"
EVIL = "<script>alert(1)</script>"


def test_the_newest_replicas_log_is_shown_escaped(
    browser: TestClient, workspace: Workspace
) -> None:
    put_endpoint(workspace)
    assert "There is no log yet" in browser.get(LOG).text
    replica = write_replica_log(workspace, "talk", "blue", f"loading\n{EVIL}\n")
    page = browser.get(LOG).text
    assert "loading" in page and EVIL not in page
    assert f"{LOG}/follow?file={replica}" in page
    assert browser.get(f"{LOG}/download", params={"file": replica}).text == f"loading\n{EVIL}\n"


def test_an_adapters_log_is_that_of_the_process_that_answers_for_it(
    browser: TestClient, workspace: Workspace
) -> None:
    put_endpoint(workspace)
    put_deployment(workspace, "talk", "guest", ready=0)
    row = {"id": "guest", "endpoint": "talk", "deployment": "guest", "revision": 1, "port": 1}
    row |= {"state": "ready", "key": "k", "report": {}, "host": "blue-0-0123456789"}
    with workspace.store.write() as connection:
        made = tables.replicas.c.created_at
        now = connection.execute(tables.replicas.select()).first()
        assert now is not None
        row |= {"adapter": "a", made.name: now.created_at}
        connection.execute(tables.replicas.insert().values(row))
    write_replica_log(workspace, "talk", "blue", "the base speaks\n")
    page = browser.get(LOG.replace("blue", "guest")).text
    assert "the base speaks" in page and "The process of blue answers for guest" in page
    assert "the process of blue" in browser.get("/studio/endpoints/talk").text


def test_a_log_is_followed_until_its_replica_is_gone(workspace: Workspace) -> None:
    put_endpoint(workspace)
    replica = write_replica_log(workspace, "talk", "blue", "one\n")

    def news(place: int) -> tuple[str, int, bool]:
        return endpoints_logs._news(workspace, "talk", "blue", replica, place)  # pyright: ignore

    assert news(0) == ("one\n", 4, False)
    write_replica_log(workspace, "talk", "blue", "two\n")
    assert news(4) == ("two\n", 8, False)
    with workspace.store.write() as connection:
        rows = tables.replicas
        connection.execute(rows.delete().where(rows.c.id == replica))
    assert news(8) == ("", 8, True)
    assert endpoints_logs._news(workspace, "gone", "blue", replica, 8) == ("", 8, True)  # pyright: ignore


def test_the_stream_is_of_server_sent_events(
    browser: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "PAUSE", 0)
    put_endpoint(workspace)
    replica = write_replica_log(workspace, "talk", "blue", "one\n")
    with workspace.store.write() as connection:
        connection.execute(tables.replicas.delete())
    answer = browser.get(f"{LOG}/follow", params={"file": replica, "at": "0"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert 'event: text\ndata: "one\\n"' in answer.text and "event: end" in answer.text


@pytest.mark.parametrize("file", ["nobody", "../green/green-0-0123456789", "..", "/etc/passwd"])
@pytest.mark.parametrize("what", ["", "/follow", "/download"])
def test_no_other_file_is_read(
    browser: TestClient, workspace: Workspace, file: str, what: str
) -> None:
    put_endpoint(workspace)
    write_replica_log(workspace, "talk", "blue", "blue's\n")
    write_replica_log(workspace, "talk", "green", "green's\n")
    assert browser.get(f"{LOG}{what}", params={"file": file}).status_code == 404


def test_earlier_lines_are_a_link_away(browser: TestClient, workspace: Workspace) -> None:
    put_endpoint(workspace)
    replica = write_replica_log(
        workspace, "talk", "blue", "a line of thirty-two characters\n" * 4000
    )
    page = browser.get(LOG).text
    assert "Earlier lines" in page and f"file={replica}&amp;before=" in page
    assert browser.get(LOG, params={"file": replica, "before": "x"}).status_code == 400
    earlier = browser.get(LOG, params={"file": replica, "before": "3200"}).text
    assert "To the end" not in earlier and 'data-log=""' in earlier
