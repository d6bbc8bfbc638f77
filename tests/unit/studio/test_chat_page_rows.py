"""A conversation that is saved: a new version of a data asset, whole or not at all."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from endpoint_store import put_endpoint
from fastapi.testclient import TestClient
from studio_store import put_data

from finery.chat.conversation import read_conversations
from finery.studio import chat_rows
from finery.studio.models import folder_of
from finery.workspace import assets
from finery.workspace.errors import ConflictError
from finery.workspace.place import Workspace

HTMX = {"origin": "http://127.0.0.1", "hx-request": "true"}
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Grüße <b>"},
    {"role": "assistant", "content": "Hallo.\n"},
]


def save(browser: TestClient, name: str, messages: Any = TALK) -> Any:
    page = browser.get("/studio/chat").text
    token = re.search(r'"x-finery-token": "([^"]+)"', page)
    assert token
    data = {"token": token[1], "data": name, "messages": json.dumps(messages)}
    return browser.post("/studio/chat/save", data=data, headers=HTMX)


def path_of(workspace: Workspace, name: str, version: str = "latest") -> Path:
    return folder_of(workspace, assets.get(workspace, "data", "", name, version))


def files(workspace: Workspace) -> list[Path]:
    return [path for path in workspace.blobs.rglob("*") if path.is_file()]


def test_a_conversation_becomes_the_first_row_of_a_new_asset(
    browser: TestClient, workspace: Workspace
) -> None:
    answer = save(browser, "talks")
    assert answer.status_code == 200 and "talks:1</a>, 1 row." in answer.text
    (row,) = read_conversations(path_of(workspace, "talks"))
    assert list(row.messages) == TALK
    assert "Grüße &lt;b&gt;" in browser.get("/studio/data/talks").text


def test_every_row_that_was_there_stays_as_it_was(
    browser: TestClient, workspace: Workspace
) -> None:
    old = '{"messages": [], "x":  1}\n\nnot even JSON'
    put_data(workspace, "talks", "mine.jsonl", old)
    answer = save(browser, "talks")
    assert "talks:2</a>, 3 rows." in answer.text
    text = path_of(workspace, "talks").read_text(encoding="utf-8")
    assert text.startswith(f"{old}\n") and json.loads(text.splitlines()[-1]) == {"messages": TALK}
    assert path_of(workspace, "talks", "1").read_text(encoding="utf-8") == old


def test_saves_at_the_same_time_lose_nothing(workspace: Workspace) -> None:
    rows = [{"messages": TALK, "n": n} for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda row: chat_rows.add_row(workspace, "talks", row), rows))
    text = path_of(workspace, "talks").read_text(encoding="utf-8")
    assert sorted(json.loads(line)["n"] for line in text.splitlines()) == [0, 1, 2, 3]
    assert len(assets.versions(workspace, "data", "", "talks")) == 4
    assert len(files(workspace)) == 4  # what lost a race is taken away


def test_a_crash_before_the_version_is_registered_leaves_the_old_one(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat_rows.add_row(workspace, "talks", {"messages": TALK})

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(assets, "put", crash)
        chat_rows.add_row(workspace, "talks", {"messages": TALK})
    assert len(read_conversations(path_of(workspace, "talks"))) == 1
    made, rows = chat_rows.add_row(workspace, "talks", {"messages": TALK})
    assert (made.version, rows) == ("2", 2)


def test_a_name_that_is_always_taken_is_given_up(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(*_: object) -> None:
        raise ConflictError("taken")

    monkeypatch.setattr(assets, "put", taken)
    with pytest.raises(ConflictError, match="Others save"):
        chat_rows.add_row(workspace, "talks", {})
    assert files(workspace) == []


@pytest.mark.parametrize("file", ["rows.csv", "rows.parquet", "rows.json"])
def test_a_file_of_another_kind_is_not_added_to(
    browser: TestClient, workspace: Workspace, file: str
) -> None:
    put_data(workspace, "talks", file, "a,b\n")
    answer = save(browser, "talks")
    assert answer.status_code == 409 and "not a .jsonl file" in answer.text
    assert "hx-retarget" not in answer.headers  # it is said in the dialog
    assert len(assets.versions(workspace, "data", "", "talks")) == 1


def test_a_file_too_large_to_copy_is_not_added_to(
    browser: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_rows, "LARGEST", 10)
    put_data(workspace, "talks", "rows.jsonl", '{"messages": []}\n')
    assert "is larger than" in save(browser, "talks").text


@pytest.mark.parametrize(
    "messages",
    [
        [],
        TALK[:2],
        [{"role": "user", "content": "x"}, {"role": "robot", "content": "y"}],
        [*TALK, TALK[0]],
    ],
)
def test_what_is_no_conversation_is_not_saved(
    browser: TestClient, workspace: Workspace, messages: Any
) -> None:
    assert save(browser, "talks", messages).status_code == 400
    assert files(workspace) == []


def test_a_long_conversation_is_saved_and_an_endless_one_refused(
    browser: TestClient, workspace: Workspace
) -> None:
    long = [TALK[0], TALK[1], {"role": "assistant", "content": "word " * 20_000}]
    assert save(browser, "talks", long).status_code == 200
    long[2]["content"] *= 3
    refused = save(browser, "talks", long)
    assert refused.status_code == 400 and "at most 262144 bytes" in refused.text
    assert len(files(workspace)) == 1


@pytest.mark.parametrize("name", ["", "a b", "../x", "x" * 300, "<script>"])
def test_a_name_is_one_that_assets_may_have(
    browser: TestClient, workspace: Workspace, name: str
) -> None:
    answer = save(browser, name)
    assert answer.status_code == 400 and "<script>" not in answer.text
    assert files(workspace) == []


def test_names_that_rows_may_be_added_to_are_offered(
    browser: TestClient, workspace: Workspace
) -> None:
    put_endpoint(workspace)
    save(browser, "talks")
    assert '<option value="talks">' in browser.get("/studio/chat").text
