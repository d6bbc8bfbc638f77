"""A whole answer whose head comes with its first token, between a replica and its gateway.

What had a token when its replica died is never asked for again; what had none may be. So the
gateway has to know. An asker that sends `x-finery-begun: 1` gets the head of a whole answer the
moment that its first token is made, bearing the same header. The status of that head is 200,
whatever follows; the body is a line `STATUS PROMPT COMPLETION` (the true status, tokens of the
prompts, tokens made), and then the answer, or what is said of its failure. What fails before the
first token has an ordinary answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

HEADER = "x-finery-begun"
LONGEST = 64  # bytes of the line
_LINE = re.compile(rb"(\d{3}) (\d{1,18}) (\d{1,18})\n")


@dataclass(frozen=True)
class Outcome:
    """How an answer ended, and what it used."""

    status: int
    prompt: int = 0  # tokens
    completion: int = 0

    def line(self) -> bytes:
        """What stands before the answer."""
        return f"{self.status} {self.prompt} {self.completion}\n".encode()


def read(content: bytes) -> tuple[Outcome, bytes] | None:
    """The outcome and what follows it; None while the line is not whole.

    Raises ValueError for what is no such line.
    """
    if found := _LINE.match(content):
        status, prompt, completion = (int(group) for group in found.groups())
        return Outcome(status, prompt, completion), content[found.end() :]
    if len(content) >= LONGEST or b"\n" in content:
        raise ValueError("an answer does not begin with its outcome")
    return None
