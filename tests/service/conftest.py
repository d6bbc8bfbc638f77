"""A real service and the unmodified SDK against it.

With FINERY_TESTS_ON=postgres (`make postgres`) every service keeps its state in PostgreSQL.

service    the service of the whole session (tests must not stop it)
client     an MLClient on it; registry: one on its registry "azureml"
started    a service of one test's own, to stop, kill and start again
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from service_process import Service, hub_mirror

from postgres_server import new_database, postgres_server

# What the Azure packages say about themselves is not ours to answer for.
QUIET = (
    "ignore::DeprecationWarning:azure",
    "ignore::DeprecationWarning:marshmallow",
    "ignore::DeprecationWarning:msal",
    "ignore::DeprecationWarning:msrest",
    "ignore::FutureWarning:azure",
    "ignore::SyntaxWarning:azure",
    "ignore::UserWarning:azure",
    "ignore:.*:marshmallow.warnings.RemovedInMarshmallow4Warning",
    "ignore:.*:marshmallow.warnings.ChangedInMarshmallow4Warning",
    "ignore:pkg_resources:DeprecationWarning",
    "ignore:pkg_resources:UserWarning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


def pytest_configure(config: pytest.Config) -> None:
    # A run that is told to end still ends the services it started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for line in QUIET:
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(scope="session")
def service(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Service]:
    """The session's service; its variables are set for this process and its children."""
    found = _new(tmp_path_factory, request)
    found.settings = {"warm_steps": True}
    with pytest.MonkeyPatch.context() as patch, _ended(found.start()):
        for name, value in found.environment.items():
            patch.setenv(name, value)
        _tell_azureml_mlflow()
        yield found


def _tell_azureml_mlflow() -> None:
    """It asks where the cloud is when it is imported, which a test module may do too early."""
    if clouds := sys.modules.get("azureml.mlflow._common._cloud.cloud"):
        clouds.KNOWN_CLOUDS.update(clouds.get_known_clouds())


@pytest.fixture
def started(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Service]:
    """A service of the test's own; without MLflow, which takes seconds to start."""
    found = _new(tmp_path_factory, request)
    found.settings = {"tracking": False}
    with _ended(found.start()):
        yield found


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server of this session's own."""
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session")
def client(service: Service) -> Any:
    """An MLClient for the workspace."""
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

    return MLClient(DefaultAzureCredential(), "test_subscription", "finery", "finery")


@pytest.fixture(scope="session")
def registry(service: Service) -> Any:
    """An MLClient for the registry `azureml`."""
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

    return MLClient(DefaultAzureCredential(), registry_name="azureml")


@pytest.fixture(autouse=True)
def own_home(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path | None:
    """The session's service is the one that `finery` commands of a test find."""
    # The first of these that a test asks for; a service of its own comes before the session's.
    names = ("started", "on_postgres", "home", "service")
    name = next((name for name in names if name in request.fixturenames), "service")
    found = request.getfixturevalue(name)
    home = found if isinstance(found, Path) else found.home
    monkeypatch.setenv("FINERY_HOME", str(home))
    return home


def _new(factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Service:
    home = factory.mktemp("service-home")
    kit = Path(__file__).resolve().parents[3] / "shared" / "data"
    mirror = hub_mirror(kit, factory.mktemp("mirror"))
    extra = {"FINERY_HUB_MIRROR": str(mirror), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    if os.environ.get("FINERY_TESTS_ON") == "postgres":
        extra["FINERY_DATABASE_URL"] = new_database(request.getfixturevalue("postgres"))
    return Service(home, extra)


@contextlib.contextmanager
def _ended(service: Service) -> Iterator[None]:
    """Afterwards nothing that the service started is left, whatever was detached from it."""
    try:
        yield
    finally:
        service.stop()
        for process in psutil.process_iter(["environ"]):
            environment = process.info["environ"] or {}
            ours = environment.get("FINERY_HOME") == str(service.home)
            if ours and process.pid != os.getpid():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
