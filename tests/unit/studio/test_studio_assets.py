"""Models, data and runs beside each other."""

from __future__ import annotations

import itertools
import json
import re

import pytest
from fastapi.testclient import TestClient
from studio_store import put_data, put_model, put_run, sample, write_result

from finery.errors import FineryError
from finery.studio import compare, looks
from finery.workspace import assets
from finery.workspace.asset import Asset
from finery.workspace.place import Workspace


def chat(*turns: str) -> str:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    return json.dumps({"messages": messages}) + "\n"


def test_a_model_shows_its_files_its_origin_and_how_to_deploy_it(
    browser: TestClient, workspace: Workspace
) -> None:
    steps = put_run(workspace, "run")
    write_result(workspace, steps, [sample("q", "b", "t")])
    base = json.dumps({"source": "HuggingFaceTB/SmolLM2", "uri": "u"})
    recipe = json.dumps({"learning_rate": "0.0002"})
    data = json.dumps([{"input": "train", "uri": "azureml://data/chats/versions/1"}])
    put_model(workspace, "Ferry_bot", "run", base_model=base, recipe=recipe, data=data, job="run")
    assert 'href="/studio/models/Ferry_bot"' in browser.get("/studio/models").text
    text = browser.get("/studio/models/Ferry_bot").text
    for words in ("config.json", "2 B", "HuggingFaceTB/SmolLM2", "learning_rate", "4.377"):
        assert words in text
    assert "finery deploy Ferry_bot:1 --endpoint ferry-bot" in text
    assert 'href="/studio/jobs/run"' in text
    assert 'href="/studio/data/chats?version=1"' in text


def test_a_model_of_the_registry_is_shown_without_files(browser: TestClient) -> None:
    listing = browser.get("/studio/models?registry=azureml").text
    found = re.search(r'href="(/studio/models/[^"]+\?registry=azureml)"', listing)
    assert found is not None
    text = browser.get(found[1]).text
    assert "they are fetched when a job first uses it" in text
    assert "finery deploy" not in text
    assert browser.get("/studio/models?registry=elsewhere").status_code == 404


def test_a_model_whose_files_are_gone_says_so(browser: TestClient, workspace: Workspace) -> None:
    uri = "azureml://datastores/workspaceblobstore/paths/nowhere"
    assets.put(workspace, Asset("model", "", "lost", "1", "custom_model", uri))
    assert "not there any more" in browser.get("/studio/models/lost").text
    assert browser.get("/studio/models/lost?version=9").status_code == 404


def test_a_model_list_is_searched_by_name(browser: TestClient, workspace: Workspace) -> None:
    put_model(workspace, "alpha", "a")
    put_model(workspace, "beta", "b")
    text = browser.get("/studio/models?q=ALP").text
    assert ("/studio/models/alpha" in text, "/studio/models/beta" in text) == (True, False)


def test_rows_of_data_are_shown_a_few_at_a_time(browser: TestClient, workspace: Workspace) -> None:
    put_data(workspace, "chats", "rows.jsonl", "".join(chat(f"q{n}", f"a{n}") for n in range(45)))
    text = browser.get("/studio/data/chats").text
    assert ("q0<" in text, "q19<" in text, "q20<" in text) == (True, True, False)
    assert "at=20" in text
    text = browser.get("/studio/data/chats?file=rows.jsonl&at=40").text
    assert ("q39<" in text, "q40<" in text, "q44<" in text) == (False, True, True)
    assert "Rows after" not in text


def test_the_look_counts_lengths_roles_and_duplicates(
    browser: TestClient, workspace: Workspace
) -> None:
    rows = [chat("hi", "yo")] * 3 + [chat("hi", "yo", "again", "no")] + [chat("x" * 500, "y")]
    put_data(workspace, "chats", "rows.jsonl", "".join(rows))
    text = browser.get("/studio/data/chats/look").text
    assert "<dt>Conversations</dt><dd>5</dd>" in text
    assert "(user assistant)×2" in text
    assert '<dd class="bad-text">2</dd>' in text  # duplicates
    assert "<rect" in text


def test_a_look_is_made_once_for_a_content(
    browser: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_data(workspace, "chats", "rows.jsonl", chat("hi", "yo"))
    first = browser.get("/studio/data/chats/look").text
    monkeypatch.setattr(looks, "_look", lambda path: pytest.fail("read again"))
    assert browser.get("/studio/data/chats/look").text == first


def test_what_is_wrong_with_data_is_listed_with_its_place(
    browser: TestClient, workspace: Workspace
) -> None:
    put_data(workspace, "chats", "rows.jsonl", chat("hi", "yo") + "no json\n" + '{"a": 1}\n')
    look = browser.get("/studio/data/chats/look").text
    assert "2 problems" in look
    assert "rows.jsonl:2" in look
    page = browser.get("/studio/data/chats").text
    assert "rows.jsonl:2" in page
    for text in (look, page):
        assert str(workspace.folder) not in text  # no places on this machine


def test_a_file_too_large_for_a_page_is_not_read(
    browser: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_data(workspace, "chats", "rows.jsonl", chat("hi", "yo"))
    monkeypatch.setattr(looks, "LARGEST", 10)
    assert "finery data check" in browser.get("/studio/data/chats/look").text
    assert "hi" in browser.get("/studio/data/chats").text


def test_data_of_another_kind_has_a_page(browser: TestClient, workspace: Workspace) -> None:
    put_data(workspace, "picture", "cat.png", "not a conversation")
    assert "cat.png" in browser.get("/studio/data/picture").text
    assert "holds no conversations" in browser.get("/studio/data/picture/look").text
    assert browser.get("/studio/data/picture?file=../x").status_code == 404


def test_data_that_lies_nowhere_says_so(browser: TestClient, workspace: Workspace) -> None:
    uri = "azureml://datastores/workspaceblobstore/paths/nowhere"
    assets.put(workspace, Asset("data", "", "lost", "1", "uri_folder", uri))
    answer = browser.get("/studio/data/lost")
    assert answer.status_code == 200
    assert "removed since" in answer.text


@pytest.mark.parametrize(
    ("lengths", "bins"),
    [([], []), ([0], [(0, 1, 1)]), ([5, 5], None), (list(range(1000)), None), ([1, 10**6], None)],
)
def test_every_length_is_in_one_bar(
    lengths: list[int], bins: list[tuple[int, int, int]] | None
) -> None:
    found = looks.histogram(lengths)
    if bins is not None:
        assert found == bins
    assert sum(count for _, _, count in found) == len(lengths)
    assert len(found) <= looks.BINS
    for (_, high, _), (low, _, _) in itertools.pairwise(found):
        assert high == low
    if lengths:
        assert found[-1][1] >= max(lengths)


def test_a_look_refuses_in_one_sentence(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_data(workspace, "chats", "rows.jsonl", chat("hi", "yo"))
    monkeypatch.setattr(looks, "LARGEST", 1)
    (path,) = workspace.blobs.rglob("rows.jsonl")
    with pytest.raises(FineryError, match="a page does not read it whole"):
        looks.look(path)


def test_comparing_shows_what_differs_and_hides_what_does_not(
    browser: TestClient, workspace: Workspace
) -> None:
    put_run(workspace, "one", settings={"learning_rate": "0.1", "seed": "7"})
    put_run(workspace, "two", settings={"learning_rate": "0.2", "seed": "7", "extra": "yes"})
    text = browser.get("/studio/compare?run=one&run=two&run=gone&run=one").text
    head, rest = text.split("settings are the same in all of them")
    assert 'class="mono">learning_rate</span>' in head
    assert 'class="mono">extra</span>' in head
    assert 'class="mono">seed</span>' not in head
    assert "seed" in rest
    assert "1 of the chosen jobs is not there any more" in text
    assert text.count("<tr data-name=") == 2
    assert text.count("data-run=") == 2


def test_what_runs_share_is_not_called_a_difference(workspace: Workspace) -> None:
    from finery.jobs import listing

    put_run(workspace, "one", settings={"a": "1"})
    put_run(workspace, "two", settings={"a": "1"})
    found = compare.settings_of(listing.whole(workspace, ["one", "two"]))
    assert dict(found.differing) == {}
    assert found.shared["a"] == "1"
    assert found.shared["train_file_path"] == "chats/versions/1"


def test_a_hundred_runs_are_compared_and_no_more(browser: TestClient, workspace: Workspace) -> None:
    put_run(workspace, "one")
    names = "&".join(f"run=r{number}" for number in range(100))
    assert browser.get(f"/studio/compare?{names}").status_code == 200
    answer = browser.get(f"/studio/compare?{names}&run=one")
    assert (answer.status_code, "at most 100" in answer.text) == (400, True)


def test_comparing_nothing_offers_runs(browser: TestClient, workspace: Workspace) -> None:
    put_run(workspace, "one")
    text = browser.get("/studio/compare").text
    assert 'name="run" value="one"' in text
