"""Traffic moved between deployments under load: nothing fails, and the shares are what was said."""

from __future__ import annotations

import asyncio
import functools
import itertools
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
from endpoints_load import Answer, Ask, Load, asked
from endpoints_world import (
    CROWDED,
    Report,
    World,
    crowding,
    endpoint,
    run,
    told,
    until,
    variables,
)

from finery.endpoints.gateway.routing import choose
from finery.endpoints.routing import Table

EFFECTIVE = 1.0  # seconds in which new shares hold
STEPS = ((100, 0), (90, 10), (50, 50), (0, 100))  # of blue and green
SIGMAS = 4.0  # one run in sixteen thousand is further off by chance
MIRROR = "the mirror says this"


def blue_green(there: World, *, full: bool) -> Report:
    """0, 10, 50, 100 % to the new deployment and the old one deleted, under 60 requests a second.

    The full form keeps each share for longer, moves them through the SDK too, and then does all
    of it with a real model at the pace of this machine.
    """
    report = Report()
    with endpoint(there, "switched") as name:
        there.deploy(name, "blue", text="I am blue")
        ways = ["cli", "sdk"] if full else ["cli"]
        for way in ways:
            there.deploy(name, "green", "--traffic", 0, text="I am green")
            asking = there.ask(name)
            with variables(there.service.environment):
                if way == "sdk":
                    sdk().online_endpoints.get(name)
                with Load(asking, rate=60) as load:
                    _moved(report, load, 300 if full else 60, WAYS[way])
                    run("endpoint", "delete", name, "--deployment", "blue")
                    load.wait_for(60)
            _judge(report, load, way)
            report.claim(load.sent_a_second >= 50, f"{load.sent_a_second:.0f} requests a second")
            report.claim(load.deployments["green"] > 0, "green answered nothing")
            if way != ways[-1]:
                there.deploy(name, "blue", "--traffic", 0, text="I am blue")
                run("endpoint", "traffic", name, "blue=100", "green=0")
                run("endpoint", "delete", name, "--deployment", "green")
    if full:
        _with_a_model(there, report)
    return report


def _with_a_model(there: World, report: Report) -> None:
    """The same with SmolLM2 on the CPU, which takes its time."""
    model = str(next(there.models.glob("smollm2*"), ""))
    report.claim(bool(model), f"there is no SmolLM2 in {there.models}")
    if not model:
        return
    with endpoint(there, "paced") as name:
        there.deploy(name, "blue", "--engine", "torch", model=model, at_once=8)
        there.deploy(name, "green", "--engine", "torch", "--traffic", 0, model=model, at_once=8)
        with Load(there.ask(name, max_tokens=4), rate=1.5) as load:
            _moved(report, load, 15, by_cli, limit=math.inf)
            run("endpoint", "delete", name, "--deployment", "blue")
            load.wait_for(10)
        _judge(report, load, "SmolLM2")
        report.claim(load.deployments["green"] > 0, "green answered nothing")


def _judge(report: Report, load: Load, way: str) -> None:
    report.figures[f"{way}: requests"] = len(load.answers)
    report.figures[f"{way}: requests a second"] = round(load.sent_a_second, 1)
    report.figures[f"{way}: streams"] = sum(answer.is_stream for answer in load.answers)
    report.figures[f"{way}: failed"] = len(load.failed)
    report.faults += [f"{way}: {fault}" for fault in load.faults()]


def _moved(
    report: Report,
    load: Load,
    requests: int,
    move: Callable[[str, Mapping[str, int]], None],
    limit: float = EFFECTIVE,
) -> None:
    """Move the traffic step by step; a conversation that has to move says when it is so."""
    load.wait_for(requests)
    ask, slowest = load.ask, (0.0, 0.0)
    for before, after in itertools.pairwise(STEPS):
        old, new = ({"blue": blue, "green": green} for blue, green in (before, after))
        moving = replace(ask, headers={"x-conversation-id": conversation(ask.model, old, new)})
        with _probed(moving) as probe:
            until(lambda probe=probe: len(probe.answers) > 0, "an answer before the move")
            begun = time.monotonic()
            move(ask.model, new)
            returned = time.monotonic()
            until(lambda probe=probe: probe.now == "green", f"green at {after}")
        report.faults += [f"a moving conversation: {one.fault}" for one in probe.failed]
        last = max(a.sent for a in probe.answers if a.deployment == "blue")
        took = (max(0.0, last - returned), probe.first("green") - begun)
        report.claim(took[0] < limit, f"{after} held {took[0]:.2f} s after the call's return")
        slowest = (max(slowest[0], took[0]), max(slowest[1], took[1]))
        load.wait_for(requests)
    name = "CLI" if move is by_cli else "SDK"
    held = f"{ask.model}: new shares hold after the {name}'s"
    report.figures[f"{held} return, s, at most"] = round(slowest[0], 3)
    report.figures[f"{held} start, s, at most"] = round(slowest[1], 3)


def by_cli(name: str, shares: Mapping[str, int]) -> None:
    """`finery endpoint traffic`."""
    run("endpoint", "traffic", name, *(f"{one}={share}" for one, share in shares.items()))


@functools.cache
def sdk() -> Any:
    """The client of a program that uses azure-ai-ml, which takes seconds to load."""
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

    return MLClient(DefaultAzureCredential(), "test_subscription", "finery", "finery")


def by_sdk(name: str, shares: Mapping[str, int]) -> None:
    """azure-ai-ml, as its users move traffic."""
    client = sdk()
    one = client.online_endpoints.get(name)
    one.traffic = dict(shares)
    client.begin_create_or_update(one).result()


WAYS = {"cli": by_cli, "sdk": by_sdk}


def conversation(name: str, before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """The id of a conversation that goes from blue to green with these shares."""

    def table(shares: Mapping[str, int]) -> Table:
        behind = {one: SimpleNamespace(name=one) for one in shares}
        about = SimpleNamespace(name=name, traffic=shares)
        return Table(cast("Any", about), cast("Any", behind), {})

    for number in itertools.count():
        given = f"conversation {number}"
        if [choose(table(s), conversation=given).name for s in (before, after)] == [
            *("blue", "green")
        ]:
            return given
    raise AssertionError


@dataclass
class _Probe:
    answers: list[Answer] = field(default_factory=list)

    @property
    def now(self) -> str:
        return self.answers[-1].deployment

    @property
    def failed(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.fault]

    def first(self, deployment: str) -> float:
        return next(one.sent for one in self.answers if one.deployment == deployment)


@contextmanager
def _probed(ask: Ask) -> Iterator[_Probe]:
    """The same conversation again and again, one request at a time."""
    probe, end = _Probe(), threading.Event()

    async def go() -> None:
        async with aiohttp.ClientSession() as session:
            for number in itertools.count():
                if end.is_set():
                    return
                one = await asked(session, ask, f"probe-{number}", is_stream=False)
                probe.answers.append(one)

    thread = threading.Thread(target=lambda: asyncio.run(go()), daemon=True)
    thread.start()
    try:
        yield probe
    finally:
        end.set()
        thread.join(60)


def shares(there: World, *, full: bool) -> Report:
    """A tenth of the requests goes where a tenth is said to go; a mirror answers nobody.

    10,000 requests in the full form, of which 10 ± 1.2 % reach the new deployment.
    """
    count = 10_000 if full else 1_000
    report = Report()
    with endpoint(there, "shared") as name:
        there.deploy(name, "blue", at_once=200, text="I am blue")
        there.deploy(name, "green", "--traffic", 0, at_once=200, text="I am green")
        there.deploy(name, "shadow", "--traffic", 0, at_once=200, text=MIRROR)
        run("endpoint", "traffic", name, "blue=90", "green=10", "--mirror", "shadow=50")
        with Load(there.ask(name, max_tokens=40), rate=500, most=count, at_once=32) as load:
            load.join()
        copies = _settled(lambda: _mirrored(there, name))
    report.faults += load.faults()
    share = 100 * load.deployments["green"] / count
    off = _off(10, count)
    report.claim(abs(share - 10) <= off, f"{share:.2f} % went to green, 10 ± {off:.1f} were due")
    said = Counter(answer.text for answer in load.answers)
    report.claim(MIRROR not in said, f"{said[MIRROR]} callers got the mirror's answer")
    report.claim(set(said) == {"I am blue", "I am green"}, f"what callers got: {set(said)}")
    report.claim(load.deployments["shadow"] == 0, "the mirror answered callers")
    copied, off = 100 * copies / count, _off(50, count)
    report.claim(abs(copied - 50) <= off, f"{copied:.1f} % were copied, 50 ± {off:.1f} were due")
    report.figures |= {
        "requests": count,
        "% to the deployment with 10 %": share,
        "% copied to the mirror with 50 %": copied,
        "mirror's answers that callers got": said[MIRROR],
    }
    return report


def _off(percent: float, count: int) -> float:
    """Points by which a share of so many draws may be off."""
    part = percent / 100
    return SIGMAS * 100 * math.sqrt(part * (1 - part) / count)


def _settled(number: Callable[[], int]) -> int:
    """What a number is once it has grown and then stood still: logs are written a little later."""
    seen = [0, 0]
    while not (seen[-1] and seen[-1] == seen[-2]):
        until(lambda: number() > 0, "a line in the log")
        time.sleep(1.5)
        seen.append(number())
    return seen[-1]


def _mirrored(there: World, name: str) -> int:
    """Copies that the endpoint's log tells of, those included for which no place was free."""
    path = there.service.folder / "logs" / "endpoints" / f"{name}.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return sum('"mirrored": true' in line or '"mirrored":true' in line for line in lines)


CANARIES = {
    "5 % errors": ({"fail": 0.05}, "RolledBack", "error_rate"),
    "twice as slow": ({"first": 0.4}, "RolledBack", "latency_p95"),
    "good": ({}, "Succeeded", ""),
}


def canaries(there: World, *, full: bool) -> Report:
    """Real canaries: bad ones are rolled back, a good one gets all the traffic.

    Five seeds of each in the full form; fifty simulated ones of each are in
    tests/unit/endpoints/test_endpoint_canary.py. On a crowded machine one process may stand still
    for a while, and its answers are late together, which the test takes for proof: there a good
    canary that is rolled back is told of and not judged.
    """
    report = Report()
    for kind, (manner, end, guard) in CANARIES.items():
        requests = []
        for seed in range(5 if full else 1):
            name = f"canary-{seed}"
            with endpoint(there, name):
                there.deploy(name, "blue", first=0.2)
                green = {"first": 0.2, "seed": seed, **manner}
                there.deploy(name, "green", "--traffic", 0, **green)
                begun = ("--to", "green", "--steps", "50,100", "--min-requests", 100)
                told("endpoint", "canary", name, *begun)
                with Load(there.ask(name), rate=60):
                    until(lambda name=name: _ended(name), f"{kind}: an end", every=0.5)
                found = _canary(name)
                right = found["state"] == end and guard in found["reason"]
                if not right and not guard and crowding() > CROWDED:
                    report.figures[f"{kind}, seed {seed}, not judged"] = found["reason"]
                    continue
                report.claim(right, f"{kind}, seed {seed}: {found['state']}, {found['reason']}")
                shares = {"blue": 0, "green": 100} if end == "Succeeded" else {"blue": 100}
                now = {one: n for one, n in there.traffic(name).items() if n or one in shares}
                report.claim(now == shares, f"{kind}, seed {seed}: the traffic is {now}")
                requests.append(found["answered"])
        report.figures[f"{kind}: {end}, trials"] = len(requests)
    return report


def _ended(name: str) -> bool:
    return _canary(name)["state"] != "Running"


def _canary(name: str) -> dict[str, Any]:
    return told("endpoint", "canary", name, "--status")
