"""`finery job`: fine-tuning jobs and other pipelines that the service runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from finery.cli.client import Service, connect
from finery.cli.job_files import ENDED, details, download_job, follow
from finery.cli.tables import AsJson, lasted, moment, print_facts, print_json, print_table, say
from finery.errors import FineryError

app = typer.Typer(no_args_is_help=True, help="Jobs that the service runs, and what they leave.")

Name = Annotated[str, typer.Argument(help="The name of a job.")]


@app.command()
def create(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A recipe, or a job in Azure ML's YAML."),
    ],
    name: Annotated[str, typer.Option(help="A name of your own; must be new.")] = "",
    experiment: Annotated[str, typer.Option(help="The experiment it belongs to.")] = "",
    compute: Annotated[str, typer.Option(help="The compute its steps ask for.")] = "",
    stream_log: Annotated[bool, typer.Option("--stream", help="Follow it to its end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start a job from a recipe or from a job in Azure ML's YAML.

    Files of this machine that it reads are put into the workspace first. A job with the same
    name and content is not started twice.
    """
    from finery.cli.job_file import job_body, submit

    service = connect()
    body = job_body(service, file, experiment, compute)
    job = submit(service, body, name, file.stem)
    if not as_json:
        say(f"The job {job['name']} is on its way. `finery job stream {job['name']}` follows it.")
    if stream_log:
        job = _follow(service, job["name"], quiet=as_json)
    _print(service, job, as_json=as_json)


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, help="How many, from the newest.")] = 20,
    experiment: Annotated[str, typer.Option(help="Of this experiment alone.")] = "",
    archived: Annotated[bool, typer.Option("--archived", help="Archived ones instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first."""
    query = {"listViewType": "ArchivedOnly" if archived else "ActiveOnly"}
    found = []
    for job in connect().items("jobs", **query):
        if experiment in ("", job["properties"].get("experimentName")):
            found.append(job)
        if len(found) == limit:
            break
    if as_json:
        print_json(found)
        return
    columns = ("name", "type", "status", "created", "experiment", "display name")
    print_table(columns, [_row(job) for job in found], "There are no jobs.")


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show a job: its state, its steps, what it reads and leaves."""
    service = connect()
    _print(service, service.get("jobs", name), as_json=as_json)


@app.command()
def stream(name: Name, as_json: AsJson = False) -> None:
    """Follow the log of a job to its end; a job that fails is an error here too."""
    service = connect()
    job = _follow(service, name, quiet=as_json)
    if as_json:
        print_json(job)


@app.command()
def cancel(name: Name, as_json: AsJson = False) -> None:
    """Stop a job; what its finished steps wrote stays."""
    service = connect()
    service.ask("POST", "jobs", name, "cancel")
    job = service.get("jobs", name)
    status = job["properties"]["status"]
    ended = status in ENDED
    say(f"The job {name} is {status} already." if ended else f"The job {name} is asked to stop.")
    if as_json:
        print_json(job)


@app.command()
def download(
    name: Name,
    output: Annotated[str, typer.Option(help="One output alone, by its name.")] = "",
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Where to; a folder named like the job if not.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Copy the outputs and logs of a job into a folder."""
    files = download_job(connect(), name, output, folder or Path(name))
    if as_json:
        print_json({"name": name, "files": [str(path) for path in files]})
        return
    for path in files:
        typer.echo(path)


def _follow(service: Service, name: str, *, quiet: bool) -> dict[str, Any]:
    job = follow(service, name, (lambda text: None) if quiet else _write)
    status = job["properties"]["status"]
    if status != "Completed":
        reason = _error(service, name)
        raise FineryError(f"The job {name} ended as {status}. {reason}".rstrip())
    return job


def _write(text: str) -> None:
    from finery.evaluation.markup import plain

    typer.echo(plain(text), nl=False)


def _error(service: Service, name: str) -> str:
    found = details(service, name)
    if found["status"] not in ENDED:  # who looks first sees an ended job finalizing
        found = details(service, name)
    error = found.get("error") or {}
    return str((error.get("error") or error).get("message") or "")


def _row(job: dict[str, Any]) -> tuple[Any, ...]:
    about = job["properties"]
    created = moment((job.get("systemData") or {}).get("createdAt"))
    kind, status = about.get("jobType"), about.get("status")
    return (
        *(job["name"], kind, status, created),
        *(about.get("experimentName"), about.get("displayName")),
    )


def _print(service: Service, job: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(job)
        return
    names = ("name", "type", "status", "created", "experiment", "display name")
    about = job["properties"]
    facts = dict(zip(names, _row(job), strict=True))
    facts |= {"description": about.get("description"), "tags": about.get("tags")}
    facts |= {
        f"output {name}": one.get("uri") for name, one in (about.get("outputs") or {}).items()
    }
    if about.get("status") in ("Failed", "Canceled"):
        facts["error"] = _error(service, job["name"])
    print_facts(facts)
    if about.get("jobType") == "Command":
        return
    steps = details(service, job["name"], "children").get("value", [])
    rows = [
        (
            *(step.get("displayName"), step.get("status"), moment(step.get("startTimeUtc"))),
            *(lasted(step.get("startTimeUtc"), step.get("endTimeUtc")), step["runId"]),
        )
        for step in steps
    ]
    typer.echo()
    print_table(("step", "status", "started", "took", "job"), rows, "It has no steps yet.")
