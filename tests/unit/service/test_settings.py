"""settings.yaml: what it may say, and how wrong settings are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from finery.errors import InputError
from finery.workspace.settings import FILE, Settings, load_settings


def said(folder: Path, text: str) -> Path:
    (folder / FILE).write_text(text, encoding="utf-8")
    return folder


def test_without_a_file_there_are_defaults(tmp_path: Path) -> None:
    assert load_settings(tmp_path) == Settings()
    assert load_settings(said(tmp_path, "")) == Settings()


def test_options_win_over_the_variable_and_the_variable_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = said(tmp_path, "port: 9000\nhttp_port: 9001\ndatabase_url: a\n")
    monkeypatch.setenv("FINERY_DATABASE_URL", "b")
    found = load_settings(folder, {"port": 9443, "http_port": None})
    assert (found.port, found.http_port, found.database_url) == (9443, 9001, "b")


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    text = "prot: 1\nport: '8443'\nhttp_port: 70000\ntracking: 1\nhost: true\n"
    with pytest.raises(InputError) as refused:
        load_settings(said(tmp_path, text))
    message = str(refused.value)
    assert len(refused.value.faults) == 5
    for part in ("Did you mean port?", "a whole number", "0 for a free one", "true or false"):
        assert part in message


@pytest.mark.parametrize("text", ["- a\n", "a: [\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError):
        load_settings(said(tmp_path, text))


ANY = "0.0.0.0"  # noqa: S104 - nothing is bound here


@pytest.mark.parametrize("host", [ANY, "192.168.1.5", "gpu.example.org", "::"])
def test_another_interface_than_loopback_needs_users(tmp_path: Path, host: str) -> None:
    with pytest.raises(InputError, match="loopback address while no users"):
        load_settings(tmp_path, {"host": host})
    said(tmp_path, "users: [alice]\n")
    assert not load_settings(tmp_path, {"host": host}).is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_loopback_needs_none(tmp_path: Path, host: str) -> None:
    found = load_settings(tmp_path, {"host": host})
    assert found.base_url == "https://localhost:8443"


def test_users_have_names_that_are_safe_in_a_path(tmp_path: Path) -> None:
    said(tmp_path, "users: [alice, ../../x, owner, '']\n")
    with pytest.raises(InputError) as refused:
        load_settings(tmp_path)
    assert len(refused.value.faults) == 3


def test_addresses_name_what_clients_can_reach() -> None:
    assert Settings(host="10.1.2.3", port=1).base_url == "https://10.1.2.3:1"
    assert Settings(host="fd00::1", port=1).base_url == "https://[fd00::1]:1"
    assert ANY not in Settings(host=ANY).base_url
