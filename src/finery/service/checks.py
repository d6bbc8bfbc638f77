"""What `finery doctor` looks at: this machine, this service, and what would lead clients astray."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

from finery import __version__
from finery.errors import first_line, os_reason
from finery.service.certificates import RENEW_BEFORE, files_in
from finery.service.environment import PROXIES
from finery.service.running import Running, running_service
from finery.workspace.settings import Settings
from finery.workspace.sizes import this_machine

OK, WARNING, FAULT = "ok", "warning", "fault"
GIB = 2**30
LITTLE_DISK = 10 * GIB
NO_DISK = GIB
PACKAGES = ("torch", "transformers", "peft", "deepspeed", "mlflow", "azure-ai-ml", "azure-identity")
# azure-identity prefers these to the service's token endpoint, or takes them for another kind.
STRAY = ("IDENTITY_ENDPOINT", "IDENTITY_HEADER")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: str  # ok, warning, fault
    found: str
    remedy: str = ""


def every_check(folder: Path, settings: Settings) -> Iterator[Check]:
    """All of them, in the order in which a person would ask."""
    running = running_service(folder)
    yield _versions()
    yield _devices()
    yield _disk(folder)
    yield _clock(folder)
    yield _certificate(folder)
    yield _service(folder, running)
    yield from _ports(settings, running)
    yield from _environment()


def _versions() -> Check:
    found = [f"finery {__version__}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return Check("versions", OK, ", ".join(found))


def _devices() -> Check:
    here = this_machine()
    gpus = f"{here.gpus} GPU{'s' if here.gpus != 1 else ''}" if here.gpus else "no GPU"
    found = f"{here.vcpus} cores, {here.memory_gb:g} GiB memory, {gpus}"
    if here.memory_gb < 4:
        return Check("devices", WARNING, found, "Only the smallest models fit.")
    return Check("devices", OK, found)


def _disk(folder: Path) -> Check:
    place = next(path for path in (folder, *folder.parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    found = f"{free / GIB:.1f} GiB free at {place}"
    if not os.access(place, os.W_OK):
        return Check("disk", FAULT, f"{place} cannot be written", "Set FINERY_HOME elsewhere.")
    if free < LITTLE_DISK:
        remedy = "Make room, or set FINERY_HOME to a folder of a larger disk."
        return Check("disk", FAULT if free < NO_DISK else WARNING, found, remedy)
    return Check("disk", OK, found)


def _clock(folder: Path) -> Check:
    """A clock that is behind makes tokens and certificates not valid yet."""
    moment = datetime.now(UTC)
    found = f"{moment:%Y-%m-%d %H:%M:%S} UTC"
    written = [path.stat().st_mtime for path in folder.glob("*") if path.is_file()]
    behind = max(written, default=0.0) - time.time()
    if behind > 60:
        found += f", {timedelta(seconds=int(behind))} behind the newest file of the service"
        return Check("clock", FAULT, found, "Set the machine's clock.")
    return Check("clock", OK, found)


def _certificate(folder: Path) -> Check:
    files = files_in(folder / "certificates")
    if not files.certificate.is_file():
        return Check("certificate", OK, "none yet; the first start makes one")
    left = files.expires - datetime.now(UTC)
    found = f"valid until {files.expires:%Y-%m-%d}"
    ours = files.authority.read_text(encoding="utf-8").strip()
    if not files.bundle.is_file() or ours not in files.bundle.read_text(encoding="utf-8"):
        remedy = "`finery down`, then `finery up`: a start writes it anew."
        return Check("certificate", FAULT, f"{files.bundle} lacks our authority", remedy)
    if left < RENEW_BEFORE:
        remedy = "`finery down`, then `finery up`: a start renews it."
        return Check("certificate", FAULT if left < timedelta() else WARNING, found, remedy)
    return Check("certificate", OK, found)


def _service(folder: Path, running: Running | None) -> Check:
    if running is None:
        return Check("service", WARNING, "none runs", "Start it with `finery up`.")
    authority = files_in(folder / "certificates").authority
    try:
        trust = ssl.create_default_context(cafile=str(authority))
        begun = time.perf_counter()
        with httpx.Client(verify=trust, trust_env=False, timeout=10) as client:
            client.get(f"{running.url}/healthz").raise_for_status()
    except (httpx.HTTPError, OSError) as error:
        text = f"process {running.pid} does not answer at {running.url}: {first_line(error)}"
        remedy = f"{folder / 'logs' / 'service.log'} may say why; `finery down`, then `finery up`."
        return Check("service", FAULT, text, remedy)
    milliseconds = 1000 * (time.perf_counter() - begun)
    found = f"process {running.pid} answers at {running.url} in {milliseconds:.0f} ms"
    if running.version != __version__:
        remedy = "`finery down`, then `finery up`."
        return Check("service", WARNING, f"{found}, but is finery {running.version}", remedy)
    return Check("service", OK, found)


def _ports(settings: Settings, running: Running | None) -> Iterator[Check]:
    if running is not None:
        yield Check("ports", OK, f"{running.port} (HTTPS), {running.http_port} (HTTP): ours")
        return
    wanted = ((settings.host, settings.port), ("127.0.0.1", settings.http_port))
    for host, port in wanted:
        try:
            socket.create_server((host, port)).close()
        except OSError as error:
            remedy = "Stop what uses it, or set another in settings.yaml (port, http_port)."
            yield Check("ports", FAULT, f"{port}: {os_reason(error)}", remedy)
        else:
            yield Check("ports", OK, f"{port} is free")


def _environment() -> Iterator[Check]:
    stray = [name for name in STRAY if os.environ.get(name)]
    if stray:
        remedy = f"Unset {' and '.join(stray)} where programs are to use finery."
        text = f"{', '.join(stray)} lead azure-identity to another token endpoint"
        yield Check("environment", WARNING, text, remedy)
    proxies = [name for name in PROXIES if os.environ.get(name)]
    if proxies:
        text = f"{', '.join(proxies)} set; `finery env` keeps localhost out of it (NO_PROXY)"
        yield Check("environment", OK, text)
    if not stray and not proxies:
        yield Check("environment", OK, "nothing that leads clients elsewhere")
