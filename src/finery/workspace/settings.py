"""What a person can set about the service: `settings.yaml` in its folder, variables, options."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from finery.errors import Fault, InputError, did_you_mean
from finery.files import home

FILE = "settings.yaml"
# An id the SDK's own telemetry leaves alone (azure-ai-ml, _telemetry), so nothing phones home.
SUBSCRIPTION = "00000000-0000-0000-0000-000000000"
CLOUD = "finery"  # what the SDK calls the cloud that the service is
OWNER = "owner"  # the user account that the service runs under
USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - named in order to be recognised


@dataclass(frozen=True)
class Settings:
    """How the service runs. Every field may stand in settings.yaml under its own name."""

    host: str = "127.0.0.1"
    port: int = 8443  # HTTPS: Azure ML's API, the studio
    http_port: int = 8442  # plain HTTP on loopback: OpenAI clients, MLflow for steps
    database_url: str = ""  # "" is SQLite in the service's folder
    location: str = "local"
    subscription_id: str = SUBSCRIPTION
    resource_group: str = "finery"
    workspace_name: str = "finery"
    registries: tuple[str, ...] = ("azureml",)
    tracking: bool = True  # keep an MLflow server beside the service
    warm_steps: bool = True  # keep the libraries of steps loaded while jobs come in (about 450 MB)
    users: tuple[str, ...] = ()  # who, beside the owner, has a key (`finery env --user NAME`)

    @property
    def is_loopback(self) -> bool:
        """Whether nobody outside this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def public_host(self) -> str:
        """The name by which clients find the service."""
        if self.is_loopback:
            return "localhost"
        return socket.getfqdn() if self.host in EVERYWHERE else self.host

    @property
    def base_url(self) -> str:
        """The HTTPS address that clients use, without a final slash."""
        host = f"[{self.public_host}]" if ":" in self.public_host else self.public_host
        return f"https://{host}:{self.port}"

    @property
    def http_url(self) -> str:
        """The plain HTTP address on loopback, without a final slash."""
        return f"http://127.0.0.1:{self.http_port}"


def service_folder() -> Path:
    """Where the service keeps its files: `$FINERY_HOME/service`."""
    return home() / "service"


def load_settings(folder: Path, options: Mapping[str, Any] | None = None) -> Settings:
    """settings.yaml, then FINERY_DATABASE_URL, then `options`; the later wins.

    Raises InputError with every fault.
    """
    path = folder / FILE
    given: dict[str, Any] = {}
    if path.is_file():
        try:
            given = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except yaml.YAMLError as error:
            raise InputError([Fault(str(path), "no YAML", "a mapping", str(error))]) from None
        if not isinstance(given, dict):
            raise InputError([Fault(str(path), type(given).__name__, "a mapping of settings")])
    if url := os.environ.get("FINERY_DATABASE_URL"):
        given["database_url"] = url
    given |= {name: value for name, value in (options or {}).items() if value is not None}
    return _checked(given, path)


def _checked(given: Mapping[str, Any], path: Path) -> Settings:
    known = {field.name: field for field in fields(Settings)}
    faults, values = [], {}
    for name, value in given.items():
        where = f"{path}:{name}"
        if name not in known:
            expected = "a setting of the service"
            faults.append(Fault(where, repr(name), expected, did_you_mean(str(name), known)))
            continue
        default = getattr(Settings, name)
        if isinstance(default, tuple):
            values[name] = tuple(str(v) for v in (value if isinstance(value, list) else [value]))
        elif type(value) is not type(default):
            kind = {bool: "true or false", int: "a whole number"}.get(type(default), "text")
            faults.append(Fault(where, repr(value), kind))
        elif type(value) is int and not 0 <= value < 65536:
            faults.append(Fault(where, repr(value), "a port from 1 to 65535, or 0 for a free one"))
        else:
            values[name] = value
    if faults:
        raise InputError(faults, subject="settings")
    settings = replace(Settings(), **values)
    faults = [*_wrong_users(settings, path)]
    if faults:
        raise InputError(faults, subject="settings")
    return settings


def _wrong_users(settings: Settings, path: Path) -> Iterator[Fault]:
    for name in settings.users:
        if not USER.fullmatch(name) or name == OWNER:
            expected = f"a name of letters, digits, - and _ other than {OWNER}"
            yield Fault(f"{path}:users", repr(name), expected)
    if not settings.is_loopback and not settings.users:
        yield Fault(
            f"{path}:host",
            repr(settings.host),
            "a loopback address while no users are configured",
            "Name who may call in `users: [NAME]`; each gets a key with `finery env --user NAME`.",
        )
