"""The sequential test behind a canary: bad ones are found soon, good ones are left alone."""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise

import pytest

from finery.endpoints.canary import (
    FALSE_ALARM,
    GUARDS,
    LEAST,
    MOST,
    NEEDED,
    TOLERATED,
    WORSE,
    Evidence,
    Seen,
    Table,
    Watched,
    decide,
    highest_rate,
)
from finery.endpoints.gateway.counts import BOUNDS

TRIALS = 50
LONGEST = 5000  # looks, after which a trial counts as stuck


def seeded(seed: int) -> random.Random:
    """Draws that are the same in every run."""
    return random.Random(seed)  # noqa: S311


@dataclass(frozen=True)
class Manner:
    """How a deployment answers in a simulation: times are log-normal around a median."""

    errors: float = 0.002
    seconds: float = 0.2
    spread: float = 0.5

    def answers(self, draws: random.Random, count: int) -> Seen:
        latencies, errors = [0] * (len(BOUNDS) + 1), 0
        for _ in range(count):
            if draws.random() < self.errors:
                errors += 1
                continue
            time = self.seconds * math.exp(draws.gauss(0.0, self.spread))
            latencies[bisect_left(BOUNDS, time)] += 1
        return Seen(count, errors, tuple(latencies))


@dataclass(frozen=True)
class Outcome:
    """How a simulated canary ended, and how many requests the canary saw until then."""

    decision: str
    guard: str | None
    requests: int


def simulate(
    seed: int,
    canary: Manner,
    stable: Manner = Manner(),
    steps: tuple[int, ...] = (5, 25, 100),
    per_look: int = 20,
) -> Outcome:
    """One canary from its first step to its end, with a random number of requests a look."""
    draws, watched, requests = seeded(seed), Watched(), 0
    for share in steps:
        answered = 0
        for look in range(LONGEST):
            count = draws.randint(per_look // 2, per_look * 3 // 2)
            new = sum(draws.random() < share / 100 for _ in range(count))
            answered, requests = answered + new, requests + new
            watched = watched.after(
                stable.answers(draws, count - new),
                canary.answers(draws, new),
                GUARDS,
                alone=share == 100,
            )
            decision, guard = decide(
                *(watched, GUARDS, answered, float(look)), min_requests=200, step_seconds=0.0
            )
            if decision == "roll back":
                return Outcome(decision, guard, requests)
            if decision == "advance":
                break
        else:
            return Outcome("stuck", None, requests)
    return Outcome("advance", None, requests)


@pytest.mark.parametrize(
    ("canary", "guard"),
    [
        (Manner(errors=0.05), "error_rate"),
        (Manner(seconds=0.4), "latency_p95"),
        (Manner(seconds=0.4, spread=0.3), "latency_p95"),
    ],
    ids=["5 % errors", "twice as slow", "twice as slow, and steady"],
)
def test_a_bad_canary_is_always_rolled_back_within_a_few_hundred_requests(
    canary: Manner, guard: str
) -> None:
    stable = Manner(spread=canary.spread)
    outcomes = [simulate(seed, canary, stable) for seed in range(TRIALS)]
    assert {outcome.decision for outcome in outcomes} == {"roll back"}
    assert sum(outcome.guard == guard for outcome in outcomes) >= TRIALS - 1
    assert sorted(outcome.requests for outcome in outcomes)[TRIALS // 2] < 200
    assert max(outcome.requests for outcome in outcomes) < 700


@pytest.mark.parametrize(
    "manner",
    [Manner(), Manner(errors=0.0), Manner(errors=0.02), Manner(spread=1.0)],
    ids=["usual", "without errors", "with many errors", "with very different times"],
)
def test_a_good_canary_is_never_rolled_back_and_gets_all_the_traffic(manner: Manner) -> None:
    outcomes = [simulate(seed, manner, manner) for seed in range(TRIALS)]
    assert {outcome.decision for outcome in outcomes} == {"advance"}


def test_a_canary_a_little_slower_than_the_old_one_counts_as_good() -> None:
    outcomes = [simulate(seed, Manner(seconds=0.21)) for seed in range(TRIALS)]
    assert {outcome.decision for outcome in outcomes} == {"advance"}


def test_few_requests_a_look_are_put_together_until_they_say_something() -> None:
    bad = [simulate(seed, Manner(errors=0.05), per_look=2) for seed in range(10)]
    good = [simulate(seed, Manner(), per_look=2) for seed in range(10)]
    assert {outcome.decision for outcome in bad} == {"roll back"}
    assert {outcome.decision for outcome in good} == {"advance"}


def test_a_canary_that_turns_bad_with_all_the_traffic_is_rolled_back_too() -> None:
    draws, watched = seeded(3), Watched(before=Manner().answers(seeded(1), 2000))
    for _ in range(40):
        canary = Manner(errors=0.05).answers(draws, 20)
        watched = watched.after(Seen(), canary, GUARDS, alone=True)
    assert decide(watched, GUARDS, 800, 1.0, min_requests=200, step_seconds=0.0) == (
        *("roll back", "error_rate"),
    )


def test_without_anything_known_all_the_traffic_proves_nothing() -> None:
    watched = Watched().after(Seen(), Manner(errors=1.0).answers(seeded(1), 50), GUARDS, alone=True)
    assert all(found == Evidence() for found in watched.evidence.values())


def hypergeometric(table: Table) -> list[float]:
    """The probability of every number of bad requests of the canary, all totals given."""
    bad = table.canary_bad + table.stable_bad
    every = math.comb(table.canary + table.stable, bad)
    return [
        math.comb(table.canary, x) * math.comb(table.stable, bad - x) / every
        for x in range(min(bad, table.canary) + 1)
    ]


@pytest.mark.parametrize("odds", [1.0, TOLERATED])
def test_the_evidence_of_a_canary_that_is_no_worse_is_at_most_one_on_average(odds: float) -> None:
    """A test supermartingale, computed exactly over all outcomes; the cap only lowers it."""
    canary, stable, bad = 10, 30, 6
    weights = [p * odds**x for x, p in enumerate(hypergeometric(Table(canary, 0, stable, bad)))]
    mean = sum(
        weight
        / sum(weights)
        * math.exp(Evidence().and_stratum(Table(canary, x, stable, bad - x)).total)
        for x, weight in enumerate(weights)
    )
    assert mean <= 1.0 + 1e-9
    assert mean > 0.4 or odds < TOLERATED


def test_more_bad_answers_of_the_canary_are_more_evidence_up_to_the_cap() -> None:
    found = [Evidence().and_stratum(Table(20, x, 80, 10 - x)).total for x in range(11)]
    alone = [Evidence().and_alone(50, x, 0.01).total for x in range(11)]
    for totals in (found, alone):
        assert all(less < more or more > MOST - 1 for less, more in pairwise(totals))
        assert totals[0] < 0 < totals[-1] <= MOST


def test_a_moment_in_which_the_canary_stood_still_is_no_proof() -> None:
    """All of its answers late in one stretch, then none: a stall of its process, no slowness."""
    late = [Evidence().and_stratum(Table(40, 40, 160, 0))]
    assert late[0].total <= MOST < NEEDED
    for _ in range(40):
        late.append(late[-1].and_stratum(Table(10, 0, 40, 2)))
    assert max(one.total for one in late) < NEEDED
    assert late[-1].total < 0


def test_several_such_moments_are() -> None:
    evidence = Evidence()
    for _ in range(6):
        evidence = evidence.and_stratum(Table(40, 40, 160, 0))
    assert evidence.total >= NEEDED


def test_requests_that_all_went_well_say_nothing_against_the_canary() -> None:
    evidence = Evidence()
    for _ in range(1000):
        evidence = evidence.and_stratum(Table(10, 0, 30, 0))
    assert evidence.total == pytest.approx(0.0)


def test_a_known_rate_has_an_upper_end_that_comes_nearer_with_more_requests() -> None:
    assert highest_rate(0, 0) == 1.0
    ends = [highest_rate(count // 100, count) for count in (100, 1000, 10000, 100000)]
    assert all(wide > narrow > 0.01 for wide, narrow in pairwise(ends))


def test_a_stratum_waits_for_both_sides() -> None:
    some = Seen(LEAST, 0, (LEAST,))
    waiting = Watched().after(some, Seen(LEAST - 1, 0, (LEAST - 1,)), GUARDS, alone=False)
    assert (waiting.stable.requests, waiting.open_canary.requests) == (0, LEAST - 1)
    full = waiting.after(Seen(), Seen(1, 0, (1,)), GUARDS, alone=False)
    assert (full.stable, full.canary, full.open_canary) == (some, some, Seen())


def against(total: float) -> Watched:
    logs = (total,) * len(WORSE)
    return Watched({"error_rate": Evidence(logs), "latency_p95": Evidence()})


@pytest.mark.parametrize(
    ("total", "answered", "seconds", "decision"),
    [
        (NEEDED, 1, 0.0, "roll back"),
        (NEEDED - 0.01, 500, 100.0, "wait"),  # it leans towards "worse"
        (-0.1, 199, 100.0, "wait"),
        (-0.1, 200, 59.0, "wait"),
        (-0.1, 200, 60.0, "advance"),
    ],
)
def test_a_step_ends_by_proof_or_by_enough_requests_and_time(
    total: float, answered: int, seconds: float, decision: str
) -> None:
    found, _ = decide(
        *(against(total), GUARDS, answered, seconds), min_requests=200, step_seconds=60.0
    )
    assert found == decision


def test_two_guards_together_cry_wolf_less_than_once_in_a_hundred() -> None:
    beyond_three_sigmas = 0.0005  # that a known rate lies above its upper end
    assert len(GUARDS) * (FALSE_ALARM + beyond_three_sigmas) < 0.01
    assert math.exp(-NEEDED) == pytest.approx(FALSE_ALARM)
