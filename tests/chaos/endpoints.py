"""Endpoints under load, deaths and odd requests: what they promise, shown on real processes.

    python -m tests.chaos.endpoints                        # all of it; half an hour
    python -m tests.chaos.endpoints --proofs fuzz,shares --short

switches   traffic 0, 10, 50, 100 % to a new deployment under load, the old one deleted: none fails
shares     10,000 requests land as the shares say; a mirror answers nobody
replicas   a replica killed every second: 99.9 % answered, nothing begun twice after a first token
service    the service killed under streams: none is cut, and it is back within three seconds
canaries   bad ones are rolled back, good ones are not
fuzz       200 cases an operation of the endpoint's OpenAPI document: no 5xx
operations the same for the service's REST API
secrets    after all of that: no key of an endpoint or a replica in any log
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from endpoints_deaths import killed_replicas, killed_service
from endpoints_fuzz import fuzzed, fuzzed_service
from endpoints_switches import blue_green, canaries, shares
from endpoints_world import Report, World, crowding, endpoint, run, told, world

from finery.errors import FineryError

Proof = Callable[..., Report]  # (world, *, full)


def secrets(there: World, *, full: bool) -> Report:
    """No key in any log: of endpoints, of replicas, replaced ones and wrong ones too."""
    report = Report()
    with endpoint(there, "secret") as name:
        there.deploy(name, "blue", text="I am blue")
        run("endpoint", "test", name, "--message", "Hello")
        there.keep_secrets()
        run("endpoint", "rotate", name, "--key", "both")
        told("endpoint", "keys", name)
        there.keep_secrets()
        logs = there.logs()
        texts = {path: path.read_bytes() for path in logs}
        found = [
            f"{path.relative_to(there.server.home)} holds a key"
            for path, text in texts.items()
            if any(secret.encode() in text for secret in there.seen)
        ]
    report.claim(len(logs) >= 4, f"only these logs are there: {logs}")
    report.claim(len(there.seen) >= 5, f"only {len(there.seen)} keys are known")
    report.faults += found
    report.figures |= {
        "logs": len(logs),
        "bytes": sum(map(len, texts.values())),
        "keys": len(there.seen),
        "found": len(found),
    }
    return report


PROOFS: dict[str, Proof] = {
    "switches": blue_green,
    "shares": shares,
    "replicas": killed_replicas,
    "service": killed_service,
    "canaries": canaries,
    "fuzz": fuzzed,
    "operations": fuzzed_service,
    "secrets": secrets,  # last: it looks at the logs of all the others
}


def prove(there: World, name: str, *, full: bool) -> bool:
    """Run a proof and print what it found; whether it holds."""
    began = time.monotonic()
    try:
        report = PROOFS[name](there, full=full)
    except (AssertionError, FineryError) as error:  # the other proofs are to be seen too
        report = Report(faults=[f"{type(error).__name__}: {error}"])
    print(f"{name}: {time.monotonic() - began:.0f} s, {crowding():.1f} processes for each core")
    for what, figure in report.figures.items():
        print(f"  {what}: {figure}")
    for fault in report.faults:
        print(f"  FAULT: {fault}")
    sys.stdout.flush()
    return not report.faults


def main(arguments: list[str] | None = None) -> int:
    """Prove what is asked for; 1 when something does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--proofs", default=",".join(PROOFS), help="some of them, by commas")
    parser.add_argument("--short", action="store_true", help="the forms that the suite runs")
    given = parser.parse_args(arguments)
    names = given.proofs.split(",")
    if unknown := set(names) - set(PROOFS):
        parser.error(f"There is no proof {', '.join(sorted(unknown))}.")
    with tempfile.TemporaryDirectory(prefix="finery-chaos-") as folder, world(Path(folder)) as it:
        held = [prove(it, name, full=not given.short) for name in names]
    print("everything holds" if all(held) else "something does not hold")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
