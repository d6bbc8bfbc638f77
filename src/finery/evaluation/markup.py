"""Foreign text made safe to show: in a terminal, in Markdown, in a Markdown table.

Text of users and models may hold terminal escapes, right-to-left overrides, HTML, links and
table bars. Here it becomes what it looks like, and nothing else.
"""

from __future__ import annotations

import re
import unicodedata

# Direction marks that reorder the text around them ("Trojan Source", CVE-2021-42574).
_DIRECTION = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}
# What means something inside a line: emphasis, code, links, tables, maths, strike-through,
# bare addresses (www., ://, @); an underscore only at the edge of a word.
_INLINE = re.compile(r"[\\`*\[\]|~$@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.", re.IGNORECASE)
# What means something at the start of a line: headings, lists, quotes, rules.
_START = re.compile(r"^(?:(?:#{1,6}|[+-]|\d+[.)])(?=\s|$)|>|-{2,}|={2,})")


def plain(text: str) -> str:
    r"""`text` with every character that steers a terminal written out, such as `\x1b`."""
    text = text.replace("\r\n", "\n")
    return "".join(_shown(char) for char in text)


def _shown(char: str) -> str:
    if char in "\n\t":
        return char
    if unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} or ord(char) in _DIRECTION:
        code = ord(char)
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    return char


def markdown(text: str) -> str:
    """`text` as one line of Markdown that renders as itself; its line breaks become `<br>`."""
    escaped = _INLINE.sub(r"\\\g<0>", plain(text).strip())
    escaped = _START.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", escaped)
    escaped = escaped.replace("&", "&amp;").replace("<", "&lt;")
    return escaped.replace("\n", "<br>").replace("\t", " ")


def fenced(text: str, language: str = "") -> str:
    """`text` as a Markdown code block whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{plain(text)}\n{fence}"


def clipped(text: str, limit: int) -> str:
    """`text`, or its first `limit` characters and a note of how many are left out."""
    if len(text) <= limit:
        return text
    return f"{text[:limit].rstrip()} … ({len(text) - limit:,} more characters)"
