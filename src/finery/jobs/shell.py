"""Values in a bash text, each as one word wherever it stands, so that none of them is a program.

Azure ML puts the text of a value in the place of `${{inputs.x}}`, and users write it with quotes
around it and without. Here a value is written for the quotes that it stands in: bare it becomes
one quoted word, in quotes it is escaped for them. What a command hands to another shell of its
own (`bash -c`, `eval`) is read a second time there, which nobody can see from outside.

The grammar is that of the Bash Reference Manual, 3.1.2 (quoting), 3.5 (expansions), 3.6.6 (here
documents).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field

CODE, SINGLE, DOUBLE, ANSI, ARITHMETIC, HERE = "code", "'", '"', "$'", "((", "<<"
DEFAULT = '"${'  # of a name inside double quotes
_PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII)  # means itself in every place
_NUMBERS = re.compile(r"[\w+*/%. -]+", re.ASCII)
_HERE = re.compile(r"<<(?!<)(?P<tabs>-?)[ \t]*(?P<quote>['\"\\]?)(?P<word>[A-Za-z_]\w*)['\"]?")
# What begins a part of a text that is read by other rules, the longest first: rules, end.
_OPENINGS = {
    "$((": (ARITHMETIC, "))"),
    "((": (ARITHMETIC, "))"),
    "$'": (ANSI, "'"),
    '$"': (DOUBLE, '"'),
    "$(": (CODE, ")"),
    "${": (CODE, "}"),
    "<(": (CODE, ")"),
    "(": (CODE, ")"),
    "'": (SINGLE, "'"),
    '"': (DOUBLE, '"'),
    "`": (CODE, "`"),
}
_IN_DOUBLE = ("$((", "$(", "${", "`")  # what still begins something inside double quotes


class UnwritableError(ValueError):
    """A value that cannot be written where it stands; the message is what to do instead."""


@dataclass
class _Scanner:
    """A reader of bash text, one place after another."""

    text: str
    placeholder: re.Pattern[str]
    value: Callable[[re.Match[str]], str]
    at: int = 0
    parts: list[str] = field(default_factory=list)
    within: list[tuple[str, str]] = field(default_factory=lambda: [(CODE, "")])
    here: list[re.Match[str]] = field(default_factory=list)  # documents that the next line begins

    def run(self) -> str:
        """The text with its values."""
        while self.at < len(self.text):
            self.next()
        return "".join(self.parts)

    def take(self, length: int) -> None:
        """Keep so many characters as they are."""
        self.parts.append(self.text[self.at : self.at + length])
        self.at += length

    def fill(self, rules: str) -> bool:
        """Write the value that stands here, if one does."""
        found = self.placeholder.match(self.text, self.at)
        if found is not None:
            in_backquotes = any(end == "`" for _, end in self.within)
            self.parts.append(written(self.value(found), rules, in_backquotes=in_backquotes))
            self.at = found.end()
        return found is not None

    def next(self) -> None:
        """Read what comes next by the rules of the place."""
        rules, end = self.within[-1]
        if self.fill(rules):
            return
        if end and self.text.startswith(end, self.at):
            self.within.pop()
            self.take(len(end))
        elif self.text[self.at] == "\\" and rules != SINGLE:
            self.take(2)
        elif rules in (CODE, DOUBLE, ARITHMETIC, DEFAULT):
            self.open(rules)
        else:
            self.take(1)

    def open(self, rules: str) -> None:
        """Begin a part with other rules, or go on."""
        known = {CODE: _OPENINGS, DEFAULT: (*_IN_DOUBLE, DOUBLE)}.get(rules, _IN_DOUBLE)
        opening = next((one for one in known if self.text.startswith(one, self.at)), "")
        if opening:
            inner, end = _OPENINGS[opening]
            is_default = opening == "${" and rules in (DOUBLE, DEFAULT)
            self.within.append((DEFAULT if is_default else inner, end))
            self.take(len(opening))
        elif rules == ARITHMETIC and self.text[self.at] == "(":
            self.within.append((ARITHMETIC, ")"))
            self.take(1)
        elif rules != CODE:
            self.take(1)
        elif self.text[self.at] == "#" and self.begins_word():
            self.comment()
        elif document := _HERE.match(self.text, self.at):
            self.here.append(document)
            self.take(len(document[0]))
        else:
            is_line_end = self.text[self.at] == "\n"
            self.take(1)
            while is_line_end and self.here:
                self.document(self.here.pop(0))

    def begins_word(self) -> bool:
        """Whether a word may begin here."""
        return self.at == 0 or self.text[self.at - 1] in " \t\n;&|()"

    def comment(self) -> None:
        """A comment says nothing to bash, nor does a value in it; its line ends it."""
        while self.at < len(self.text) and self.text[self.at] != "\n":
            if not self.fill(HERE):
                self.take(1)

    def document(self, opening: re.Match[str]) -> None:
        """The lines of a here document, to the one that is its word."""
        is_literal = bool(opening["quote"])
        while self.at < len(self.text):
            line, newline, _ = self.text[self.at :].partition("\n")
            stop = self.at + len(line) + len(newline)
            if (line.lstrip("\t") if opening["tabs"] else line) == opening["word"]:
                self.take(stop - self.at)
                return
            while self.at < stop:
                if self.text[self.at] == "\\" and not is_literal:
                    self.take(2)
                elif not self.fill(HERE if is_literal else f"{HERE}$"):
                    self.take(1)


def with_values(
    text: str, placeholder: re.Pattern[str], value: Callable[[re.Match[str]], str]
) -> str:
    """`text` with a value in the place of each match of `placeholder`.

    Raises UnwritableError for a value that no quoting makes safe where it stands.
    """
    return _Scanner(text, placeholder, value).run()


def written(value: str, rules: str, *, in_backquotes: bool = False) -> str:
    """A value as it is written in a place with these rules."""
    if _PLAIN.fullmatch(value):
        return value
    if in_backquotes:
        raise UnwritableError("Write $(…) instead of `…`: only values of plain letters fit there.")
    match rules:
        case "'":
            return value.replace("'", "'\\''")
        case "$'":
            return re.sub(r"([\\'])", r"\\\1", value)
        case '"':
            return re.sub(r'([\\"$`])', r"\\\1", value)
        case '"${':
            raise UnwritableError("Give it to a variable first: one=${{inputs.one}}.")
        case "((":
            if _NUMBERS.fullmatch(value):
                return value
            raise UnwritableError("Only a number can stand in $((…)).")
        case "<<" | "<<$":
            if "\n" in value:
                raise UnwritableError("A value of several lines cannot stand in a here document.")
            return re.sub(r"([\\$`])", r"\\\1", value) if rules == "<<$" else value
    return shlex.quote(value)
