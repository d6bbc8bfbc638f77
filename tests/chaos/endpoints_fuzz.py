"""What an OpenAPI document allows, and what it forbids, sent by Schemathesis.

https://schemathesis.readthedocs.io: positive cases fit the document, negative ones break it at one
place. Neither may be a fault of ours: a status of 500 and above, at any route, fails.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, cast

from endpoints_world import Report, World, endpoint, world

from finery.azureml.asset_bodies import KINDS
from finery.cli.client import PROVIDER
from finery.service.app import create_app
from finery.service.certificates import files_in
from finery.workspace import identity

EVERY = ("--phases", "examples,coverage,fuzzing")  # coverage is each rule of the document broken
SOME = ("--phases", "examples,fuzzing")
PLACES = {  # in a path
    **{"sub": "s", "rg": "finery", "ws": "finery", "reg": "azureml"},
    **{"experiment": "Default", "location": "local"},
}
_PLACE = re.compile("{(" + "|".join(PLACES) + ")}")


def fuzzed(there: World, *, full: bool) -> Report:
    """Every operation of the document, through the gateway: 10 cases each, 200 in the full form."""
    report = Report()
    with endpoint(there, "fuzzed") as name:
        there.deploy(name, "blue", text="I am blue")
        ask = there.ask(name)
        base = ask.address.removesuffix("/v1")
        how = (*EVERY, "--max-examples", "200" if full else "10")
        ended = schemathesis(f"{base}/swagger.json", base, ask.key, there.server.home, *how)
    return _judged(report, ended)


def fuzzed_service(there: World, *, full: bool) -> Report:
    """Every operation of the service's REST API: 3 cases each, 200 in the full form.

    The service publishes no document; one is made of its routes. It is a service of the proof's
    own, as odd requests may leave endpoints and assets of odd names.
    """
    report = Report()
    with world(there.server.home / "operations") as it:
        place = it.server.home / "operations.json"
        place.write_text(json.dumps(document()), "utf-8")
        token = identity.mint(it.server.workspace, identity.FINERY, seconds=12 * 3600)
        trust = str(files_in(it.service.folder / "certificates").authority)
        phases = EVERY if full else SOME
        how = (*phases, "--max-examples", "200" if full else "3", "--tls-verify", trust)
        ended = schemathesis(str(place), it.service.url, token, it.server.home, *how)
        log = it.service.log
    report.claim("Traceback" not in log, log[log.find("Traceback") :][:3000])
    return _judged(report, ended)


def document() -> dict[str, Any]:
    """The operations on a workspace and a registry, as OpenAPI, the places in Azure's tree filled.

    What is left out: the blobs and MLflow, which are others' APIs, and the pages.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of operations that are there once for each method
        made = create_app(cast("Any", None)).openapi()
    paths = {}
    for path, item in made["paths"].items():
        if PROVIDER in path:
            filled = _PLACE.sub(lambda one: PLACES[one[1]], path)
            for operation in item.values():
                given = operation.get("parameters", [])
                operation["parameters"] = [one for one in given if one["name"] not in PLACES]
                for one in operation["parameters"]:
                    if one["name"] in ("kind", "plural"):
                        one["schema"] = {"enum": sorted(KINDS)}
                operation.pop("operationId", None)
            paths[filled] = item
    return {**made, "paths": paths}


def schemathesis(
    place: str, base: str, key: str, folder: Path, *more: str
) -> subprocess.CompletedProcess[str]:
    """Send what the document at `place` says to `base`, the same cases every time."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", place),
            *("--url", base, "--header", f"Authorization: Bearer {key}"),
            *("--checks", "no_fault_of_ours", "--mode", "all", "--generation-deterministic"),
            *("--continue-on-failure", "--no-color", "--request-timeout", "60"),
            *("--warnings", "off", *more),
        ],
        cwd=folder,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "fuzz_checks", "PYTHONPATH": _with_checks()},
        capture_output=True,
        text=True,
        timeout=3000,
    )


def _with_checks() -> str:
    """Where Python finds the check, and what it finds elsewhere."""
    return os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))


def _judged(report: Report, ended: subprocess.CompletedProcess[str]) -> Report:
    """With what it says of its run."""
    said = ended.stdout + ended.stderr
    at = max(said.find("= FAILURES ="), said.find("= ERRORS ="), 0)
    report.claim(ended.returncode == 0, said[at:][:6000])
    report.figures["cases"] = _figure(r"(\d+) generated", said)
    report.figures["operations"] = _figure(r"Tested: (\d+)", said)
    return report


def _figure(pattern: str, said: str) -> int:
    found = re.search(pattern, said)
    return int(found[1]) if found else 0
