"""How fast long bodies are taken: so many bytes a second for all of them together.

A body that is read as fast as it comes takes the processors for as long as it lasts: the copying,
the parsing, and the sender where it runs on the same machine. What is not read waits with its
sender (TCP's own back-pressure), and requests of everybody else come in between.
"""

from __future__ import annotations

from dataclasses import dataclass

RATE = 16 * 2**20  # bytes a second
SHORT = 256 * 2**10  # bytes of a body that count as no load


@dataclass
class Pace:
    """One of these for a process. Everything happens on one event loop."""

    rate: float = RATE
    _even: float = 0.0  # the moment at which what was taken so far has had its time

    def wait(self, size: int, moment: float) -> float:
        """The seconds that pass before more may be taken, now that `size` bytes were."""
        self._even = max(moment, self._even) + size / self.rate
        return self._even - moment
