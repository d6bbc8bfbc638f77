"""Tokens and signed addresses: what they open, and what they do not."""

from __future__ import annotations

import base64
import json
import stat
import time
from pathlib import Path
from urllib.parse import parse_qsl

import jwt
import pytest
from workspaces import new_workspace

from finery.workspace import identity
from finery.workspace.errors import UnauthenticatedError
from finery.workspace.secrets import secret, write_private


def test_a_token_says_who_and_for_what(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    token = identity.mint(workspace, identity.STORAGE, subject="alice", seconds=60)
    claims = identity.verify(workspace, token, {identity.STORAGE})
    assert (claims.subject, claims.audience) == ("alice", identity.STORAGE)
    assert 50 < claims.expires - time.time() <= 61


def test_a_token_for_another_audience_is_refused(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    token = identity.mint(workspace, identity.TRACKING)
    with pytest.raises(UnauthenticatedError, match="for something else"):
        identity.verify(workspace, token, identity.audiences(workspace))


def test_an_expired_token_is_refused(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    token = identity.mint(workspace, identity.FINERY, seconds=-60)
    with pytest.raises(UnauthenticatedError, match="expired"):
        identity.verify(workspace, token, {identity.FINERY})


def test_a_token_of_another_service_is_refused(tmp_path: Path) -> None:
    here, elsewhere = new_workspace(tmp_path / "a"), new_workspace(tmp_path / "b")
    token = identity.mint(elsewhere, identity.FINERY)
    with pytest.raises(UnauthenticatedError, match="not one of this service"):
        identity.verify(here, token, {identity.FINERY})


def unsigned(claims: dict[str, object], algorithm: str) -> str:
    def part(value: dict[str, object]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': algorithm, 'typ': 'JWT'})}.{part(claims)}."


@pytest.mark.parametrize("algorithm", ["none", "HS256", "RS256"])
def test_a_token_without_a_signature_is_refused(tmp_path: Path, algorithm: str) -> None:
    workspace = new_workspace(tmp_path)
    claims: dict[str, object] = {
        "iss": identity.ISSUER,
        "sub": "owner",
        "aud": identity.FINERY,
        "exp": int(time.time()) + 60,
    }
    with pytest.raises(UnauthenticatedError):
        identity.verify(workspace, unsigned(claims, algorithm), {identity.FINERY})


def test_a_token_without_an_end_is_refused(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    claims = {"iss": identity.ISSUER, "sub": "owner", "aud": identity.FINERY}
    token = jwt.encode(claims, secret(workspace.secrets, "signing.key"), algorithm="HS256")
    with pytest.raises(UnauthenticatedError):
        identity.verify(workspace, token, {identity.FINERY})


def test_nonsense_is_refused(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    for token in ("", "x", "a.b.c", "ä" * 50):
        with pytest.raises(UnauthenticatedError):
            identity.verify(workspace, token, {identity.FINERY})


def test_a_signed_address_holds_for_its_path_and_its_time(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    query = dict(parse_qsl(identity.sign_query(workspace, "/logs/a.txt", 60)))
    identity.verify_query(workspace, "/logs/a.txt", query)
    for path, changed in (
        ("/logs/b.txt", query),
        ("/logs/a.txt", query | {"se": str(int(query["se"]) + 1)}),
        ("/logs/a.txt", query | {"sig": ""}),
        ("/logs/a.txt", {}),
    ):
        with pytest.raises(UnauthenticatedError, match="not signed"):
            identity.verify_query(workspace, path, changed)
    late = dict(parse_qsl(identity.sign_query(workspace, "/logs/a.txt", -1)))
    with pytest.raises(UnauthenticatedError, match="expired"):
        identity.verify_query(workspace, "/logs/a.txt", late)


def test_keys_belong_to_the_people_who_were_named(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path, users=("alice",))
    assert identity.user_of(workspace, identity.key_of(workspace.secrets)) == "owner"
    assert identity.user_of(workspace, identity.key_of(workspace.secrets, "alice")) == "alice"
    assert identity.user_of(workspace, identity.key_of(workspace.secrets, "bob")) is None
    assert identity.user_of(workspace, "") is None


def test_secrets_are_for_the_owners_eyes(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "a.key"
    first = secret(path.parent, path.name)
    assert secret(path.parent, path.name) == first
    assert len(first) >= 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    write_private(path, "other")
    assert path.read_text(encoding="utf-8") == "other"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.key"]


def test_two_who_make_a_secret_at_once_have_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service signs with it and the command line does: they must not differ."""
    path = tmp_path / "signing.key"

    def another_was_quicker(made: Path, content: str) -> None:
        write_private(path, "the other's")
        write_private(made, content)

    monkeypatch.setattr("finery.workspace.secrets.write_private", another_was_quicker)
    assert secret(tmp_path, path.name) == "the other's"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
