"""Files of the fine-tuning form: taken in small pieces, kept once, refused with a reason."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from fastapi.testclient import TestClient
from fine_tune_store import ORIGIN, ROW, filled, send, token_of
from starlette.requests import ClientDisconnect

from finery.errors import InputError
from finery.studio import fine_tune_upload as upload
from finery.studio.multipart import MOST_PARTS, End, Multipart, Part
from finery.workspace import assets
from finery.workspace.place import BLOB_CONTAINER, Workspace

KIND = "multipart/form-data; boundary=--x"
BODY = (
    b'----x\r\nContent-Disposition: form-data; name="token"\r\n\r\nT\r\n'
    b'----x\r\nContent-Disposition: form-data; name="f"; filename="a%22b.jsonl"\r\n'
    b"Content-Type: text/plain\r\n\r\none\r\n----y\r\n\r\n\r\n--\r\n"
    b'----x\r\nContent-Disposition: form-data; name="empty"\r\n\r\n\r\n'
    b"----x--\r\n"
)
ROWS = f"{ROW}\n".encode() * 3


def parsed(body: bytes, size: int, kind: str = KIND) -> list[tuple[str, str | None, bytes]]:
    """The parts of a body that comes in pieces of `size` bytes."""
    form, found = Multipart(kind), []
    for at in range(0, len(body), size):
        for event in form.feed(body[at : at + size]):
            if isinstance(event, Part):
                found.append([event.name, event.file, b""])
            elif not isinstance(event, End):
                found[-1][2] += event
    assert form.is_over
    return [(name, file, data) for name, file, data in found]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 1000])
def test_a_form_is_the_same_in_whatever_pieces_it_comes(size: int) -> None:
    assert parsed(BODY, size) == [
        ("token", None, b"T"),
        ("f", 'a"b.jsonl', b"one\r\n----y\r\n\r\n\r\n--"),  # no boundary, though nearly one
        ("empty", None, b""),
    ]


def test_little_of_a_file_is_held_while_it_comes() -> None:
    form = Multipart(KIND)
    list(form.feed(b'----x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n'))
    for _ in range(50):
        list(form.feed(b"y" * 10_000))
        assert len(form._rest) < 20


@pytest.mark.parametrize(
    "body",
    [
        b"nothing of the kind, and longer than a boundary",
        b"----x\r\nContent-Type: text/plain\r\n\r\n",
        b"----x\r\n" + b"a" * 9000,
        b'----x\r\nContent-Disposition: form-data; name="f"\r\n\r\n' * 3
        + b"\r\n----x\rbroken" * 900,
    ],
)
def test_what_is_no_form_is_refused(body: bytes) -> None:
    form = Multipart(KIND)
    with pytest.raises(InputError):
        list(form.feed(body))


def test_a_form_of_too_many_parts_is_refused() -> None:
    part = b'----x\r\nContent-Disposition: form-data; name="f"\r\n\r\n\r\n'
    with pytest.raises(InputError, match="more than"):
        list(Multipart(KIND).feed(part * (MOST_PARTS + 1)))
    with pytest.raises(InputError, match="boundary"):
        Multipart("multipart/form-data")


def uploaded(browser: TestClient, name: str, content: bytes = ROWS, **form: str) -> Any:
    return send(browser, filled(do="upload", train="", **form), train_upload=(name, content))


def versions(workspace: Workspace, name: str) -> list[str]:
    return [one.version for one in assets.versions(workspace, "data", "", name)]


def test_a_file_becomes_a_data_asset_that_the_form_has_chosen(
    browser: TestClient, workspace: Workspace
) -> None:
    answer = uploaded(browser, "My chats.JSONL", lora_r="77")
    assert answer.status_code == 200
    assert '<option value="azureml://data/My-chats/versions/1" selected>My-chats:1' in answer.text
    assert 'value="77"' in answer.text  # what was typed is still there
    (asset,) = assets.versions(workspace, "data", "", "My-chats")
    path = workspace.blobs / BLOB_CONTAINER / asset.path.partition("/paths/")[2]
    assert path.name == "My-chats.jsonl"
    assert path.read_bytes() == ROWS
    assert list((workspace.folder / "uploads").iterdir()) == []


def test_the_same_content_is_kept_once_and_other_content_is_the_next_version(
    browser: TestClient, workspace: Workspace
) -> None:
    for content in (ROWS, ROWS, ROWS * 2):
        assert uploaded(browser, "chats.jsonl", content).status_code == 200
    assert versions(workspace, "chats") == ["2", "1"]


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("../../etc/passwd.jsonl", "passwd"),
        ("C:\\Users\\me\\chats.jsonl", "chats"),
        ("<script>alert(1)</script>.jsonl", "script"),
        ("....jsonl", "conversations"),
        ("né ☃.jsonl", "n"),
        (f"{'a' * 300}.jsonl", "a" * 100),
    ],
)
def test_a_hostile_name_stays_a_name(
    browser: TestClient, workspace: Workspace, said: str, name: str
) -> None:
    answer = uploaded(browser, said)
    assert answer.status_code == 200
    assert "<script>alert" not in answer.text
    found = [one.name for one in assets.names(workspace, "data", "")]
    assert len(found) == 1
    assert found[0].startswith(name)
    inside = [path for path in workspace.blobs.rglob("*.jsonl") if path.is_file()]
    assert len(inside) == 1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("picture.png", ROWS, "picture.png is no file of conversations"),
        ("chats.jsonl", b"", "chats.jsonl is empty"),
        ("chats.jsonl", b"x" * 5000, "is larger than"),
        ("noend", ROWS, "expected .jsonl"),
    ],
)
def test_a_file_that_is_not_taken_is_said_at_its_field_and_nothing_else_is_lost(
    browser: TestClient,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: bytes,
    words: str,
) -> None:
    monkeypatch.setattr(upload, "LARGEST", 4000)
    answer = uploaded(browser, name, content, seed="4711")
    assert answer.status_code == 200
    assert words in answer.text
    assert 'id="f-train-fault"' in answer.text
    assert 'value="4711"' in answer.text
    assert assets.names(workspace, "data", "") == []
    assert not [path for path in workspace.blobs.rglob("*") if path.is_file()]
    assert list((workspace.folder / "uploads").iterdir()) == []


def test_a_file_without_end_is_not_read_to_its_end(
    browser: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "LARGEST", 1000)
    answer = uploaded(browser, "chats.jsonl", b"x" * 5000)
    assert (answer.status_code, "a file too large" in answer.text) == (400, True)


def test_a_full_disk_takes_nothing(
    browser: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "SPARE", 10**18)
    assert "The disk has no room" in uploaded(browser, "chats.jsonl").text
    assert assets.names(workspace, "data", "") == []


@pytest.mark.parametrize("given", ["", "x"])
def test_without_the_token_not_a_byte_is_kept(
    browser: TestClient, workspace: Workspace, given: str
) -> None:
    parts = [("token", (None, given)), ("do", (None, "upload"))]
    file = ("train_upload", ("chats.jsonl", ROWS))
    for order in ([*parts, file], [file, *parts], parts):
        answer = browser.post("/studio/fine-tune", files=order, headers=ORIGIN)
        assert answer.status_code == 403
    assert assets.names(workspace, "data", "") == []
    assert not list(workspace.folder.rglob("*.jsonl"))
    late = [file, ("token", (None, token_of(browser)))]  # whoever may sends it first
    assert browser.post("/studio/fine-tune", files=late, headers=ORIGIN).status_code == 403


def test_another_page_can_upload_nothing(browser: TestClient, workspace: Workspace) -> None:
    parts = [("token", (None, token_of(browser))), ("train_upload", ("c.jsonl", ROWS))]
    for headers in ({}, {"origin": "http://evil.example"}):
        answer = browser.post("/studio/fine-tune", files=parts, headers=headers)
        assert answer.status_code == 403
    assert assets.names(workspace, "data", "") == []


def test_fields_are_small_and_files_are_conversations(browser: TestClient) -> None:
    large = send(browser, filled(name="x" * 70_000))
    assert (large.status_code, "65536 bytes beside" in large.text) == (400, True)
    other = send(browser, filled(), seed=("chats.jsonl", ROWS))
    assert other.status_code == 400


def test_a_form_that_breaks_off_is_refused(browser: TestClient, workspace: Workspace) -> None:
    token = token_of(browser)
    body = BODY.replace(b"\r\n\r\nT", f"\r\n\r\n{token}".encode()).replace(
        b'name="f"', b'name="train_upload"'
    )
    headers = {**ORIGIN, "content-type": KIND}
    answer = browser.post("/studio/fine-tune", content=body[:-20], headers=headers)
    assert (answer.status_code, "breaks off" in answer.text) == (400, True)
    assert list((workspace.folder / "uploads").iterdir()) == []


def test_only_the_form_with_files_may_bring_files(browser: TestClient) -> None:
    parts = [("token", (None, token_of(browser))), ("theme", (None, "dark"))]
    answer = browser.post("/studio/theme", files=parts, headers=ORIGIN)
    assert answer.status_code == 400


def test_a_browser_that_goes_away_leaves_nothing(browser: TestClient, workspace: Workspace) -> None:
    body = BODY.replace(b"\r\n\r\nT", f"\r\n\r\n{token_of(browser)}".encode())
    body = body.replace(b'name="f"', b'name="train_upload"')
    body = body[: body.index(b"one") + 3]

    async def stream() -> Any:
        yield body
        raise ClientDisconnect

    request: Any = SimpleNamespace(
        headers={"content-type": KIND},
        cookies=dict(browser.cookies),
        stream=stream,
    )
    with pytest.raises(InputError, match="breaks off"):
        anyio.run(upload.receive, request, workspace)
    assert list((workspace.folder / "uploads").iterdir()) == []
    assert assets.names(workspace, "data", "") == []
