"""A workspace on an empty store, and jobs that really run in it."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from finery.jobs import durable, records, service  # noqa: F401 - the tables of jobs
from finery.jobs.capacity import Machine
from finery.jobs.job import Job
from finery.jobs.runtime import Runtime
from finery.jobs.spec import Binding, JobSpec, Output, StepOutput, StepSpec, Value
from finery.workspace.migrations import migrate
from finery.workspace.place import Workspace
from finery.workspace.settings import Settings
from finery.workspace.store import connect

MACHINE = Machine(cores=4)


def new_workspace(folder: Path, database: str = "") -> Workspace:
    """A workspace in `folder`, on a database or on SQLite in it."""
    folder.mkdir(parents=True, exist_ok=True)
    store = connect(database or f"sqlite:///{folder / 'finery.sqlite'}")
    migrate(store)
    return Workspace(folder, Settings(database_url=database), store)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """A workspace in which nothing runs."""
    made = new_workspace(tmp_path / "service")
    yield made
    made.store.engine.dispose()


@dataclass(frozen=True)
class Server:
    """Jobs that run, and what tests do with them."""

    workspace: Workspace
    runtime: Runtime

    def run(self, *steps: StepSpec, **more: object) -> Job:
        """Submit a pipeline and wait for its end."""
        return self.ended(self.submit(*steps, **more).name)

    def submit(self, *steps: StepSpec, **more: object) -> Job:
        """Submit a pipeline; a single step without a path is a command job."""
        kind = "pipeline" if steps[0].path else "command"
        given = {"name": f"job-{uuid.uuid4().hex[:12]}", "type": kind} | more
        return service.submit(self.workspace, JobSpec(steps=steps, **given))  # pyright: ignore

    def ended(self, name: str) -> Job:
        """The job, once it has ended."""
        return self.when(name, lambda job: job.is_terminal)

    def when(self, name: str, true: Callable[[Job], bool], seconds: float = 60.0) -> Job:
        """The job, once something is true of it."""
        until = time.monotonic() + seconds
        while not true(job := service.get(self.workspace, name)):
            assert time.monotonic() < until, f"{name} is {job.status}"
            time.sleep(0.01)
        return job

    def steps(self, job: Job) -> dict[str, Job]:
        """The steps of a job by path."""
        return {s.step_path: s for s in service.find(self.workspace, parent=job.name)[0]}

    def log(self, job: Job) -> str:
        """The log that clients stream: of a pipeline the execution log, else what was printed."""
        name = "user_logs/std_log.txt" if job.is_step else "logs/azureml/executionlogs.txt"
        return service.log_file(self.workspace, job.name, name).path.read_text()


@contextlib.contextmanager
def serving(folder: Path, database: str = "") -> Iterator[Server]:
    """A server that runs while the block lasts."""
    made = new_workspace(folder, database)
    runtime = Runtime(made, machine=MACHINE, grace=0.3)
    with durable.launched(runtime):
        yield Server(made, runtime)
    made.store.engine.dispose()


@pytest.fixture(scope="module")
def database() -> str:
    """The database of a module's server; "" is SQLite in its folder."""
    return ""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, database: str) -> Iterator[Server]:
    """One running server for the tests of a module (DBOS is one per process)."""
    with serving(tmp_path_factory.mktemp("server") / "service", database) as made:
        yield made


def step(
    path: str, text: str, inputs: Mapping[str, Binding | str] | None = None, **more: object
) -> StepSpec:
    """A step that runs a bash text and has one output folder, `out`."""
    bound = {k: Value(v) if isinstance(v, str) else v for k, v in (inputs or {}).items()}
    outputs = {"out": Output("uri_folder")}
    given = {"outputs": outputs} | more
    return StepSpec(path, command=text, inputs=bound, **given)  # pyright: ignore


def after(*paths: str) -> dict[str, Binding | str]:
    """Inputs that make a step wait for others."""
    return {f"from_{path}": StepOutput(path, "out") for path in paths}


@pytest.fixture
def serve() -> Callable[..., contextlib.AbstractContextManager[Server]]:
    """A server of the test's own, to stop and start again."""
    return serving


@pytest.fixture(name="step")
def _step() -> Callable[..., StepSpec]:
    return step


@pytest.fixture(name="after")
def _after() -> Callable[..., dict[str, Binding | str]]:
    return after
