"""Files are wholly there or not at all, whatever happens while they are written."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from finery import files
from finery.errors import FineryError
from finery.files import (
    MANIFEST,
    home,
    json_lines,
    mirrored,
    new_folder,
    read_json,
    read_json_lines,
    sha256_file,
    sha256_json,
    verify_folder,
    write_atomic,
    write_json,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_its_folders_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    write_atomic(path, "Grüße")
    assert path.read_bytes() == "Grüße".encode()
    write_atomic(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert names(path.parent) == ["c.txt"]


def test_a_crash_before_the_rename_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    def crash(_: int) -> None:
        raise OSError("power lost")

    monkeypatch.setattr(files.os, "fsync", crash)
    with pytest.raises(OSError, match="power lost"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_content_is_on_disk_before_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, replace = files.os.fsync, Path.replace

    def watched_fsync(handle: int) -> None:
        order.append("fsync")
        fsync(handle)

    def watched_replace(self: Path, target: Path) -> Path:
        order.append("rename")
        return replace(self, target)

    monkeypatch.setattr(files.os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    write_atomic(tmp_path / "a", "x")
    assert order == ["fsync", "rename", "fsync"]


def test_json_is_readable_and_refuses_what_json_cannot_say(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, "ü"]})
    assert path.read_text() == '{\n  "b": [\n    1,\n    "ü"\n  ]\n}\n'
    assert read_json(path) == {"b": [1, "ü"]}
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(path, value)
    assert read_json(path) == {"b": [1, "ü"]}


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_a_file_that_is_not_json_is_named_with_its_fault(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(FineryError, match=r"a\.json is not valid JSON"):
        read_json(path)
    with pytest.raises(FineryError, match="is not there"):
        read_json(tmp_path / "b.json")


def test_hashes_depend_on_content_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    assert sha256_file(tmp_path / "a") == known
    assert sha256_json({"a": 1, "b": [2]}) == sha256_json({"b": [2], "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": "1"})


def test_a_new_folder_has_a_manifest_of_all_it_holds(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "x").write_bytes(b"123")
        assert not (tmp_path / "out").exists()
    assert names(tmp_path) == ["out"]
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert manifest["files"]["sub/x"]["bytes"] == 3
    assert verify_folder(tmp_path / "out") == []


def test_a_block_that_fails_leaves_no_folder_or_the_old_one(tmp_path: Path) -> None:
    final = tmp_path / "out"
    with pytest.raises(RuntimeError), new_folder(final) as folder:
        (folder / "x").write_text("half")
        raise RuntimeError
    assert names(tmp_path) == []
    with new_folder(final) as folder:
        (folder / "x").write_text("whole")
    with pytest.raises(RuntimeError), new_folder(final, replace=True) as folder:
        (folder / "x").write_text("half")
        raise RuntimeError
    assert (final / "x").read_text() == "whole"
    assert verify_folder(final) == []


def test_a_folder_is_replaced_only_when_asked(tmp_path: Path) -> None:
    final = tmp_path / "out"
    for text in ("one", "two"):
        with new_folder(final, replace=text == "two") as folder:
            (folder / text).write_text(text)
    assert names(final) == [MANIFEST, "two"]
    with pytest.raises(FineryError, match="is there already"), new_folder(final):
        raise AssertionError("the block must not run")
    assert names(tmp_path) == ["out"]


def test_whatever_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as folder:
        for name in ("a", "b", "c"):
            (folder / name).write_bytes(b"12345")
    out = tmp_path / "out"
    (out / "a").unlink()
    (out / "b").write_bytes(b"123")
    (out / "c").write_bytes(b"12346")
    missing, short, changed = verify_folder(out)
    assert "a is missing" in missing
    assert "b has 3 bytes, not 5" in short
    assert "c has other content" in changed
    assert len(verify_folder(out, hashes=False)) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": 3}'])
def test_a_damaged_manifest_is_a_fault_and_not_a_crash(tmp_path: Path, text: str) -> None:
    with new_folder(tmp_path / "out"):
        pass
    (tmp_path / "out" / MANIFEST).write_text(text)
    (sentence,) = verify_folder(tmp_path / "out")
    assert "damaged" in sentence
    (tmp_path / "out" / MANIFEST).unlink()
    (sentence,) = verify_folder(tmp_path / "out")
    assert "never completed" in sentence


def test_home_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINERY_HOME", str(tmp_path / "here" / ".." / "there"))
    assert home() == (tmp_path / "there").resolve()
    monkeypatch.setenv("FINERY_HOME", "")
    assert home() == Path.home() / ".finery"


def test_json_lines_come_back_whatever_characters_their_texts_hold(tmp_path: Path) -> None:
    rows = [{"text": "a\u2028b\x85c\x0b\r\nd"}, ["ü"], 3]
    path = tmp_path / "rows.jsonl"
    path.write_text(json_lines(rows), encoding="utf-8")
    assert path.read_text(encoding="utf-8").count("\n") == 3
    assert read_json_lines(path) == rows


def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"step": 1}\n{"ste')
    assert read_json_lines(path) == [{"step": 1}]
    path.write_text("")
    assert read_json_lines(path) == []


def test_json_lines_hold_no_number_that_json_has_not() -> None:
    with pytest.raises(ValueError, match="JSON"):
        json_lines([{"loss": math.nan}])


def test_a_mirror_is_a_folder_with_the_names_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FINERY_HUB_MIRROR", raising=False)
    assert mirrored("org/name") is None
    monkeypatch.setenv("FINERY_HUB_MIRROR", str(tmp_path))
    assert mirrored("org/name") == tmp_path / "org" / "name"
