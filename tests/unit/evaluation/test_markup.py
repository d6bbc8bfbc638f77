"""Foreign text shows as what it is."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from finery.evaluation.markup import clipped, fenced, markdown, plain

TEXTS = [
    "plain words",
    "a *b* _c_ `d` [e](f) ![g](h) <i>j</i> & k | l # m ~n~ \\o",
    "1. one\n- two\n> three\n    four",
    "www.example.com and https://example.com?a=b",
    "日本語 ünïcode 👩‍👩‍👧",
    "&amp; &lt;",
    "a __b__ c_d_e _f g_ **h** `i` ~~j~~",
    "# not a heading",
    "- not an item",
    "+ not an item",
    "12. not an item",
    "3) not an item",
    "> not a quote",
    "---",
    "===",
    "    not code",
    "someone@example.com",
]


@pytest.mark.parametrize("text", TEXTS)
def test_escaped_markdown_renders_as_the_same_text(text: str) -> None:
    # GitHub's dialect but for html, so that our own <br> is text that can be compared.
    parser = MarkdownIt("gfm-like", {"html": False, "linkify": False})
    opening, line, closing = parser.parse(markdown(text))
    assert (opening.type, closing.type) == ("paragraph_open", "paragraph_close")
    inline = line.children or []
    assert all(token.type == "text" or token.type == "text_special" for token in inline)
    shown = "".join(token.content for token in inline).replace("<br>", "\n")
    assert shown.split() == text.split()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("a\rb", "a\\x0db"),
        ("a\r\nb\tc", "a\nb\tc"),
        ("\u202eevil", "\\u202eevil"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("naïve 👩‍👩‍👧", "naïve 👩‍👩‍👧"),
    ],
)
def test_characters_that_steer_a_terminal_are_written_out(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_a_code_block_cannot_be_closed_from_inside() -> None:
    block = fenced("a\n````\nb")
    assert block.startswith("`````\n") and block.endswith("\n`````")
    (token,) = MarkdownIt("commonmark").parse(block)
    assert token.content == "a\n````\nb\n"


def test_a_long_text_says_how_much_is_left_out() -> None:
    assert clipped("abc", 3) == "abc"
    assert clipped("a" * 1500, 300) == "a" * 300 + " … (1,200 more characters)"


def test_ordinary_words_and_names_need_no_escape() -> None:
    text = "learning_rate 5e-06: better (95 % sure), out/model-2."
    assert markdown(text) == text


def test_bare_addresses_do_not_become_links() -> None:
    assert markdown("https://a.b www.c.d e@f") == "https\\://a.b www\\.c.d e\\@f"
