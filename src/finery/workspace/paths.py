"""Paths from outside, kept inside the folder they belong to."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from finery.errors import Fault, InputError
from finery.files import TEMPORARY

_LONGEST_PART = 255  # bytes; the limit of every common file system
_RULE = "a relative path of names that stays inside its folder"


def inside(root: Path, relative: str, where: str) -> Path:
    """`root / relative`; raises InputError when that is not, by name or through links, in `root`.

    `where` is the place of the path in what the caller sent.
    """
    parts = [part for part in relative.split("/") if part not in ("", ".")]
    wrong = relative.startswith("/") or any(_is_wrong(part) for part in parts)
    if wrong:
        raise InputError([Fault(where, repr(relative), _RULE)])
    path = root.joinpath(*parts)
    if not path.resolve().is_relative_to(root.resolve()):
        raise InputError([Fault(where, f"{relative!r}, a link that leads elsewhere", _RULE)])
    return path


def _is_wrong(part: str) -> bool:
    """Whether a name means another place, cannot be a file's, or is one of our own in making."""
    return (
        part == ".."
        or part.startswith(TEMPORARY)
        or "\\" in part
        or any(unicodedata.category(character) in ("Cc", "Cs") for character in part)
        or len(part.encode(errors="surrogatepass")) > _LONGEST_PART
    )
