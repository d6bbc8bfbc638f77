"""Hub models come from the mirror, from the hub, or not at all with a clear reason."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors
from model_folders import write_model

from finery.errors import FineryError, InputError
from finery.model.folder import MODEL_FILES, PICKLES, TOKENIZER_FILES
from finery.model.hub import WANTED, fetch, is_hub_id


class Hub:
    """Stands for the network: remembers what was asked, answers a folder or an error."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answer: Path | Exception = AssertionError("the hub was asked")

    def __call__(self, name: str, **options: Any) -> str:
        self.asked.append((name, options))
        if isinstance(self.answer, Exception):
            raise self.answer
        return str(self.answer)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.delenv("FINERY_HUB_MIRROR", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    stand_in = Hub()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", stand_in)
    return stand_in


def refused(kind: type[errors.HfHubHTTPError]) -> Exception:
    response: Any = SimpleNamespace(headers={}, request=None, status_code=403)
    return kind("refused", response=response)


def test_the_mirror_is_asked_first(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "org" / "chat-1b")
    monkeypatch.setenv("FINERY_HUB_MIRROR", str(tmp_path))
    assert fetch("org/chat-1b") == folder
    assert hub.asked == []


def test_a_damaged_mirror_is_not_covered_up_by_the_hub(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    (write_model(tmp_path / "org" / "chat-1b") / "tokenizer.json").unlink()
    monkeypatch.setenv("FINERY_HUB_MIRROR", str(tmp_path))
    with pytest.raises(InputError, match="no tokenizer"):
        fetch("org/chat-1b")


def test_a_revision_cannot_come_from_the_mirror(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "org" / "chat-1b")
    monkeypatch.setenv("FINERY_HUB_MIRROR", str(tmp_path))
    with pytest.raises(FineryError, match="Leave out @v2, or unset FINERY_HUB_MIRROR"):
        fetch("org/chat-1b@v2")


def test_what_the_mirror_lacks_comes_from_the_hub(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINERY_HUB_MIRROR", str(tmp_path / "mirror"))
    hub.answer = write_model(tmp_path / "cache")
    assert fetch("org/chat-1b@v2") == tmp_path / "cache"
    [(name, options)] = hub.asked
    assert (name, options["revision"]) == ("org/chat-1b", "v2")


def test_only_data_is_downloaded_never_code() -> None:
    def wanted(name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in WANTED)

    assert all(wanted(name) for name in TOKENIZER_FILES | MODEL_FILES)
    assert wanted("model-00001-of-00002.safetensors")
    assert not any(wanted(f"weights{suffix}") for suffix in PICKLES)
    assert not wanted("modeling_phi3.py")


def test_a_repository_with_pickles_only_is_refused(tmp_path: Path, hub: Hub) -> None:
    hub.answer = write_model(tmp_path / "cache")
    (tmp_path / "cache" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights"):
        fetch("org/chat-1b")


def test_offline_and_absent_names_both_places_and_every_remedy(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("FINERY_HUB_MIRROR", str(tmp_path))
    hub.answer = errors.LocalEntryNotFoundError("Cannot find an appropriate cached snapshot\nmore")
    with pytest.raises(FineryError) as caught:
        fetch("org/chat-1b")
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        f"the mirror ({tmp_path}/org/chat-1b does not exist)",
        "cached snapshot",
        "unset HF_HUB_OFFLINE",
        "copy the model folder to $FINERY_HUB_MIRROR/org/chat-1b",
    ):
        assert part in message


def test_no_network_is_one_sentence(hub: Hub) -> None:
    hub.answer = ConnectionError("Name or service not known")
    with pytest.raises(FineryError, match=r"MIRROR is not set.*Either check the network"):
        fetch("org/chat-1b")


def test_a_gated_model_says_where_to_agree(hub: Hub) -> None:
    hub.answer = refused(errors.GatedRepoError)
    with pytest.raises(FineryError, match=r"Accept the terms at https://huggingface\.co/org/chat"):
        fetch("org/chat-1b")


@pytest.mark.parametrize("kind", [errors.RepositoryNotFoundError, errors.RevisionNotFoundError])
def test_a_model_the_hub_does_not_have_is_said(hub: Hub, kind: type[errors.HfHubHTTPError]) -> None:
    hub.answer = refused(kind)
    with pytest.raises(FineryError, match="has no org/chat-1b at revision v9 that you may see"):
        fetch("org/chat-1b@v9")


@pytest.mark.parametrize("text", ["org/name", "org/name@main", "Qwen/Qwen2.5-0.5B", "a_b/c-d.e"])
def test_hub_ids_are_recognised(text: str) -> None:
    assert is_hub_id(text)


@pytest.mark.parametrize(
    "text", ["name", "a/b/c", "../x", "a/..", "a/b..c", "/a/b", "a/b@", "a b/c"]
)
def test_paths_and_others_are_no_hub_ids(text: str) -> None:
    assert not is_hub_id(text)
