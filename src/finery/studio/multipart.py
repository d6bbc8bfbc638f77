"""The parts of a form with files (RFC 7578), as they come in; nothing is held but a few bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from finery.errors import Fault, InputError

LONGEST_HEAD = 8 * 1024  # bytes of a part's headers
MOST_PARTS = 1000
_LINE = b"\r\n"
_HEAD_END = b"\r\n\r\n"
_BOUNDARY = re.compile(r"""boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))""", re.IGNORECASE)
# Browsers write a quote in a name as %22 (WHATWG HTML, multipart/form-data encoding algorithm).
_NAME = re.compile(rb'(?:^|[;\s])name="([^"]*)"')
_FILE = re.compile(rb'(?:^|[;\s])filename="([^"]*)"')


@dataclass(frozen=True)
class Part:
    """The beginning of a part: a field, or a file where `file` is its name."""

    name: str
    file: str | None


@dataclass(frozen=True)
class End:
    """The end of a part."""


Event = Part | bytes | End


class Multipart:
    """Feed it bytes; it says what they are. Raises InputError for what is no such form."""

    def __init__(self, content_type: str) -> None:
        found = _BOUNDARY.search(content_type)
        if found is None:
            raise _broken("a form without a boundary")
        self._mark = b"\r\n--" + (found[1] or found[2]).encode("latin-1", "replace")
        self._rest = bytearray(_LINE)  # the first boundary has no line before it
        self._in_part = False
        self._parts = 0
        self.is_over = False

    def feed(self, data: bytes) -> Iterator[Event]:
        """What is certain now that `data` has come."""
        self._rest += data
        while not self.is_over:
            found = self._body() if self._in_part else self._head()
            if not found:
                return
            yield from found

    def _body(self) -> list[Event]:
        """Bytes up to the next boundary, or as many as are surely no part of one."""
        at = self._rest.find(self._mark)
        sure = at if at >= 0 else max(0, len(self._rest) - len(self._mark) + 1)
        data = bytes(self._rest[:sure])
        del self._rest[:sure]
        self._in_part = at < 0
        return [*([data] if data else []), *([] if self._in_part else [End()])]

    def _head(self) -> list[Event]:
        """The boundary and the headers after it, once they are there whole."""
        after = len(self._mark)
        if not self._rest.startswith(self._mark[: len(self._rest)]):
            raise _broken("bytes that belong to no part")
        if len(self._rest) < after + 2:
            return []
        if self._rest[after : after + 2] == b"--":
            self.is_over = True
            return []
        end = self._rest.find(_HEAD_END, after)
        if end < 0 and len(self._rest) <= LONGEST_HEAD:
            return []
        self._parts += 1
        if end < 0 or self._parts > MOST_PARTS:
            raise _broken("headers that do not end" if end < 0 else f"more than {MOST_PARTS} parts")
        part = _part(bytes(self._rest[after:end]))
        del self._rest[: end + len(_HEAD_END)]
        self._in_part = True
        return [part]


def _part(head: bytes) -> Part:
    for line in head.split(_LINE):
        key, _, value = line.partition(b":")
        if key.strip().lower() == b"content-disposition":
            name, file = _NAME.search(value), _FILE.search(value)
            if name is None:
                break
            return Part(_text(name[1]), None if file is None else _text(file[1]))
    raise _broken("a part without a name")


def _text(quoted: bytes) -> str:
    text = quoted.decode("utf-8", "replace")
    return text.replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")


def _broken(found: str) -> InputError:
    return InputError([Fault("body", found, "a form as browsers send it")])
