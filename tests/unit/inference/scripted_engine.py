"""An engine that says what a reference says, or what a test makes of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from finery.inference.engine import Generation, Token
from finery.inference.engines.reference import Place, Reference

VOCABULARY = 50
PROMPTS = tuple((n, n + 1) for n in range(8))
LENGTH = 16


def successor(before: tuple[int, ...]) -> int:
    """The token that the model makes after `before`."""
    return (sum(before) * 7 + len(before) * 3) % VOCABULARY


def place(token: int, gap: float) -> Place:
    """`token` first, the next one `gap` nats below, all others far below."""
    first, others = -0.5, range(2, 20)
    rest = [((token + n) % VOCABULARY, -9.0 - n) for n in others]
    return Place(((token, first), ((token + 1) % VOCABULARY, first - gap), *rest))


def reference(gap: float = 0.2, precision: str = "float32") -> Reference:
    answers = []
    for prompt in PROMPTS:
        ids: tuple[int, ...] = prompt
        for _ in range(LENGTH):
            ids = (*ids, successor(ids))
        answers.append(tuple(place(token, gap) for token in ids[len(prompt) :]))
    return Reference(PROMPTS, tuple(answers), precision)


class Scripted:
    """An engine whose every token `choose` may change: it gets what is before, and the token."""

    name = "scripted"
    context = 1000
    features: frozenset[str] = frozenset({"adapters"})

    def __init__(
        self,
        precision: str = "int8",
        choose: Callable[[tuple[int, ...], int], int] = lambda before, token: token,
        extra_stops: tuple[int, ...] = (),
        heeds_stops: bool = True,
        one_more: bool = False,
    ) -> None:
        self.precision = precision
        self.choose = choose
        self.extra_stops = extra_stops
        self.heeds_stops = heeds_stops
        self.one_more = one_more
        self.asked: list[Generation] = []

    async def generate(self, wanted: Generation) -> AsyncGenerator[Token, None]:
        self.asked.append(wanted)
        before = wanted.prompt
        for _ in range(wanted.max_new_tokens + self.one_more):
            token = self.choose(before, successor(before))
            before = (*before, token)
            yield Token(token)
            stops = wanted.stop_ids if self.heeds_stops else ()
            if token in (*stops, *self.extra_stops):
                return

    def health(self) -> str:
        return ""

    async def close(self) -> None:
        pass


def every(nth: int, step: int = 1) -> Callable[[tuple[int, ...], int], int]:
    """Another token at every `nth` place, `step` beside the right one."""

    def choose(before: tuple[int, ...], token: int) -> int:
        return (token + step) % VOCABULARY if sum(before) % nth == 0 else token

    return choose
