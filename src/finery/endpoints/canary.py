"""Is the new deployment worse than the old one? A sequential test over their requests.

Requests are compared in strata: what both deployments answered in one stretch of time. Within
one, under "no worse", the failures (or slow answers) are spread over the requests at random, so
that the canary's number of them, given all totals, is hypergeometric (Fisher's exact test); with
odds that are `o` times as bad it is Fisher's noncentral hypergeometric. The ratio of the two
likelihoods has mean at most 1 while the odds are at most TOLERATED, whatever else changes over
time between the strata (as in Mantel and Haenszel, 1959). So the product over the strata, mixed
over several odds (Robbins, 1970), is evidence that exceeds 1/a with a probability of at most a,
however often one looks (Ville, 1939): a good canary is not rolled back for having been watched
long. Grünwald, de Heide and Koolen, "Safe testing" (JRSS B, 2024) and Turner, Ly and Grünwald,
"Generic E-variables for exact sequential k-sample tests that allow for optional stopping"
(JSPI, 2024) are the general theory.

In the last step nothing is left to compare with. There the canary is held against the rate that
the old deployment showed before, at the upper end of its confidence interval.

"Slow" is slower than the 95th percentile of the old deployment in the strata before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

Guard = Literal["error_rate", "latency_p95"]
GUARDS: tuple[Guard, ...] = ("error_rate", "latency_p95")
TOLERATED = 1.5  # odds that are this many times the old ones still count as no worse
WORSE = (3.0, 6.0, 12.0, 25.0, 50.0, 100.0)  # the odds that the evidence is spread over
FALSE_ALARM = 0.004  # of one guard over a whole canary, however long
NEEDED = math.log(1 / FALSE_ALARM)
MOST = NEEDED / 4  # that one stratum may add: see `Evidence`
SIGMAS = 3.3  # of the upper bound of a known rate (Wilson's interval): 1 in 2,000 is beyond
LEAST = 8  # requests of both sides that make a stratum
LEAST_KNOWN = 50  # requests from which the old deployment's rates are read


@dataclass(frozen=True)
class Table:
    """One stratum: how many requests each side answered, and how many of them badly."""

    canary: int
    canary_bad: int
    stable: int
    stable_bad: int


@dataclass(frozen=True)
class Evidence:
    """What speaks for "worse" so far: a log-likelihood ratio for each of the odds in WORSE.

    One stratum adds MOST at most. Answers are late together when a process stands still for a
    moment, which is no spread at random; no single moment may therefore be proof. The bound on
    false alarms stays: the smaller of an e-value and a constant is an e-value.
    """

    logs: tuple[float, ...] = (0.0,) * len(WORSE)

    @property
    def total(self) -> float:
        """The log of the mixture; NEEDED and more is proof, below 0 speaks for "no worse"."""
        return _log_sum(self.logs) - math.log(len(self.logs))

    def and_stratum(self, table: Table) -> Evidence:
        """With one more stratum."""
        known = _log_mean_power(table, TOLERATED)
        return self._plus(
            table.canary_bad * math.log(odds / TOLERATED) - _log_mean_power(table, odds) + known
            for odds in WORSE
        )

    def and_alone(self, requests: int, bad: int, usual: float) -> Evidence:
        """With requests that nothing stands beside; `usual` is the most that the rate may be."""
        base = _worse(usual, TOLERATED)
        return self._plus(
            bad * math.log(_worse(usual, odds) / base)
            + (requests - bad) * math.log((1 - _worse(usual, odds)) / (1 - base))
            for odds in WORSE
        )

    def _plus(self, more: Iterable[float]) -> Evidence:
        pairs = zip(self.logs, more, strict=True)
        return Evidence(tuple(old + min(new, MOST) for old, new in pairs))


def highest_rate(bad: int, requests: int) -> float:
    """The upper end of Wilson's interval for a share (Wilson, JASA 1927)."""
    if not requests:
        return 1.0
    share, squared = bad / requests, SIGMAS**2
    middle = share + squared / (2 * requests)
    width = SIGMAS * math.sqrt(share * (1 - share) / requests + squared / (4 * requests**2))
    return min(0.999, (middle + width) / (1 + squared / requests))


def _worse(rate: float, odds: float) -> float:
    """The rate whose odds are `odds` times those of `rate`."""
    return odds * rate / (1 - rate + odds * rate)


def _log_mean_power(table: Table, odds: float) -> float:
    """log E[odds^X] for the hypergeometric number X of bad requests that fall to the canary."""
    bad = table.canary_bad + table.stable_bad
    least, most = max(0, bad - table.stable), min(bad, table.canary)
    every = _log_choose(table.canary + table.stable, bad)
    return _log_sum(
        [
            _log_choose(table.canary, x)
            + _log_choose(table.stable, bad - x)
            - every
            + x * math.log(odds)
            for x in range(least, most + 1)
        ]
    )


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _log_sum(logs: Sequence[float]) -> float:
    top = max(logs)
    return top + math.log(math.fsum(math.exp(one - top) for one in logs))


@dataclass(frozen=True)
class Seen:
    """What one deployment answered in a stretch of time."""

    requests: int = 0
    errors: int = 0
    latencies: tuple[int, ...] = ()  # answers by bucket of time, the fastest first

    def __add__(self, other: Seen) -> Seen:
        width = max(len(self.latencies), len(other.latencies))
        pairs = zip(_wide(self.latencies, width), _wide(other.latencies, width), strict=True)
        return Seen(
            self.requests + other.requests,
            self.errors + other.errors,
            tuple(one + another for one, another in pairs),
        )

    @property
    def timed(self) -> int:
        """How many of them have a time."""
        return sum(self.latencies)

    def slower_than(self, bucket: int) -> int:
        """How many took longer than what falls into `bucket`."""
        return sum(self.latencies[bucket + 1 :])

    def bucket_of(self, share: float) -> int:
        """The bucket in which the answer lies that `share` of them are not slower than."""
        left = share * self.timed
        for bucket, count in enumerate(self.latencies):
            left -= count
            if left <= 0:
                return bucket
        return max(0, len(self.latencies) - 1)


def _wide(counts: tuple[int, ...], width: int) -> tuple[int, ...]:
    return (*counts, *(0,) * (width - len(counts)))


@dataclass(frozen=True)
class Watched:
    """Everything that the test knows; a value, so that it can be stored between two looks."""

    evidence: Mapping[Guard, Evidence] = field(default_factory=dict)
    before: Seen = Seen()  # what the old deployment answered before the canary began
    stable: Seen = Seen()  # in the whole canary
    canary: Seen = Seen()
    open_stable: Seen = Seen()  # of the stratum that is not full yet
    open_canary: Seen = Seen()

    def after(self, stable: Seen, canary: Seen, guards: Sequence[Guard], *, alone: bool) -> Watched:
        """With what was answered since the last look; `alone`: the canary has all the traffic."""
        stable, canary = self.open_stable + stable, self.open_canary + canary
        full = canary.requests >= LEAST and (alone or stable.requests >= LEAST)
        if not full:
            return replace(self, open_stable=stable, open_canary=canary)
        evidence: dict[Guard, Evidence] = {
            guard: _judge(guard, self, stable, canary, alone=alone) for guard in guards
        }
        whole = (self.before, self.stable + stable, self.canary + canary)
        return Watched(evidence, *whole)

    @property
    def known(self) -> Seen:
        """What is known of the old deployment."""
        return self.before + self.stable


def _judge(guard: Guard, before: Watched, stable: Seen, canary: Seen, *, alone: bool) -> Evidence:
    """One guard's evidence with one more stratum."""
    evidence, known = before.evidence.get(guard, Evidence()), before.known
    if guard == "error_rate":
        usual = (known.errors, known.requests)
        table = Table(canary.requests, canary.errors, stable.requests, stable.errors)
    else:
        edge = known.bucket_of(0.95)
        usual = (known.slower_than(edge), known.timed)
        slow, old_slow = canary.slower_than(edge), stable.slower_than(edge)
        table = Table(canary.timed, slow, stable.timed, old_slow)
    nothing_known = usual[1] < LEAST_KNOWN
    if nothing_known and (alone or guard == "latency_p95"):
        return evidence
    if alone:
        return evidence.and_alone(table.canary, table.canary_bad, highest_rate(*usual))
    return evidence.and_stratum(table)


Decision = Literal["wait", "advance", "roll back"]


def decide(
    watched: Watched,
    guards: Sequence[Guard],
    answered: int,
    seconds: float,
    *,
    min_requests: int,
    step_seconds: float,
) -> tuple[Decision, Guard | None]:
    """What to do in a step in which the canary has answered `answered` requests in `seconds`.

    Proof that it is worse ends the canary at once. It goes on after enough requests and time,
    and only while the evidence does not lean towards "worse" by any guard.
    """
    totals: dict[Guard, float] = {
        guard: watched.evidence.get(guard, Evidence()).total for guard in guards
    }
    worst = max(totals, key=lambda guard: totals[guard])
    if totals[worst] >= NEEDED:
        return "roll back", worst
    if answered < min_requests or seconds < step_seconds or totals[worst] > 0:
        return "wait", None
    return "advance", None
