"""What the studio's pages cost the server when the workspace is full.

    python benchmarks/run.py studio [--jobs 10000] [--runs 1000] [--points 10000] [--json FILE]

A service of its own in a temporary folder, filled as the studio's tests fill theirs: plain jobs,
and runs whose training logged so many points each (2 GB of temporary disk). Every page is then
asked for over HTTP, one request at a time, first cold and then ROUNDS times; the figure is the
median from the request to the whole answer. The bars are 100 ms a page and 150 KB for all that
the first page loads, packed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from measure import OthersCpu, machine
from rich import box
from rich.console import Console
from rich.table import Table

from finery.service.run import database_url
from finery.service.running import running_service as service_of
from finery.workspace import identity, store
from finery.workspace.place import Workspace
from finery.workspace.settings import load_settings, service_folder
from service import running_service

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit" / "studio"))

BAR_MS, BAR_BYTES = 100.0, 150_000
COMPARED, CONNECTIONS = 100, 6  # runs in a comparison; requests a browser has under way
RUN = "run-0000"
PAGES = {
    "home": "",
    "home, what changes": "now",
    "jobs": "jobs",
    "jobs, searched": "jobs?q=number+11",
    "jobs, a state": "jobs?state=failed",
    "jobs, an experiment": "jobs?experiment=group-3",
    "compare, nothing chosen": "compare",
    "run": f"jobs/{RUN}",
    "run, what changes": f"jobs/{RUN}/state",
    "run, result": f"jobs/{RUN}/result",
    "run, lineage": f"jobs/{RUN}/details",
    "run, log": f"jobs/{RUN}/log",
    "run, log searched": f"jobs/{RUN}/log/search?file=logs/azureml/executionlogs.txt&q=99999",
    "run, curves": f"jobs/{RUN}/metrics",
    "models": "models",
    "model": "models/model-0000",
    "data": "data",
    "data asset": "data/set-0000",
    "fine-tune": "fine-tune",
    "endpoints": "endpoints",
    "chat": "chat",
}


def main(arguments: Sequence[str]) -> int:
    """Fill, ask, print, write; 1 when a page misses its bar."""
    parser = argparse.ArgumentParser(description="The studio's pages with a full workspace.")
    parser.add_argument("--jobs", type=int, default=10_000, help="plain jobs")
    parser.add_argument("--runs", type=int, default=1_000, help="runs with curves")
    parser.add_argument("--points", type=int, default=10_000, help="of each curve")
    parser.add_argument("--assets", type=int, default=200, help="models, and data assets")
    parser.add_argument("--log-lines", type=int, default=200_000, help="in the log of a run")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="where every number goes")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 100)
    with running_service({}) as _:
        fill(options)
        client = signed_in()
        others = OthersCpu()
        found = {name: timed(client, place, options.rounds) for name, place in PAGES.items()}
        chosen = [f"run-{number:04d}" for number in range(min(COMPARED, options.runs))]
        place = "compare?" + "&".join(f"run={name}" for name in chosen)
        found[f"compare of {len(chosen)}"] = timed(client, place, options.rounds)
        curves = all_curves(client, chosen)
        weight = first_page(client)
        busy = others.cores()
    show(console, found, curves, weight, len(chosen))
    console.print(f"Others kept {busy:.2f} cores busy.")
    late = [name for name, one in found.items() if one["ms"] > BAR_MS]
    if options.json:
        told = {k: v for k, v in vars(options).items() if k != "json"}
        whole: dict[str, Any] = {"machine": machine(), "settings": told, "pages": found}
        whole |= {"curves": curves, "first_page": weight, "others_cores": busy}
        options.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return 1 if late or sum(weight.values()) > BAR_BYTES else 0


def fill(options: argparse.Namespace) -> None:
    """Jobs, runs with their curves and logs, models and data."""
    made: Any = importlib.import_module("studio_store")  # of the tests
    folder = service_folder()
    settings = load_settings(folder)
    workspace = Workspace(folder, settings, store.connect(database_url(folder, settings)))
    curve = folder / "curve.jsonl"
    made.write_metrics(folder, made.metric_rows(options.points))
    (folder / "metrics.jsonl").rename(curve)
    for number in range(options.runs):
        steps = made.put_run(workspace, f"run-{number:04d}", settings={"seed": str(number)})
        training = made.training_folder(workspace, steps)
        shutil.copyfile(curve, training / "metrics.jsonl")
        (training / "plan.json").write_text(json.dumps({"total_steps": options.points}))
    made.put_many(workspace, options.jobs)
    for number in range(options.assets):
        made.put_model(workspace, f"model-{number:04d}", RUN)
        row = json.dumps({"messages": [{"role": "user", "content": "When does it leave?"}]})
        made.put_data(workspace, f"set-{number:04d}", "rows.jsonl", f"{row}\n" * 1000)
    lines = (f"12:00:00 step {number}, loss 1.23\n" for number in range(options.log_lines))
    made.write_log(workspace, RUN, "".join(lines), pipeline=True)
    workspace.store.engine.dispose()


def signed_in() -> httpx.Client:
    """A browser with a session."""
    folder = service_folder()
    running = service_of(folder)
    assert running is not None
    workspace = Workspace(folder, load_settings(folder), store.connect("sqlite://"))
    client = httpx.Client(base_url=running.http_url, timeout=120, trust_env=False)
    client.headers["accept-encoding"] = "gzip"
    signature = identity.sign_query(workspace, identity.LOGIN, identity.HALF_A_DAY)
    client.get(f"{identity.LOGIN}?{signature}&next=/studio/")
    return client


def timed(client: httpx.Client, place: str, rounds: int) -> dict[str, Any]:
    """Milliseconds of a page: the first time, and the median afterwards; its packed bytes."""
    times, answers = [], []
    for _ in range(rounds + 1):
        before = time.perf_counter()
        answers.append(client.get(f"/studio/{place}"))
        times.append(1000 * (time.perf_counter() - before))
    answer = answers[-1]
    assert answer.status_code in (200, 404), (place, answer.status_code, answer.text)
    sent = int(answer.headers.get("content-length", 0))
    return {
        "status": answer.status_code,
        "cold_ms": round(times[0], 1),
        "ms": round(statistics.median(times[1:]), 1),
        "worst_ms": round(max(times[1:]), 1),
        "bytes": sent,
    }


def all_curves(client: httpx.Client, names: Sequence[str]) -> dict[str, float]:
    """Seconds until a comparison has every run's curves, the first time and again."""

    def ask(name: str) -> int:
        answer = client.get(f"/studio/jobs/{name}/metrics")
        assert answer.json()["series"], name
        return int(answer.headers["content-length"])

    found: dict[str, float] = {}
    for turn in ("cold_s", "again_s"):
        before = time.perf_counter()
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            found["bytes"] = sum(pool.map(ask, names))
        found[turn] = round(time.perf_counter() - before, 3)
    return found


def first_page(client: httpx.Client) -> dict[str, int]:
    """Packed bytes of all that a browser loads to show Home for the first time."""
    page = client.get("/studio/")
    found = {"the page": int(page.headers["content-length"])}
    for address in re.findall(r'(?:src|href)="(/studio/static/[^"]+)"', page.text):
        answer = client.get(address)
        found[address.rpartition("/")[2]] = int(answer.headers["content-length"])
    return found


def show(
    console: Console,
    found: dict[str, dict[str, Any]],
    curves: dict[str, float],
    weight: dict[str, int],
    compared: int,
) -> None:
    """The table, and what is not a page."""
    table = Table(title="Milliseconds of the server, one request at a time", box=box.SIMPLE_HEAD)
    table.add_column("page", no_wrap=True)
    for column in ("median", "worst", "first", "KB packed"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, one in found.items():
        if one["status"] == 404:
            continue
        late = " !" if one["ms"] > BAR_MS else ""
        cells = (f"{one['ms']:.1f}{late}", f"{one['worst_ms']:.1f}", f"{one['cold_ms']:.1f}")
        table.add_row(name, *cells, f"{one['bytes'] / 1000:.1f}")
    console.print(table)
    console.print(
        f"Curves of {compared} runs: {curves['cold_s']:.2f} s, again {curves['again_s']:.2f} s, "
        f"{curves['bytes'] / 1000:,.0f} KB. First page with all it loads: "
        f"{sum(weight.values()) / 1000:.1f} KB of {BAR_BYTES / 1000:.0f}."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
