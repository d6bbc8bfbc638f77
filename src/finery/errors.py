"""What finery says when it refuses: one root exception, and faults that name their place."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


class FineryError(Exception):
    """Something finery refuses to do, said in one sentence with its remedy.

    The command line prints the message alone (exit status 1); anything that is not a
    `FineryError` is a defect of finery and keeps its traceback.
    """

    exit_status = 1


@dataclass(frozen=True)
class Fault:
    """One thing wrong in what a person gave us."""

    where: str  # file:row:field, recipe.yaml:12:key, or --flag
    found: str
    expected: str
    remedy: str = ""

    def __str__(self) -> str:
        sentence = f"{self.where}: found {self.found}; expected {self.expected}."
        return f"{sentence} {self.remedy}" if self.remedy else sentence


class InputError(FineryError):
    """Input that is refused before any work starts; carries every fault of the pass."""

    exit_status = 2

    def __init__(self, faults: Iterable[Fault], subject: str = "") -> None:
        self.faults = tuple(faults)
        if not self.faults:
            raise ValueError("an InputError needs at least one fault")
        count = len(self.faults)
        head = f"{subject}: " if subject else ""
        title = f"{head}{count} fault{'s' if count > 1 else ''} in the input"
        super().__init__("\n".join([title, *(f"  {fault}" for fault in self.faults)]))


class SelfTestError(FineryError):
    """A proof that training runs before its first step did not hold, so nothing was trained."""

    exit_status = 3


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """The remedy that names the one of `words` nearest to `word`; "" when none is near."""
    near = difflib.get_close_matches(word, list(words), n=1)
    return f"Did you mean {near[0]}?" if near else ""


def os_reason(error: OSError) -> str:
    """Why the system refused, in words that fit inside a sentence: `permission denied`."""
    return (error.strerror or str(error)).lower()


def first_line(error: Exception) -> str:
    """The first line of what another library says, without its full stop; never empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
