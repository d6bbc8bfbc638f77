"""The short forms of what endpoints promise under load, deaths and odd requests.

The full ones: `python -m tests.chaos.endpoints`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest
from endpoints import main, secrets
from endpoints_deaths import killed_replicas, killed_service, marks
from endpoints_fuzz import document, fuzzed, fuzzed_service
from endpoints_load import _streamed, _whole
from endpoints_switches import blue_green, canaries, conversation, shares
from endpoints_world import Report, World, world

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def module_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("endpoints")) as found:
        yield found


@pytest.fixture
def there(module_world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The service of this module, which is the one that commands find."""
    monkeypatch.setenv("FINERY_HOME", str(module_world.server.home))
    return module_world


def test_traffic_goes_over_to_a_new_deployment_under_load_and_no_request_fails(
    there: World,
) -> None:
    assert not blue_green(there, full=False).faults


def test_requests_are_shared_as_the_traffic_says_and_a_mirror_answers_nobody(there: World) -> None:
    assert not shares(there, full=False).faults


def test_killed_replicas_cost_no_answer_that_had_not_begun(there: World) -> None:
    assert not killed_replicas(there, full=False).faults


def test_a_killed_service_cuts_no_stream(there: World) -> None:
    assert not killed_service(there, full=False).faults


def test_bad_canaries_are_rolled_back_and_a_good_one_is_not(there: World) -> None:
    assert not canaries(there, full=False).faults


def test_nothing_that_the_document_allows_or_forbids_is_a_fault_of_ours(there: World) -> None:
    report = fuzzed(there, full=False)
    assert not report.faults, report.faults[0]
    assert report.figures["operations"] == 9
    assert int(str(report.figures["cases"])) > 200


def test_no_odd_request_to_the_service_is_a_fault_of_ours(there: World) -> None:
    report = fuzzed_service(there, full=False)
    assert not report.faults, report.faults[0]
    every = sum(len(item) for item in document()["paths"].values())
    assert report.figures["operations"] == every > 80


def test_no_log_holds_a_key(there: World) -> None:
    report = secrets(there, full=False)
    assert not report.faults, report


def test_what_does_not_hold_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module_world: World
) -> None:
    monkeypatch.setattr("endpoints.world", lambda _: pytest.MonkeyPatch.context())
    for faults, status in (([], 0), (["3 requests: 500"], 1)):
        report = Report({"requests": 100}, list(faults))
        monkeypatch.setitem(
            sys.modules["endpoints"].PROOFS, "shares", lambda *_, made=report, **__: made
        )
        assert main(["--proofs", "shares"]) == status
        said = capsys.readouterr().out
        assert "requests: 100" in said
        assert (faults or ["everything holds"])[0] in said
    with pytest.raises(SystemExit):
        main(["--proofs", "sharse"])


@pytest.mark.parametrize(
    ("content", "is_whole", "is_clean"),
    [
        (b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: [DONE]\n\n', True, True),
        (b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', False, False),
        (b'data: {"choi', False, False),
        (b'data: {"error":{"message":"broke","type":"server_error"}}\n\n', False, True),
        (b'data: {"error":"broke"}\n\n', False, False),
    ],
)
def test_a_stream_counts_as_whole_with_its_end_alone(
    content: bytes, is_whole: bool, is_clean: bool
) -> None:
    _, fault, clean = _streamed(content)
    assert (not fault, clean) == (is_whole, is_clean)


@pytest.mark.parametrize(
    ("status", "content", "is_clean"),
    [
        (503, b'{"error":{"message":"later","type":"server_error"}}', True),
        (500, b'{"error":{"message":"oh","type":"server_error"}}', False),
        (503, b"Internal Server Error", False),
        (200, b"{}", False),
    ],
)
def test_a_failure_counts_as_clean_when_it_is_documented(
    status: int, content: bytes, is_clean: bool
) -> None:
    _, fault, clean = _whole(status, content)
    assert fault
    assert clean == is_clean


def test_a_request_begun_twice_is_seen_in_the_replicas_notes(tmp_path: Path) -> None:
    notes = tmp_path / "begun"
    asked = ("chat-1-0", "chat-1-1", "chat-1-0")
    notes.write_text("".join(f'"user\\nmark {mark}.<|im_end|>"\n' for mark in asked))
    assert marks(notes) == {"chat-1-0": 2, "chat-1-1": 1}


def test_a_conversation_is_found_that_has_to_move() -> None:
    few, most = {"blue": 90, "green": 10}, {"blue": 50, "green": 50}
    assert conversation("chat", few, most) != conversation("chat", {"blue": 100, "green": 0}, few)
