"""What the service itself costs: starting a step, listing jobs, the walkthrough beside its work.

    python benchmarks/run.py service --mirror MIRROR --walkthrough walkthrough.py

MIRROR is a folder laid out organisation/name/ with the model and the dataset that the
walkthrough asks for; without these two the last measurement is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from measure import OthersCpu, machine, spread

from finery.cli.client import Service, connect
from finery.cli.job_file import submit
from finery.cli.job_files import ENDED, details
from finery.jobs.tables import jobs
from finery.service.run import database_url
from finery.workspace import store
from finery.workspace.settings import load_settings, service_folder

BINARIES = Path(sys.executable).parent
FINERY = str(BINARIES / "finery")
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
# Steps whose time is the user's own work: what a training without any service costs too.
WORK = (
    "Chat Completion DataPreProcess",
    "Chat Completion Finetune",
    "Chat Completion Evaluation",
)


def main(arguments: Sequence[str]) -> int:
    """Measure, print a table, write JSON."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--mirror", type=Path)
    options.add_argument("--walkthrough", type=Path)
    options.add_argument("--jobs", type=int, default=10_000, help="how many jobs are listed")
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--json", type=Path, help="where every number goes")
    asked = options.parse_args(arguments)
    others = OthersCpu()
    with running_service({"FINERY_HUB_MIRROR": str(asked.mirror or "")}) as started:
        found: dict[str, Any] = {"service_start_s": [started]}
        service = connect()
        found["submit_to_running_s"] = [first_step(service) for _ in range(asked.rounds)]
        if asked.walkthrough and asked.mirror:
            found |= walkthrough(service, asked.walkthrough.resolve())
        fill(asked.jobs)
        found["first_page_s"] = [page(service) for _ in range(asked.rounds)]
        found["all_pages_s"] = [every_page(service, asked.jobs)]
    for name, values in found.items():
        print(f"{name:<24}{spread(values, 3)}")
    print(f"others kept {others.cores():.2f} cores busy")
    if asked.json:
        whole = {"machine": machine(), "jobs": asked.jobs, "seconds": found}
        asked.json.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    return 0


@contextlib.contextmanager
def running_service(more: Mapping[str, str]) -> Iterator[float]:
    """A service of the benchmark's own, which ends with it; how long it took to answer."""
    with tempfile.TemporaryDirectory() as home:
        path = f"{BINARIES}{os.pathsep}{os.environ['PATH']}"
        os.environ |= {"FINERY_HOME": home, "PATH": path, "HF_HUB_OFFLINE": "1", **more}
        before = time.perf_counter()
        subprocess.run([FINERY, "up", "--port=0", "--http-port=0"], check=True, stdout=2)
        try:
            yield time.perf_counter() - before
        finally:
            subprocess.run([FINERY, "down"], check=True, stdout=2)


def first_step(service: Service) -> float:
    """Seconds from submitting a command job to its process running."""
    about = {
        "jobType": "Command",
        "command": "sleep 1",
        "environmentId": environment(service),
        "experimentName": "benchmark",
        "inputs": {},
        "outputs": {},
    }
    before = time.perf_counter()
    name = submit(service, about, "", "sleep")["name"]
    while (status := details(service, name)["status"]) not in ("Running", *ENDED):
        time.sleep(0.01)
    took = time.perf_counter() - before
    while status not in ENDED:
        time.sleep(0.05)
        status = details(service, name)["status"]
    assert status == "Completed", status
    return took


def environment(service: Service) -> str:
    """An environment to name; finery runs every job in its own."""
    names = ("environments", "plain", "versions", "1")
    service.ask("PUT", *names, body={"properties": {"image": "python"}})
    return f"{service.workspace}/{'/'.join(names)}"


def walkthrough(service: Service, script: Path) -> dict[str, list[float]]:
    """The whole script's time, and what is left of it without tokenising, training, evaluating
    and generating: imports of the SDK and of the steps, uploads, waits, the replica's start.
    """
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(EXAMPLES / "download-dataset.py", folder)
        before = time.perf_counter()
        command = [FINERY, "exec", "--", "python", str(script)]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        took = time.perf_counter() - before
    job = next(iter(service.items("jobs")))
    steps = details(service, job["name"], "children")["value"]
    working = [step for step in steps if step["displayName"] in WORK]
    assert len(working) == len(WORK), [step["displayName"] for step in steps]
    inside = sum(seconds(step) for step in working)
    work = sum(busy(service, step) for step in working)
    answering = answered()
    return {
        "walkthrough_s": [took],
        "walkthrough_pipeline_s": [seconds(details(service, job["name"]))],
        "walkthrough_work_s": [work],
        "walkthrough_answering_s": [answering],
        "steps_start_and_end_s": [inside - work],
        "walkthrough_overhead_s": [took - work - answering],
    }


def answered() -> float:
    """Seconds in which the endpoint generated, by the gateway's own record."""
    logs = (service_folder() / "logs" / "endpoints").glob("*.jsonl")
    lines = [json.loads(line) for log in logs for line in log.read_text("utf-8").splitlines()]
    return sum(line["ms"] for line in lines) / 1000


def busy(service: Service, step: Mapping[str, Any]) -> float:
    """Seconds between a step's first and last own log line: without imports, start and end."""
    url = details(service, step["runId"])["logFiles"]["user_logs/std_log.txt"]
    text = service.send(service.http.build_request("GET", url)).text
    clock = re.findall(r"^([0-9]{2}):([0-9]{2}):([0-9]{2}) ", text, re.M)
    first, *_, last = (int(h) * 3600 + int(m) * 60 + int(s) for h, m, s in clock)
    return (last - first) % 86_400


def seconds(run: Mapping[str, Any]) -> float:
    """How long a run took."""
    start, end = (datetime.fromisoformat(run[key]) for key in ("startTimeUtc", "endTimeUtc"))
    return (end - start).total_seconds()


def fill(count: int) -> None:
    """Copies of the newest job until there are `count`."""
    folder = service_folder()
    place = store.connect(database_url(folder, load_settings(folder)))
    with place.write() as connection:
        newest = jobs.select().where(jobs.c.parent == "").order_by(jobs.c.seq.desc()).limit(1)
        row = dict(connection.execute(newest).mappings().one())
        del row["seq"]
        names = (str(uuid.uuid4()) for _ in range(count))
        connection.execute(jobs.insert(), [row | {"name": name, "root": name} for name in names])
    place.engine.dispose()


def page(service: Service) -> float:
    """Seconds of the first page of the list of jobs."""
    before = time.perf_counter()
    assert service.get("jobs")["value"]
    return time.perf_counter() - before


def every_page(service: Service, count: int) -> float:
    """Seconds of the whole list."""
    before = time.perf_counter()
    assert sum(1 for _ in service.items("jobs")) >= count
    return time.perf_counter() - before


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
