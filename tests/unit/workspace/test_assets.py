"""Assets: versions and names, what may change of them, what a registry is shipped with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from finery.errors import InputError
from finery.workspace import assets
from finery.workspace.asset import Asset, PathChangedError, next_version
from finery.workspace.errors import ConflictError, ForbiddenError, NotFoundError
from finery.workspace.place import Workspace


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue("postgres") if request.param == "postgres" else ""


PHI = "Phi-3-mini-4k-instruct"


@pytest.fixture
def make(workspace: Workspace) -> Callable[..., Asset]:
    """`make(name, version, **changes)`: a data asset of the workspace."""

    def put(name: str = "chats", version: str = "1", **changes: Any) -> Asset:
        asset = Asset("data", "", name, version, type="uri_file", path="azureml://datastores/d")
        return assets.put(workspace, replace(asset, **changes))

    return put


def test_a_version_is_found_as_it_was_put(workspace: Workspace, make: Callable[..., Asset]) -> None:
    made = make(tags={"a": "b"}, properties={"c": "d"}, description="e", spec={"f": [1]})
    assert assets.get(workspace, "data", "", "chats", "1") == made
    assert (made.tags, made.properties, made.description) == ({"a": "b"}, {"c": "d"}, "e")


def test_words_may_change_and_properties_are_only_added(
    workspace: Workspace, make: Callable[..., Asset]
) -> None:
    first = make(tags={"a": "1"}, properties={"made_by": "job"}, content_hash="h")
    second = make(tags={"b": "2"}, properties={"seen": "yes"}, description="new")
    assert second.tags == {"b": "2"}
    assert second.properties == {"made_by": "job", "seen": "yes"}
    assert (second.created_at, second.content_hash) == (first.created_at, "h")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"path": "azureml://datastores/e"}, PathChangedError),
        ({"type": "uri_folder"}, ConflictError),
        ({"spec": {"x": 1}}, ConflictError),
        ({"content_hash": "other"}, ConflictError),
    ],
)
def test_content_may_not_change(
    workspace: Workspace,
    make: Callable[..., Asset],
    change: dict[str, Any],
    error: type[Exception],
) -> None:
    made = make(content_hash="h")
    with pytest.raises(error, match="exists already"):
        make(**change)
    assert assets.get(workspace, "data", "", "chats", "1") == made


def test_the_latest_is_the_one_created_last(
    workspace: Workspace, make: Callable[..., Asset]
) -> None:
    for version in ("10", "9", "b"):
        make(version=version)
    make(version="10", description="touched again")
    assert assets.latest(workspace, "data", "", "chats").version == "b"
    assert assets.get(workspace, "data", "", "chats", "latest").version == "b"
    assert [a.version for a in assets.versions(workspace, "data", "", "chats")] == ["b", "9", "10"]


def test_versions_come_in_slices_either_way_round(
    workspace: Workspace, make: Callable[..., Asset]
) -> None:
    for number in range(7):
        make(version=str(number))

    def slice_of(**how: Any) -> list[str]:
        return [a.version for a in assets.versions(workspace, "data", "", "chats", **how)]

    assert slice_of(limit=3) == ["6", "5", "4"]
    assert slice_of(limit=3, offset=3) == ["3", "2", "1"]
    assert slice_of(limit=3, offset=6) == ["0"]
    assert slice_of(limit=3, offset=9) == []
    assert slice_of(limit=2, newest_first=False) == ["0", "1"]


def test_archived_versions_are_left_out(workspace: Workspace, make: Callable[..., Asset]) -> None:
    for number in range(3):
        make(version=str(number))
    assets.set_archived(workspace, "data", "", "chats", True, version="2")
    assert assets.latest(workspace, "data", "", "chats").version == "1"
    listed = assets.versions(workspace, "data", "", "chats", archived="archived")
    assert [a.version for a in listed] == ["2"]
    assert len(assets.versions(workspace, "data", "", "chats", archived="all")) == 3
    assets.set_archived(workspace, "data", "", "chats", False, version="2")
    assert assets.latest(workspace, "data", "", "chats").version == "2"


def test_an_archived_name_hides_its_versions_until_it_is_restored(
    workspace: Workspace, make: Callable[..., Asset]
) -> None:
    make(version="1")
    make(version="2")
    assets.set_archived(workspace, "data", "", "chats", True, version="1")
    assets.set_archived(workspace, "data", "", "chats", True)
    assert assets.names(workspace, "data", "") == []
    assert assets.versions(workspace, "data", "", "chats") == []
    with pytest.raises(NotFoundError):
        assets.latest(workspace, "data", "", "chats")
    assert [n.name for n in assets.names(workspace, "data", "", archived="archived")] == ["chats"]
    assets.set_archived(workspace, "data", "", "chats", False)
    assert [a.version for a in assets.versions(workspace, "data", "", "chats")] == ["2"]


def test_a_name_says_its_latest_and_next_version(
    workspace: Workspace, make: Callable[..., Asset]
) -> None:
    make(version="3")
    make(version="x")
    name = assets.get_name(workspace, "data", "", "chats")
    assert (name.latest_version, name.next_version, name.type) == ("x", "4", "uri_file")
    make("other", is_anonymous=True)
    assert [n.name for n in assets.names(workspace, "data", "")] == ["chats"]


@pytest.mark.parametrize(
    ("versions", "expected"),
    [([], "1"), (["1", "2"], "3"), (["9", "10"], "11"), (["a", "b"], "1"), (["²", "1"], "2")],
)
def test_the_next_version_is_the_next_whole_number(versions: list[str], expected: str) -> None:
    assert next_version(versions) == expected


@pytest.mark.parametrize("bad", ["", "a/b", "..", ".hidden", "-dash", "a b", "a" * 256, "a\n", "ü"])
def test_names_and_versions_are_refused_together(workspace: Workspace, bad: str) -> None:
    with pytest.raises(InputError) as refused:
        assets.put(workspace, Asset("data", "", bad, bad))
    assert len(refused.value.faults) == 2


def test_a_missing_name_names_the_nearest(workspace: Workspace, make: Callable[..., Asset]) -> None:
    make()
    with pytest.raises(NotFoundError, match="Did you mean chats"):
        assets.get(workspace, "data", "", "chat", "1")
    with pytest.raises(NotFoundError, match=r"no version 2.*The newest: 1"):
        assets.get(workspace, "data", "", "chats", "2")


def test_a_deleted_version_is_gone(workspace: Workspace, make: Callable[..., Asset]) -> None:
    make(version="1")
    make(version="2")
    assert assets.delete(workspace, "data", "", "chats", "2")
    assert not assets.delete(workspace, "data", "", "chats", "2")
    assert assets.latest(workspace, "data", "", "chats").version == "1"
    assert assets.delete(workspace, "data", "", "chats")
    with pytest.raises(NotFoundError):
        assets.get_name(workspace, "data", "", "chats")


def test_of_many_who_create_one_version_all_with_the_same_content_succeed(
    workspace: Workspace,
) -> None:
    start = threading.Barrier(8)

    def create(number: int) -> str:
        asset = Asset("data", "", "raced", "1", "uri_file", f"azureml://datastores/{number % 2}")
        start.wait()
        try:
            return assets.put(workspace, asset).path
        except ConflictError:
            return ""

    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(create, range(8)))
    assert sorted(map(bool, paths)) == [False] * 4 + [True] * 4
    assert len({path for path in paths if path}) == 1


def test_a_registry_is_shipped_with_models(workspace: Workspace) -> None:
    model = assets.latest(workspace, "model", "azureml", PHI)
    assert (model.version, model.spec["source"]) == ("15", "microsoft/Phi-3-mini-4k-instruct")
    assert assets.get(workspace, "model", "azureml", PHI, "4").spec == model.spec
    assert assets.names(workspace, "model", "") == []


def test_what_is_shipped_can_be_described_and_archived_but_not_deleted(
    workspace: Workspace,
) -> None:
    model = assets.get(workspace, "model", "azureml", PHI, "15")
    assets.put(workspace, replace(model, tags={"mine": "yes"}, spec={}))
    changed = assets.get(workspace, "model", "azureml", PHI, "15")
    assert changed.tags == {"mine": "yes"}
    assert changed.spec["source"] == model.spec["source"]
    assert changed.created_at == model.created_at
    assert assets.latest(workspace, "model", "azureml", PHI).version == "15"
    assert len(assets.versions(workspace, "model", "azureml", PHI)) == 15
    with pytest.raises(ForbiddenError, match="shipped with registry azureml"):
        assets.delete(workspace, "model", "azureml", PHI, "15")
    with pytest.raises(ConflictError):
        assets.put(workspace, replace(model, path="azureml://datastores/d"))


def test_a_registry_takes_new_versions_of_what_it_is_shipped_with(workspace: Workspace) -> None:
    ours = Asset("model", "azureml", PHI, "16", "custom_model", "azureml://datastores/d")
    assets.put(workspace, ours)
    assert assets.latest(workspace, "model", "azureml", PHI).version == "16"
    assert assets.get_name(workspace, "model", "azureml", PHI).next_version == "17"
    assets.set_archived(workspace, "model", "azureml", PHI, True, version="16")
    assert assets.latest(workspace, "model", "azureml", PHI).version == "15"


def test_content_is_found_under_any_name(workspace: Workspace) -> None:
    for name in ("a", "b"):
        assets.put(workspace, Asset("code", "", name, "1", content_hash="same"))
    assets.put(workspace, Asset("code", "", "c", "1", content_hash="other"))
    found = assets.with_content(workspace, "code", "", "same")
    assert [asset.name for asset in found] == ["b", "a"]
    assert assets.with_content(workspace, "code", "azureml", "same") == []


def test_the_newest_of_every_name_is_what_latest_says_of_each(
    workspace: Workspace, make: Callable[..., Asset]
) -> None:
    for name, version in (("b", "1"), ("a", "1"), ("a", "2"), ("c", "1"), ("c", "2"), ("d", "1")):
        make(name, version)
    make("anonymous", is_anonymous=True)
    assets.set_archived(workspace, "data", "", "c", True, "2")
    assets.set_archived(workspace, "data", "", "d", True)
    found = assets.newest(workspace, "data", "")
    assert [(one.name, one.version) for one in found] == [("a", "2"), ("b", "1"), ("c", "1")]
    assert found == [assets.latest(workspace, "data", "", one.name) for one in found]


def test_the_newest_of_a_registry_holds_what_it_is_shipped_with(workspace: Workspace) -> None:
    assets.put(workspace, replace(assets.latest(workspace, "model", "azureml", PHI), version="99"))
    found = assets.newest(workspace, "model", "azureml")
    names = [one.name for one in assets.names(workspace, "model", "azureml")]
    assert found == [assets.latest(workspace, "model", "azureml", name) for name in names]
    assert next(one for one in found if one.name == PHI).version == "99"


def test_a_jobs_own_versions_are_found_by_its_name(
    workspace: Workspace, make: Callable[..., Asset]
) -> None:
    for name, job in (("a", "one"), ("b", "two"), ("c", "one"), ("d", "one")):
        make(name, spec={"jobName": job})
    make("e")
    assets.set_archived(workspace, "data", "", "d", True)
    assert [one.name for one in assets.of_job(workspace, "data", "one")] == ["c", "a"]
