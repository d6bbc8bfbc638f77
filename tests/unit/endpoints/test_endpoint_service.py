"""Endpoints and deployments as the store holds them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from finery.endpoints import operations, service
from finery.endpoints.service import WantedDeployment, WantedEndpoint
from finery.errors import InputError
from finery.workspace.errors import ConflictError, NotFoundError
from finery.workspace.place import Workspace

BLUE = WantedDeployment("chat", "blue", "good")


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue("postgres") if request.param == "postgres" else ""


@pytest.fixture
def chat(workspace: Workspace) -> Workspace:
    service.put(workspace, WantedEndpoint("chat"))
    return workspace


def test_an_endpoint_has_two_different_keys_that_outlive_updates(chat: Workspace) -> None:
    first = service.get(chat, "chat")
    assert len({first.primary_key, first.secondary_key}) == 2
    second = service.put(chat, WantedEndpoint("chat", wire={"tags": {"a": "b"}}))
    assert (second.primary_key, second.secondary_key) == (first.primary_key, first.secondary_key)
    assert second.wire == {"tags": {"a": "b"}}
    assert second.created_at == first.created_at


def test_keys_do_not_appear_where_values_are_printed(chat: Workspace) -> None:
    found = service.get(chat, "chat")
    assert found.primary_key not in repr(found)
    assert "s3cret" not in repr(replace(BLUE, environment={"TOKEN": "s3cret"}))


def test_a_given_pair_of_keys_is_kept(workspace: Workspace) -> None:
    found = service.put(workspace, WantedEndpoint("chat", keys=("p" * 20, "s" * 20)))
    assert (found.primary_key, found.secondary_key) == ("p" * 20, "s" * 20)


def test_endpoints_are_listed_newest_first(workspace: Workspace) -> None:
    for name in ("first", "second"):
        service.put(workspace, WantedEndpoint(name))
    assert [found.name for found in service.find(workspace)] == ["second", "first"]


def test_a_wrong_name_is_an_input_error(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="3 to 32"):
        service.put(workspace, WantedEndpoint("../x"))


def test_traffic_needs_the_deployment_first(chat: Workspace) -> None:
    with pytest.raises(InputError, match=r"traffic\.blue: found no such deployment"):
        service.put(chat, WantedEndpoint("chat", traffic={"blue": 100}))
    service.put_deployment(chat, BLUE)
    found = service.put(chat, WantedEndpoint("chat", traffic={"blue": 100}))
    assert found.traffic == {"blue": 100}


def test_a_refused_update_changes_nothing(chat: Workspace) -> None:
    service.put_deployment(chat, BLUE)
    service.put(chat, WantedEndpoint("chat", traffic={"blue": 100}))
    with pytest.raises(InputError):
        service.put(chat, WantedEndpoint("chat", traffic={"blue": 50}))
    assert service.get(chat, "chat").traffic == {"blue": 100}


def test_the_way_to_prove_who_one_is_stays(chat: Workspace) -> None:
    with pytest.raises(ConflictError, match="cannot be changed"):
        service.put(chat, WantedEndpoint("chat", auth_mode="aml_token"))


def test_a_missing_endpoint_is_named_with_the_nearest(chat: Workspace) -> None:
    with pytest.raises(NotFoundError, match="Did you mean chat"):
        service.get(chat, "chats")
    with pytest.raises(NotFoundError, match="no endpoint other"):
        service.put_deployment(chat, replace(BLUE, endpoint="other"))
    with pytest.raises(NotFoundError, match="no deployment red"):
        service.deployment(chat, "chat", "red")


def test_a_deployment_begins_with_an_operation_under_way(chat: Workspace) -> None:
    found, operation = service.put_deployment(chat, BLUE)
    assert found.state == "Creating"
    assert operations.get(chat, operation).status == "InProgress"


def test_every_fault_of_a_deployment_is_said_at_once(chat: Workspace) -> None:
    with pytest.raises(InputError) as told:
        service.put_deployment(chat, replace(BLUE, name="b", instance_count=0, timeout_seconds=-1))
    assert len(told.value.faults) == 3


def test_new_replicas_are_needed_for_what_replicas_hold_alone(chat: Workspace) -> None:
    service.put_deployment(chat, BLUE)

    def revision(wanted: WantedDeployment) -> int:
        return service.put_deployment(chat, wanted)[0].revision

    assert revision(replace(BLUE, instance_count=3, timeout_seconds=5)) == 1
    assert revision(replace(BLUE, model="other")) == 2
    assert revision(replace(BLUE, model="other", environment={"A": "1"})) == 3


def test_a_deployment_with_traffic_is_not_deleted(chat: Workspace) -> None:
    service.put_deployment(chat, BLUE)
    service.put(chat, WantedEndpoint("chat", traffic={"blue": 100}))
    with pytest.raises(ConflictError, match="100 % of the traffic"):
        service.delete_deployment(chat, "chat", "blue")
    service.put(chat, WantedEndpoint("chat", traffic={"blue": 0}))
    assert service.delete_deployment(chat, "chat", "blue")
    assert service.get(chat, "chat").traffic == {}


def test_deleting_what_is_not_there_is_no_error(chat: Workspace) -> None:
    assert service.delete(chat, "other") is None
    assert service.delete_deployment(chat, "chat", "other") is None


def test_what_is_being_deleted_takes_no_changes(chat: Workspace) -> None:
    service.put_deployment(chat, BLUE)
    service.delete_deployment(chat, "chat", "blue")
    with pytest.raises(ConflictError, match="being deleted"):
        service.put_deployment(chat, BLUE)
    with pytest.raises(InputError, match="no such deployment"):
        service.put(chat, WantedEndpoint("chat", traffic={"blue": 100}))
    service.delete(chat, "chat")
    with pytest.raises(ConflictError, match="being deleted"):
        service.put(chat, WantedEndpoint("chat"))


def test_deleting_cancels_a_creation_that_is_under_way(chat: Workspace) -> None:
    _, creation = service.put_deployment(chat, BLUE)
    service.delete(chat, "chat")
    assert operations.get(chat, creation).status == "Canceled"


def test_an_operation_that_never_was_is_not_found(chat: Workspace) -> None:
    with pytest.raises(NotFoundError):
        operations.get(chat, "nonsense")
