"""Paths from outside stay inside the folder they belong to."""

from __future__ import annotations

import string
from pathlib import Path

import pytest

from finery.errors import InputError
from finery.workspace.paths import inside


@pytest.mark.parametrize(
    "relative",
    ["a", "a/b/c", "a b/ä/日本", "...", "..a", "a..b", ".hidden", "a\u202fb", "~", "$HOME", "*"],
)
def test_a_name_is_a_name(tmp_path: Path, relative: str) -> None:
    assert inside(tmp_path, relative, "path") == tmp_path / relative


def test_empty_and_single_dots_mean_nothing(tmp_path: Path) -> None:
    assert inside(tmp_path, "a//./b/", "path") == tmp_path / "a" / "b"
    assert inside(tmp_path, "", "path") == tmp_path


@pytest.mark.parametrize(
    "relative",
    [
        "..",
        "../a",
        "a/..",
        "a/../b",
        "a/../../b",
        "/a",
        "//a",
        "/",
        "a\\b",
        "..\\b",
        "C:\\b",
        "a\0",
        "a\nb",
        "a\x7f",
        "\ud800",
        ".tmp-a",
        "a/.tmp-b/c",
        "x" * 256,
        "ä" * 128,
    ],
)
def test_anything_else_is_refused_with_its_place(tmp_path: Path, relative: str) -> None:
    with pytest.raises(InputError, match="dataUri"):
        inside(tmp_path, relative, "dataUri")


def test_links_may_lead_within_the_folder_and_not_out_of_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "in").symlink_to(root / "a")
    (root / "out").symlink_to(tmp_path)
    assert inside(root, "in/b", "path") == root / "in" / "b"
    for relative in ("out", "out/b", "out/root/a"):
        if relative == "out/root/a":
            assert inside(root, relative, "path").resolve() == root / "a"
        else:
            with pytest.raises(InputError, match="leads elsewhere"):
                inside(root, relative, "path")


def test_a_folder_that_is_itself_a_link_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert inside(tmp_path / "link", "a", "path") == tmp_path / "link" / "a"


@pytest.mark.parametrize("character", [c for c in string.printable if c not in "\\/\t\n\r\x0b\x0c"])
def test_every_printable_character_may_be_in_a_name(tmp_path: Path, character: str) -> None:
    assert inside(tmp_path, f"a{character}b", "path").parent == tmp_path
