"""Who may ask an endpoint."""

from __future__ import annotations

import pytest

from finery.endpoints import keys, service
from finery.endpoints.service import WantedEndpoint
from finery.workspace import identity
from finery.workspace.errors import ConflictError, NotFoundError, UnauthenticatedError
from finery.workspace.place import Workspace


def test_either_key_opens_an_endpoint_and_nothing_else_does(workspace: Workspace) -> None:
    one = service.put(workspace, WantedEndpoint("one"))
    other = service.put(workspace, WantedEndpoint("other"))
    keys.check(workspace, one, one.primary_key)
    keys.check(workspace, one, one.secondary_key)
    for wrong in ("", "x", "ключ", one.primary_key[:-1], other.primary_key):
        with pytest.raises(UnauthenticatedError):
            keys.check(workspace, one, wrong)


def test_regenerating_one_key_leaves_the_other(workspace: Workspace) -> None:
    before = service.put(workspace, WantedEndpoint("one"))
    keys.regenerate(workspace, "one", "secondary")
    after = service.get(workspace, "one")
    assert after.primary_key == before.primary_key
    with pytest.raises(UnauthenticatedError):
        keys.check(workspace, after, before.secondary_key)
    keys.check(workspace, after, after.secondary_key)


def test_the_present_key_sent_along_means_a_new_one(workspace: Workspace) -> None:
    before = service.put(workspace, WantedEndpoint("one"))
    keys.regenerate(workspace, "one", "primary", before.primary_key)
    assert service.get(workspace, "one").primary_key != before.primary_key


def test_a_key_of_ones_own_is_taken(workspace: Workspace) -> None:
    service.put(workspace, WantedEndpoint("one"))
    keys.regenerate(workspace, "one", "primary", "a key of my own")
    assert service.get(workspace, "one").primary_key == "a key of my own"


def test_a_token_opens_its_own_endpoint_only(workspace: Workspace) -> None:
    one = service.put(workspace, WantedEndpoint("one", auth_mode="aml_token"))
    other = service.put(workspace, WantedEndpoint("other", auth_mode="aml_token"))
    token = keys.token(workspace, one)
    keys.check(workspace, one, token)
    with pytest.raises(UnauthenticatedError):
        keys.check(workspace, other, token)
    with pytest.raises(UnauthenticatedError):
        keys.check(workspace, one, one.primary_key)


def test_a_token_of_the_directory_opens_an_endpoint_that_takes_it(workspace: Workspace) -> None:
    one = service.put(workspace, WantedEndpoint("one", auth_mode="aad_token"))
    keys.check(workspace, one, identity.mint(workspace, identity.PUBLIC_MACHINE_LEARNING))
    with pytest.raises(UnauthenticatedError):
        keys.check(workspace, one, identity.mint(workspace, "somewhere else"))


def test_keys_are_for_endpoints_with_keys(workspace: Workspace) -> None:
    one = service.put(workspace, WantedEndpoint("one", auth_mode="aml_token"))
    with pytest.raises(ConflictError, match="aml_tokens only"):
        keys.regenerate(workspace, "one", "primary")
    with pytest.raises(ConflictError):
        keys.refuse_unless(one, "key")
    with pytest.raises(NotFoundError):
        keys.regenerate(workspace, "nobody", "primary")
