"""The blob endpoint: what a storage client sends, and what it must get back."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fastapi.testclient import TestClient

from finery.workspace import identity
from finery.workspace.place import BLOB_CONTAINER, Workspace

ROOT = f"/_blob.blob.local/{BLOB_CONTAINER}"
BLOCK = {"x-ms-blob-type": "BlockBlob"}


def put(doors: TestClient, name: str, content: bytes, **headers: str) -> None:
    answer = doors.put(f"{ROOT}/{name}", content=content, headers={**BLOCK, **headers})
    assert answer.status_code == 201, answer.text


def xml(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)  # noqa: S314 - of our own server


def names(text: str) -> list[str]:
    return [found.text or "" for found in xml(text).iter("Name")]


def code_of(text: str) -> str:
    return xml(text).findtext("Code", "")


def test_a_blob_is_a_plain_file(doors: TestClient, workspace: Workspace) -> None:
    put(doors, "a/b c/ü.txt", b"hello")
    assert (workspace.blobs / BLOB_CONTAINER / "a" / "b c" / "ü.txt").read_bytes() == b"hello"
    answer = doors.get(f"{ROOT}/a/b%20c/%C3%BC.txt")
    assert answer.content == b"hello"
    digest = base64.b64encode(hashlib.md5(b"hello", usedforsecurity=False).digest()).decode()
    assert answer.headers["content-md5"] == digest
    assert answer.headers["x-ms-blob-type"] == "BlockBlob"
    assert answer.headers["content-type"].startswith("text/plain")


def test_nothing_is_left_of_an_upload_but_the_blob(doors: TestClient, workspace: Workspace) -> None:
    put(doors, "a", b"1")
    doors.put(f"{ROOT}/b", content=b"2", headers={**BLOCK, "Content-MD5": "wrong"})
    assert [p for p in (workspace.folder / "uploads").rglob("*") if p.is_file()] == []
    assert [p.name for p in (workspace.blobs / BLOB_CONTAINER).iterdir()] == ["a"]


def test_bytes_that_changed_on_the_way_are_refused(doors: TestClient) -> None:
    digest = base64.b64encode(hashlib.md5(b"x", usedforsecurity=False).digest()).decode()
    headers = {**BLOCK, "Content-MD5": digest}
    answer = doors.put(f"{ROOT}/a", content=b"y", headers=headers)
    assert (answer.status_code, code_of(answer.text)) == (400, "Md5Mismatch")
    assert doors.head(f"{ROOT}/a").status_code == 404


def test_blocks_become_a_blob_in_the_order_of_their_list(doors: TestClient) -> None:
    for block, part in (("Yg==", b"two"), ("YQ==", b"one"), ("Yw==", b"never listed")):
        answer = doors.put(f"{ROOT}/big", params={"comp": "block", "blockid": block}, content=part)
        assert answer.status_code == 201
    assert doors.head(f"{ROOT}/big").status_code == 404
    body = "<BlockList><Latest>YQ==</Latest><Latest>Yg==</Latest></BlockList>"
    answer = doors.put(
        f"{ROOT}/big",
        params={"comp": "blocklist"},
        content=body,
        headers={"x-ms-meta-who": "me", "x-ms-blob-content-type": "text/x-big"},
    )
    assert answer.status_code == 201
    read = doors.get(f"{ROOT}/big")
    assert read.content == b"onetwo"
    assert read.headers["x-ms-meta-who"] == "me"
    assert read.headers["content-type"].startswith("text/x-big")


def test_a_block_list_with_an_unknown_block_makes_nothing(doors: TestClient) -> None:
    doors.put(f"{ROOT}/big", params={"comp": "block", "blockid": "YQ=="}, content=b"1")
    body = "<BlockList><Latest>YQ==</Latest><Latest>Zg==</Latest></BlockList>"
    answer = doors.put(f"{ROOT}/big", params={"comp": "blocklist"}, content=body)
    assert (answer.status_code, code_of(answer.text)) == (400, "InvalidBlockList")
    assert doors.head(f"{ROOT}/big").status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        "no xml",
        "<Other/>",
        "<BlockList><Committed>YQ==</Committed></BlockList>",
        '<!DOCTYPE a [<!ENTITY b "c">]><BlockList><Latest>&b;</Latest></BlockList>',
    ],
)
def test_a_malformed_block_list_is_the_callers_fault(doors: TestClient, body: str) -> None:
    answer = doors.put(f"{ROOT}/big", params={"comp": "blocklist"}, content=body)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("asked", "content", "span"),
    [
        ("bytes=0-3", b"0123", "bytes 0-3/10"),
        ("bytes=8-99", b"89", "bytes 8-9/10"),
        ("bytes=5-", b"56789", "bytes 5-9/10"),
    ],
)
@pytest.mark.parametrize("header", ["Range", "x-ms-range"])
def test_a_range_is_a_part(
    doors: TestClient, asked: str, content: bytes, span: str, header: str
) -> None:
    put(doors, "ten", b"0123456789")
    answer = doors.get(f"{ROOT}/ten", headers={header: asked})
    assert (answer.status_code, answer.content) == (206, content)
    assert answer.headers["content-range"] == span


@pytest.mark.parametrize("asked", ["bytes=10-12", "bytes=3-1", "lines=1-2"])
def test_a_range_outside_the_blob_is_refused(doors: TestClient, asked: str) -> None:
    put(doors, "ten", b"0123456789")
    assert doors.get(f"{ROOT}/ten", headers={"Range": asked}).status_code == 416


def test_metadata_come_back_and_change_the_etag(doors: TestClient) -> None:
    put(doors, "a", b"1")
    before = doors.head(f"{ROOT}/a").headers["etag"]
    headers = {"x-ms-meta-upload_status": "completed", "x-ms-meta-name": "n"}
    answer = doors.put(f"{ROOT}/a", params={"comp": "metadata"}, headers=headers)
    assert answer.status_code == 200
    head = doors.head(f"{ROOT}/a")
    assert head.headers["x-ms-meta-upload_status"] == "completed"
    assert head.headers["content-length"] == "1"
    assert head.headers["etag"] == answer.headers["etag"] != before


def test_metadata_end_with_the_content_they_were_said_of(
    doors: TestClient, workspace: Workspace
) -> None:
    put(doors, "a", b"1", **{"x-ms-meta-upload_status": "completed"})
    put(doors, "b", b"1", **{"x-ms-meta-upload_status": "completed"})
    (workspace.blobs / BLOB_CONTAINER / "a").write_bytes(b"a step wrote this")
    put(doors, "b", b"2")
    assert "x-ms-meta-upload_status" not in doors.head(f"{ROOT}/a").headers
    assert "x-ms-meta-upload_status" not in doors.head(f"{ROOT}/b").headers


def test_conditions_guard_a_blob(doors: TestClient) -> None:
    put(doors, "a", b"1")
    tag = doors.head(f"{ROOT}/a").headers["etag"]
    again = doors.put(f"{ROOT}/a", content=b"2", headers={**BLOCK, "If-None-Match": "*"})
    assert (again.status_code, again.headers["x-ms-error-code"]) == (409, "BlobAlreadyExists")
    other = doors.put(f"{ROOT}/a", content=b"2", headers={**BLOCK, "If-Match": '"other"'})
    assert (other.status_code, other.headers["x-ms-error-code"]) == (412, "ConditionNotMet")
    assert doors.get(f"{ROOT}/a", headers={"If-Match": tag}).content == b"1"
    same = doors.get(f"{ROOT}/a", headers={"If-None-Match": tag})
    assert (same.status_code, same.content) == (304, b"")
    put(doors, "a", b"3", **{"If-Match": tag})
    late = doors.get(f"{ROOT}/a", headers={"If-Match": tag})
    assert late.status_code == 412
    ago = "Sun, 06 Nov 1994 08:49:37 GMT"
    assert doors.get(f"{ROOT}/a", headers={"If-Unmodified-Since": ago}).status_code == 412
    assert doors.get(f"{ROOT}/a", headers={"If-Modified-Since": "soon"}).status_code == 400


def test_a_listing_has_names_in_order_and_goes_on_where_it_stopped(doors: TestClient) -> None:
    every = ["a-b", "a/b", "a/c/d", "a0", "b/<&>\"'", "z"]
    for name in reversed(every):
        put(doors, name, name.encode())
    asked = {"restype": "container", "comp": "list"}
    listed, marker = [], ""
    for _ in range(10):
        page = doors.get(ROOT, params={**asked, "maxresults": "2", "marker": marker})
        listed += names(page.text)
        marker = xml(page.text).findtext("NextMarker") or ""
        if not marker:
            break
    assert listed == sorted(every)


def test_a_listing_stops_at_the_delimiter(doors: TestClient) -> None:
    for name in ("x/a", "x/b/c", "x/b/d", "x/e/f", "xx", "y"):
        put(doors, name, b"1")
    asked = {"restype": "container", "comp": "list", "delimiter": "/"}
    assert names(doors.get(ROOT, params=asked).text) == ["xx", "y", "x/"]
    inside = doors.get(ROOT, params={**asked, "prefix": "x/"})
    assert names(inside.text) == ["x/a", "x/b/", "x/e/"]
    first = doors.get(ROOT, params={**asked, "prefix": "x/", "maxresults": "2"})
    assert names(first.text) == ["x/a", "x/b/"]
    marker = xml(first.text).findtext("NextMarker") or ""
    rest = doors.get(ROOT, params={**asked, "prefix": "x/", "marker": marker})
    assert names(rest.text) == ["x/e/"]


def test_a_prefix_is_any_beginning_of_a_name(doors: TestClient) -> None:
    for name in ("LocalUpload/abc/1", "LocalUpload/abd/2", "Local/3"):
        put(doors, name, b"1")
    asked = {"restype": "container", "comp": "list"}
    for prefix, found in (
        ("LocalUpload/ab", ["LocalUpload/abc/1", "LocalUpload/abd/2"]),
        ("LocalUpload/abc/", ["LocalUpload/abc/1"]),
        ("Local", ["Local/3", "LocalUpload/abc/1", "LocalUpload/abd/2"]),
        ("nowhere/x", []),
    ):
        assert names(doors.get(ROOT, params={**asked, "prefix": prefix}).text) == found


def test_metadata_are_listed_when_asked_for(doors: TestClient) -> None:
    put(doors, "a", b"1", **{"x-ms-meta-hdi_isfolder": "true"})
    asked = {"restype": "container", "comp": "list"}
    plain = xml(doors.get(ROOT, params=asked).text)
    assert plain.find(".//Metadata") is None
    told = xml(doors.get(ROOT, params={**asked, "include": "metadata"}).text)
    assert told.findtext(".//Metadata/hdi_isfolder") == "true"


def test_a_blob_can_be_deleted_with_the_folders_it_alone_filled(
    doors: TestClient, workspace: Workspace
) -> None:
    put(doors, "a/b/c", b"1")
    put(doors, "a/d", b"1")
    assert doors.delete(f"{ROOT}/a/b/c").status_code == 202
    assert doors.delete(f"{ROOT}/a/b/c").status_code == 404
    assert [p.name for p in (workspace.blobs / BLOB_CONTAINER / "a").iterdir()] == ["d"]


def test_a_name_cannot_be_a_blob_and_a_folder(doors: TestClient) -> None:
    put(doors, "a", b"1")
    below = doors.put(f"{ROOT}/a/b", content=b"2", headers=BLOCK)
    put(doors, "c/d", b"1")
    above = doors.put(f"{ROOT}/c", content=b"2", headers=BLOCK)
    assert (below.status_code, above.status_code) == (409, 409)
    assert doors.get(f"{ROOT}/a").content == b"1"


def test_a_file_is_not_a_folder_of_its_name(doors: TestClient) -> None:
    put(doors, "model/weights.bin", b"1")
    assert doors.head(f"{ROOT}/model/weights.bin/").status_code == 404
    assert doors.head(f"{ROOT}/model/").status_code == 404
    assert doors.put(f"{ROOT}/model/", content=b"1", headers=BLOCK).status_code == 400


def test_containers_are_made_and_found(doors: TestClient) -> None:
    asked = {"restype": "container"}
    missing = doors.get("/_blob.blob.local/mine", params=asked)
    assert (missing.status_code, code_of(missing.text)) == (404, "ContainerNotFound")
    assert doors.put("/_blob.blob.local/mine", params=asked).status_code == 201
    again = doors.put("/_blob.blob.local/mine", params=asked)
    assert (again.status_code, code_of(again.text)) == (409, "ContainerAlreadyExists")
    assert doors.get("/_blob.blob.local/mine", params=asked).status_code == 200
    nowhere = doors.put("/_blob.blob.local/nowhere/a", content=b"1", headers=BLOCK)
    assert (nowhere.status_code, code_of(nowhere.text)) == (404, "ContainerNotFound")


ESCAPES = [
    "..%2F..%2Fsecrets%2Fsigning.key",
    "%2e%2e/%2e%2e/secrets/signing.key",
    "a/%2e%2e/%2e%2e/%2e%2e/secrets/signing.key",
    "a%2F..%2F..%2Fother",
    "%2Fetc%2Fpasswd",
    "..%5C..%5Csecrets",
    "a%00b",
    "a%0Ab",
    ".tmp-x",
    "a/.tmp-x/b",
    "x" * 300,
    "%2e%2e",
    "a/%2e%2e",
]


@pytest.mark.parametrize("name", ESCAPES)
def test_no_name_leads_out_of_its_container(
    doors: TestClient, workspace: Workspace, name: str
) -> None:
    identity.sign_query(workspace, "x")  # makes the key that must not be reached
    key = workspace.secrets / "signing.key"
    before = key.read_bytes()
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        answer = doors.request(method, f"{ROOT}/{name}", content=b"mine", headers=BLOCK)
        assert answer.status_code == (404 if name == "a%0Ab" else 400)
        assert before not in answer.content
    assert key.read_bytes() == before


@pytest.mark.parametrize("container", ["..", "%2e%2e", "A", "a", "a--b", "a_b", "-ab", "x" * 64])
def test_no_container_is_anything_but_a_container(doors: TestClient, container: str) -> None:
    for asked in ({"restype": "container"}, {"restype": "container", "comp": "list"}):
        answer = doors.get(f"/_blob.blob.local/{container}", params=asked)
        assert answer.status_code in (400, 404)
    answer = doors.put(f"/_blob.blob.local/{container}", params={"restype": "container"})
    assert answer.status_code in (400, 404)


def test_a_link_out_of_a_container_is_no_blob(
    doors: TestClient, workspace: Workspace, tmp_path: Path
) -> None:
    put(doors, "a", b"1")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    root = workspace.blobs / BLOB_CONTAINER
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "file").symlink_to(tmp_path / "outside" / "secret")
    assert doors.get(f"{ROOT}/link/secret").status_code == 400
    assert doors.get(f"{ROOT}/file").status_code == 400
    answer = doors.put(f"{ROOT}/link/new", content=b"1", headers=BLOCK)
    assert answer.status_code == 400
    listed = doors.get(ROOT, params={"restype": "container", "comp": "list"})
    assert names(listed.text) == ["a"]
    prefixed = {"restype": "container", "comp": "list", "prefix": "link/"}
    assert doors.get(ROOT, params=prefixed).status_code == 400


def test_a_stranger_gets_nothing(doors: TestClient) -> None:
    put(doors, "a", b"1")
    del doors.headers["Authorization"]
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        answer = doors.request(method, f"{ROOT}/a", content=b"x", headers=BLOCK)
        assert answer.status_code == 401
        assert answer.headers["x-ms-error-code"] == "InvalidAuthenticationInfo"


def test_a_signed_address_opens_its_container_and_no_other(
    doors: TestClient, workspace: Workspace
) -> None:
    put(doors, "a", b"1")
    doors.put("/_blob.blob.local/other", params={"restype": "container"})
    del doors.headers["Authorization"]
    query = identity.sign_query(workspace, ROOT)
    assert doors.get(f"{ROOT}/a?{query}").content == b"1"
    assert doors.put(f"{ROOT}/b?{query}", content=b"1", headers=BLOCK).status_code == 201
    asked = "restype=container&comp=list"
    assert doors.get(f"{ROOT}?{asked}&{query}").status_code == 200
    assert doors.get(f"/_blob.blob.local/other?{asked}&{query}").status_code == 401
    late = identity.sign_query(workspace, ROOT, seconds=-1)
    assert doors.get(f"{ROOT}/a?{late}").status_code == 401


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ({"comp": "lease"}, {}),
        ({"comp": "snapshot"}, {}),
        ({"comp": "appendblock"}, {}),
        ({}, {"x-ms-blob-type": "AppendBlob"}),
        ({}, {"x-ms-copy-source": "https://elsewhere/x"}),
    ],
)
def test_what_is_not_here_says_so_and_does_nothing(
    doors: TestClient, query: dict[str, str], headers: dict[str, str]
) -> None:
    answer = doors.put(f"{ROOT}/a", params=query, headers=headers, content=b"1")
    assert (answer.status_code, code_of(answer.text)) == (501, "NotImplemented")
    assert doors.head(f"{ROOT}/a").status_code == 404


def test_too_much_metadata_is_refused(doors: TestClient) -> None:
    headers = {**BLOCK, "x-ms-meta-a": "x" * 9000}
    answer = doors.put(f"{ROOT}/a", content=b"1", headers=headers)
    assert (answer.status_code, code_of(answer.text)) == (400, "MetadataTooLarge")
    named = doors.put(f"{ROOT}/a", content=b"1", headers={**BLOCK, "x-ms-meta-a-b": "x"})
    assert (named.status_code, code_of(named.text)) == (400, "InvalidMetadata")
